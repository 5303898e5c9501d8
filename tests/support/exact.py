"""For tests of plans: a kernel that computes exactly and records its calls, and a profile of it."""

import math
from dataclasses import dataclass, field
from typing import Any

import made_up
import torch
from torch import Tensor

from autoprec.kernels.interface import Call, Feature, Kernel
from autoprec.kernels.reference import of_call
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Measurement, Phase, Profile


@dataclass
class Recorder:
    """What kernels were handed, in order."""

    calls: list[Call] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    configs: list[Config] = field(default_factory=list)

    def kernel(self, name: str, **changes: Any) -> Kernel:
        """A kernel that computes in fp64 and rounds once."""

        def run(call: Call, path: str, config: Config) -> None:
            self.calls.append(call)
            self.kernels.append(name)
            self.paths.append(path)
            self.configs.append(config)
            out, lse = of_call(call)
            call.out.copy_(out)
            if call.lse is not None:
                call.lse.copy_(lse)

        defaults: dict[str, Any] = {
            "name": name,
            "device": "cpu",
            "paths": tuple(PATHS),
            "phases": tuple(Phase),
            "converts": lambda path, dtype: False,
            "configs": lambda path, workload, target: ({"block": 16}, {"block": 64}),
            "run": run,
            "features": frozenset(Feature),
        }
        return Kernel(**defaults | changes)


def rows(**changes: Any) -> list[Measurement]:
    """Prefill and decode in every type: fp32 slow and accurate, bf16 fast.

    The kernel is ``exact`` and its configuration ``{"block": 64}``, unless changed.
    """
    table = [
        made_up.workload(phase=phase, kv_len=1024, head_dim=64, input_dtype=dtype)
        for phase in (Phase.PREFILL, Phase.DECODE)
        for dtype in Dtype
    ]
    shared = {"kernel": "exact", "config": {"block": 64}} | changes
    return [
        made_up.measurement(path, p50_ms, rel_l2, workload=workload, **shared)
        for workload in table
        for path, p50_ms, rel_l2 in (("fp32", 1.0, 5e-7), ("bf16", 0.5, 3e-3))
    ]


def cpu_profile(measurements: list[Measurement] | None = None, **changes: Any) -> Profile:
    """A profile of a CPU, of ``rows()`` by default."""
    device = made_up.device(kind="cpu", name="A CPU", capability="x86_64", units=2)
    changes.setdefault("environment", made_up.environment(device=device, triton=None))
    return made_up.profile(rows() if measurements is None else measurements, **changes)


# The kernel behind these plans computes in fp64 and rounds once, and so does what it is compared
# with: they differ where a value lies by a rounding boundary, so by one unit of the last place.
ULP = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def inputs(
    batch: int = 2, heads: int = 4, kv_heads: int = 2, q_len: int = 5, kv_len: int = 7,
    dim: int = 8, dim_v: int = 8, dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, dim_v))
    q, k, v = (torch.randn(batch, *shape, generator=generator).to(dtype) for shape in shapes)
    return q, k, v


def naive(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, sm_scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """fp64 attention with the whole matrix of logits, causal aligned bottom-right; LSE in log2."""
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.transpose(2, 3) * (1 / math.sqrt(q.shape[3]) if sm_scale is None else sm_scale)
    if causal:
        i = torch.arange(q.shape[2], device=q.device)[:, None]
        j = torch.arange(k.shape[2], device=q.device)[None]
        s = s.masked_fill(j > i + k.shape[2] - q.shape[2], float("-inf"))
    lse = torch.logsumexp(s, 3)
    p = torch.exp(s - lse[..., None]).nan_to_num(0.0)  # -inf - -inf where no key is seen
    return p @ v, lse / math.log(2)


def close(got: Tensor, expected: Tensor) -> None:
    ulp = ULP[got.dtype]
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=ulp, atol=ulp / 64)
