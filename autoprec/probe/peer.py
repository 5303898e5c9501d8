"""What the rows of other libraries have in common."""

from collections.abc import Callable, Sequence

import torch

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call
from autoprec.probe.baselines import Baseline, prepare
from autoprec.types import Config, Dtype, Layout, Phase, Workload

_ALL_PHASES = (Phase.PREFILL, Phase.APPEND, Phase.DECODE)


def row(
    *,
    name: str,
    library: str,
    bind: Callable[[Call, str], Callable[[], torch.Tensor]],
    refuses: Callable[[Workload], list[str]],
    input_dtypes: tuple[Dtype, ...] = (Dtype.BF16, Dtype.FP16),
    phases: tuple[Phase, ...] = _ALL_PHASES,
    layouts: tuple[Layout, ...] = (Layout.CONTIGUOUS,),
) -> Baseline:
    """A library's row of the table of baselines; its one path has its name.

    Args:
        name: What reports call it.
        library: Its distribution, as it is installed.
        bind: As in ``Baseline``; imports the library.
        refuses: What else it does not take.
        input_dtypes: Types of q, k and v that it takes.
        phases: That it serves.
        layouts: How K and V may lie in what it is given here.
    """

    def refusals(it: Workload) -> list[str]:
        reasons = []
        if it.phase not in phases:
            reasons.append(f"{name} serves {', '.join(phases)}, not {it.phase}")
        if it.input_dtype not in input_dtypes:
            reasons.append(f"{name} takes {' or '.join(input_dtypes)}, not {it.input_dtype}")
        if it.layout not in layouts:
            reasons.append(f"{name} is called here with {', '.join(layouts)} K and V, "
                           f"not {it.layout}")  # fmt: skip
        if it.window is not None or it.soft_cap is not None or it.sinks:
            reasons.append(f"{name} is called here without a window, a soft cap and sinks")
        return reasons + refuses(it)

    def run(call: Call, path: str, config: Config) -> None:
        if call.lse is not None:
            raise UnsupportedError(
                f"{path} gives no LSE here.", "return_lse=False, or a plan without baselines"
            )
        call.out.copy_(prepare(call, path, made)[1])

    made = Baseline(
        name=name,
        library=library,
        device="any",
        paths=(name,),
        phases=phases,
        input_dtypes=input_dtypes,
        max_head_dim=1 << 30,  # refuses says where its limits are
        converts=lambda path, dtype: False,
        configs=lambda path, workload, target: ({},),
        run=run,
        bind=bind,
        refuses=refusals,
    )
    return made


def causal(call: Call, path: str) -> bool:
    """Whether a call's mask is causal, aligned bottom-right, and not full.

    Raises:
        UnsupportedError: It is neither.
    """
    if call.requests is not None and call.diagonal in (None, 0):
        return call.diagonal == 0
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    if call.diagonal is None or call.diagonal >= kv_len - 1:
        return False
    if call.diagonal != kv_len - q_len:
        raise UnsupportedError(f"{path} has no mask with the diagonal {call.diagonal}.")
    return True


def by_token(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
    """Tensors ``[batch, heads, tokens, …]`` as ``[batch, tokens, heads, …]``, contiguous.

    That is how these libraries' users hold them, so it is done beforehand.
    """
    return [tensor.transpose(1, 2).contiguous() for tensor in tensors]


def by_head(out: torch.Tensor, call: Call) -> torch.Tensor:
    """An output ``[batch, tokens, heads, …]`` as the call's, in its type."""
    return out.transpose(1, 2).to(call.out.dtype)
