"""What the shapes of a call decide, once for all calls of these shapes: checked, then chosen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoprec.kernels.interface import DTYPES, Call, Target, features
from autoprec.plan import arguments, outputs
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Asked, Decision, phase_of
from autoprec.plan.prepared import PreparedKV, given_kv, unguarded
from autoprec.plan.request import Request
from autoprec.probe.range import has_a_range
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
        workspace: fp32 elements that the kernels of ``decision`` and ``safe`` take for partial
            results: as many as the larger of the two.
        bound: Its launches, to be run again, by what calls must share for that; see
            ``execute.run_bound``.
        safe: What runs where fp16's range is too narrow; None where nothing is to.
        bound_safe: Its launches, likewise.
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
    bound_safe: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Deciding:
    """What decides calls. Threads may share it.

    Attributes:
        decider: Whose choices they are.
        target: ``(name, device)`` → what kernels must know of a tensor's device.
        consistent: Whether path and configuration must not depend on batch and lengths.
    """

    decider: Decider
    target: Callable[[str, torch.device], Target]
    _: KW_ONLY
    consistent: bool


class Resolver(Deciding):
    """Checks calls as far as their shapes go, and decides what runs."""

    def resolve(
        self,
        request: Request,
        q: Tensor,
        kv: Tensor | PreparedKV,
        v: Tensor | None,
        out: Tensor | None = None,
        no_baseline: str = "",
        *,
        guarded: bool = False,
    ) -> Resolved:
        """Check the arguments as far as shapes go, and decide what runs.

        Args:
            out: Where to write, for its type alone.
            no_baseline: Why no baseline may run, as a clause; "" where one may.
            guarded: Whether something must run where fp16's range is too narrow.

        Raises:
            AutoprecError: As ``Plan.attention`` does.
        """
        names, layout = request.names, request.layout
        arguments.check_layout(layout)
        request.check()
        request.refuse_accuracy()
        k, v, held = given_kv(request, kv, v)
        arguments.check_tensors(names, q, k, v)
        request.check_causal()
        out_dtype = outputs.output_dtype(request.out_dtype, out, q.dtype)
        arguments.check_batch_and_heads(names, layout, q, k, v)
        heads, tokens = layout.index("h"), layout.index("s")
        arguments.check_sizes(names, q, k, v, tokens)
        target = self.target(names[0], q.device)
        batch, q_heads, q_len, head_dim_v = (
            q.shape[0], q.shape[heads], q.shape[tokens], v.shape[-1],
        )  # fmt: skip
        kv_len = k.shape[tokens]
        diagonal = (0 if request.upper_left else kv_len - q_len) if request.causal else None
        decision = safe = window_left = None
        workspace = 0
        if 0 not in (batch, q_heads, q_len, kv_len, head_dim_v):
            workload = workload_of(request, q, k, v, out_dtype)
            no_baseline = no_baseline or _no_baseline(request, workload, diagonal)
            decision = self._decide(workload, target, held, no_baseline)
            if guarded and has_a_range(decision.path):
                if held is not None and held.planes is not None:
                    raise unguarded(held)
                safe = self.decider.decide_safe(workload, target, portable=True)
            window_left = None if workload.window is None else workload.window - 1
            views = (x.transpose(1, 2) if layout == "bshd" else x for x in (q, k, v))
            both = (decision,) if safe is None else (decision, safe)
            workspace = _elements(both, *views)
        return Resolved(
            decision=decision,
            workspace=workspace,
            out_shape=(*q.shape[:3], head_dim_v),
            out_dtype=out_dtype,
            lse_shape=(batch, q_heads, q_len),
            diagonal=diagonal,
            window_left=window_left,
            sm_scale=1.0 / math.sqrt(q.shape[-1]),
            safe=safe,
        )

    def _decide(
        self, workload: Workload, target: Target, held: PreparedKV | None, no_baseline: str
    ) -> Decision:
        """What runs: the kernel that planes were made for, or the plan's choice."""
        if held is not None and held.planes is not None:
            return held.decide(workload, target)
        if self.consistent:
            no_baseline = no_baseline or "has no consistent mode"
        asked = Asked(consistent=self.consistent)
        return self.decider.decide(workload, target, no_baseline=no_baseline, asked=asked)


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


def _no_baseline(request: Request, workload: Workload, diagonal: int | None) -> str:
    """Why no baseline may run, as a clause; "" where one may."""
    if request.return_lse:
        return "gives no LSE"
    if beyond := features(workload):
        return f"is not run with {' and '.join(beyond)}"
    if diagonal is not None and diagonal < 0:
        return "is undefined for queries that see no key"
    return ""


def _elements(decisions: Sequence[Decision], q: Tensor, k: Tensor, v: Tensor) -> int:
    """fp32 numbers that suffice each for its partial results on ``bhsd`` tensors."""
    call = Call(q=q, k=k, v=v, out=q, lse=None, diagonal=None, sm_scale=1.0)
    return max(it.kernel.workspace(call, it.path, it.config) for it in decisions)
