"""A call from its arguments to the kernel: checked and decided once for a shape, then run."""

import math
import warnings

import torch
from torch import Tensor

from autoprec.errors import AutoprecWarning, InputError, UnsupportedError
from autoprec.kernels.interface import Call, features
from autoprec.paths import PATHS
from autoprec.plan import arguments, outputs
from autoprec.plan.cached import CacheRunner
from autoprec.plan.current import current
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Asked, Decision
from autoprec.plan.execute import execute
from autoprec.plan.guard import Guard, Mode
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.prepared import PreparedKV, given_kv, unguarded
from autoprec.plan.request import Request
from autoprec.plan.resolved import Resolved, workload_of
from autoprec.plan.stats import Counts
from autoprec.plan.targets import Targets
from autoprec.plan.workspaces import Workspaces, given
from autoprec.probe.range import has_a_range
from autoprec.types import Workload

# A decode whose cache grows asks for a new shape at every step: old ones are forgotten.
_MAX_RESOLVED = 4096

GUARD_EVERY = 100
"""Calls of which the guard ``sample`` checks one, unless told otherwise."""

_LOG2_E = 1.4426950408889634

Result = Tensor | tuple[Tensor, Tensor]


class Runner:
    """Runs calls with the choices of a decider. Threads may share it.

    Args:
        decider: Whose choices they are.
        device: The device it is for; tensors may lie on others that are the same.
        consistent: Whether path and configuration must not depend on batch and lengths.
    """

    def __init__(self, decider: Decider, device: torch.device, *, consistent: bool = False) -> None:
        """Know no shape yet."""
        self.counts = Counts()
        self.guard = Mode.OFF
        self.guard_every = GUARD_EVERY
        self._guard = Guard(self.counts)
        self.target = Targets(decider.profile, device)
        self.cached = CacheRunner(
            decider, self.target, self.counts, lambda: self.guard, consistent=consistent
        )
        self.consistent = consistent
        self.decider = decider
        self._resolved: dict[object, Resolved] = {}
        self._said: set[str] = set()
        self._workspaces = Workspaces()

    def attend(
        self,
        request: Request,
        q: Tensor,
        kv: Tensor | PreparedKV | KVCache,
        v: Tensor | None,
        sm_scale: float | None = None,
        out: Tensor | None = None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Result:
        """Check, decide and run; the arguments are those of ``Plan.attention``."""
        if isinstance(kv, KVCache):
            if v is not None:
                raise InputError("v is given, but the KVCache in place of k has its own values.",
                                 "leave v out")  # fmt: skip
            return self.cached.attend(request, q, kv, sm_scale, out, lse_out, workspace)
        k, v, held = given_kv(request, kv, v)
        try:
            key = (
                request.key, q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype,
                q.layout, k.layout, v.layout,
                q.device, k.device, v.device, None if out is None else out.dtype,
                None if held is None else held.key, self.guard,
            )  # fmt: skip
            resolved = self._resolved.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensors, or no plain ones
            resolved = key = None
        if resolved is None:
            resolved = self.resolve(request, q, kv, v if held is None else None, out)
            self._keep(key, resolved)
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            arguments.check_gradients(request.names, q, k, v)
        scale = resolved.sm_scale
        if sm_scale is not None:
            scale = arguments.scale(sm_scale, "scale" if request.upper_left else "sm_scale")
        read: tuple[Tensor, ...] = (q, k, v)
        if request.sinks is not None or request.mask is not None:
            shape = (*resolved.lse_shape, k.shape[request.layout.index("s")])
            request = request.fitting(shape, q.device)
            read += request.tensors
        if out is None:
            out = torch.empty(resolved.out_shape, dtype=resolved.out_dtype, device=q.device)
        else:
            outputs.check_out(out, resolved.out_shape, *read)
        lse = lse_out
        if lse is not None:
            outputs.check_lse_out(lse, resolved.lse_shape, out, *read)
        elif request.return_lse:
            lse = torch.empty(resolved.lse_shape, dtype=torch.float32, device=q.device)
        views = (q, k, v, out)
        if request.layout == "bshd":
            views = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), out.transpose(1, 2))
        try:
            self._launch(resolved, *views, lse, scale, held, workspace, request)
        except UnsupportedError as error:
            if resolved.decision is None or resolved.decision.path in PATHS:
                raise
            resolved = self.resolve(request, q, k, v, out, error.sentence.removesuffix("."))
            self._keep(key, resolved)
            self._launch(resolved, *views, lse, scale, held, workspace, request)
        return out if lse is None else (out, lse)

    def resolve(
        self,
        request: Request,
        q: Tensor,
        kv: Tensor | PreparedKV,
        v: Tensor | None,
        out: Tensor | None = None,
        no_baseline: str = "",
    ) -> Resolved:
        """Check the arguments as far as shapes go, and decide what runs.

        Args:
            out: Where to write, for its type alone.
            no_baseline: Why no baseline may run, as a clause; "" where one may.

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
        decision = safe = None
        if 0 not in (batch, q_heads, q_len, kv_len, head_dim_v):
            workload = workload_of(request, q, k, v, out_dtype)
            if request.return_lse:
                no_baseline = no_baseline or "gives no LSE"
            elif beyond := features(workload):
                no_baseline = no_baseline or f"is not run with {' and '.join(beyond)}"
            elif diagonal is not None and diagonal < 0:
                no_baseline = no_baseline or "is undefined for queries that see no key"
            if held is not None and held.planes is not None:
                decision = held.decide(workload, target)
            else:
                if self.consistent:
                    no_baseline = no_baseline or "has no consistent mode"
                decision = self.decider.decide(
                    workload, target, no_baseline=no_baseline,
                    asked=Asked(consistent=self.consistent),
                )  # fmt: skip
            if self.guard is Mode.ALWAYS and has_a_range(decision.path):
                if held is not None and held.planes is not None:
                    raise unguarded(held)
                safe = self.decider.decide_safe(workload, target, portable=True)
        workspace = 0
        if decision is not None:
            views = (x.transpose(1, 2) if layout == "bshd" else x for x in (q, k, v))
            workspace = _elements(decision, *views)
        return Resolved(
            decision=decision,
            workspace=workspace,
            out_shape=(*q.shape[:3], head_dim_v),
            out_dtype=out_dtype,
            lse_shape=(batch, q_heads, q_len),
            diagonal=diagonal,
            window_left=None if decision is None else _window_left(decision.workload),
            sm_scale=1.0 / math.sqrt(q.shape[-1]),
            safe=safe,
        )

    def _launch(
        self,
        resolved: Resolved,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor | None,
        sm_scale: float,
        held: PreparedKV | None,
        workspace: Tensor | None,
        request: Request,
    ) -> None:
        """Write out and lse, on the current stream of their device; tensors are ``bhsd``."""
        decision = resolved.decision
        if decision is None:  # no query, or none that has a key
            out.zero_()
            if lse is not None and request.sinks is not None:
                lse.copy_(request.sinks[:, None] * _LOG2_E)
            elif lse is not None:
                lse.fill_(float("-inf"))
            return
        space = None
        if workspace is not None:
            written = (out,) if lse is None else (out, lse)
            used = (q, k, v, *written, *request.tensors)
            space = given(workspace, resolved.workspace, used)
        elif resolved.workspace:
            space = self._workspaces.take(q.device, resolved.workspace)
        lost = None
        if resolved.safe is None and decision.counts_range:
            lost = self.counts.lost(q.device)
        call = Call(
            q=q, k=k, v=v, out=out, lse=lse, diagonal=resolved.diagonal, sm_scale=sm_scale,
            window_left=resolved.window_left, soft_cap=request.soft_cap, sinks=request.sinks,
            mask=request.mask, prepared=None if held is None else held.planes, workspace=space,
            lost=lost,
        )  # fmt: skip
        if resolved.safe is not None:
            with current(q):
                self._guard.run(call, decision, resolved.safe)
            before = self.counts.called(decision.path)
        else:
            # masks differ in size and strides from call to call
            bound = resolved.bound if request.mask is None else None
            before = execute(decision, call, self.counts, bound)
        # what was prepared may be all that is left of k and v
        if self.guard is Mode.SAMPLE and before % self.guard_every == 0 and not call.prepared:
            with current(q):
                self._guard.check(call, decision.path, before // self.guard_every)

    def _keep(self, key: object, resolved: Resolved) -> None:
        """Remember what a shape runs, and warn, once, where that is not what was chosen."""
        if len(self._resolved) >= _MAX_RESOLVED:
            self._resolved.clear()
        self._resolved[key] = resolved
        sentence = resolved.decision.substituted if resolved.decision else ""
        if sentence and sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(f"{sentence}.", AutoprecWarning, stacklevel=4)


def _window_left(workload: Workload) -> int | None:
    return None if workload.window is None else workload.window - 1


def _elements(decision: Decision, q: Tensor, k: Tensor, v: Tensor) -> int:
    """fp32 numbers that a kernel takes for partial results on ``bhsd`` tensors."""
    call = Call(q=q, k=k, v=v, out=q, lse=None, diagonal=None, sm_scale=1.0)
    return decision.kernel.workspace(call, decision.path, decision.config)
