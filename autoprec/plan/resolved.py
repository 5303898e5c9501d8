"""What the shapes of a call decide, for all calls of these shapes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoprec.kernels.interface import DTYPES
from autoprec.plan.decision import Decision, phase_of
from autoprec.plan.request import Request
from autoprec.types import Mask, Phase, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Everything that the shapes of a call decide.

    Attributes:
        decision: What runs; None where there is nothing to compute.
        out_shape: In the layout of the call.
        lse_shape: ``[batch, q_heads, q_len]``.
        window_left: Keys before its own that a query sees; None: all.
        sm_scale: The default.
        workspace: fp32 elements that the kernel takes for partial results.
        bound: Its launches, to be run again, by what calls must share for that; see
            ``execute.run_bound``.
        safe: What runs where fp16's range is too narrow; None where nothing is to.
    """

    decision: Decision | None
    out_shape: tuple[int, ...]
    out_dtype: torch.dtype
    lse_shape: tuple[int, ...]
    diagonal: int | None
    window_left: int | None
    sm_scale: float
    workspace: int = 0
    bound: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    safe: Decision | None = None


def workload_of(
    request: Request, q: Tensor, k: Tensor, v: Tensor, out_dtype: torch.dtype
) -> Workload:
    """What a call is looked up as."""
    heads, tokens = request.layout.index("h"), request.layout.index("s")
    q_len, kv_len = q.shape[tokens], k.shape[tokens]
    masked = request.mask is not None
    phase = phase_of(q_len, kv_len, request.named)
    if masked:  # kernels of prompts alone read masks
        q_len = max(2, q_len)
        phase = phase_of(q_len, kv_len, Phase.APPEND)
    return Workload(
        phase=phase,
        batch=q.shape[0],
        q_len=q_len,
        # queries beyond the keys see what a prefill of as many tokens sees, or less
        kv_len=q_len if phase is Phase.PREFILL else kv_len,
        q_heads=q.shape[heads],
        kv_heads=k.shape[heads],
        head_dim=q.shape[-1],
        head_dim_v=v.shape[-1],
        mask=Mask.CAUSAL if request.causal and not masked else Mask.FULL,
        # a window that reaches over all keys is none
        window=request.window if request.window is not None and request.window < kv_len else None,
        soft_cap=request.soft_cap,
        sinks=request.sinks is not None,
        custom_mask=masked,
        input_dtype=DTYPES[q.dtype],
        out_dtype=DTYPES[out_dtype],
    )
