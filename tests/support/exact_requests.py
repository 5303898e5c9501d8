"""A kernel that computes, in fp64 and one request at a time, whatever a call may ask for."""

from autoprec.kernels.interface import Call, Feature, Kernel
from autoprec.kernels.reference import of_call, singles
from autoprec.paths import PATHS
from autoprec.types import Config, Layout, Phase


def run(call: Call, path: str, config: Config) -> None:
    """Write out and lse of every request."""
    for single in singles(call):
        if not single.q.shape[2]:
            continue
        out, lse = of_call(single)
        single.out.copy_(out)
        if single.lse is not None:
            single.lse.copy_(lse)


KERNEL = Kernel(
    name="exact",
    device="cpu",
    paths=tuple(PATHS),
    phases=tuple(Phase),
    converts=lambda path, dtype: False,
    configs=lambda path, workload, target: ({"block": 64},),
    run=run,
    layouts=tuple(Layout),
    features=frozenset(Feature),
)
