"""A call from its request to the kernel: resolved once for its shapes, then run."""

import warnings

import torch
from torch import Tensor

from autoprec.errors import AutoprecWarning, InputError, UnsupportedError
from autoprec.kernels.interface import Call
from autoprec.paths import PATHS
from autoprec.plan import arguments, outputs
from autoprec.plan.cached import CacheRunner
from autoprec.plan.current import current
from autoprec.plan.decide import Decider
from autoprec.plan.execute import execute
from autoprec.plan.guard import Guard, Mode
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.prepared import PreparedKV, given_kv
from autoprec.plan.request import Request
from autoprec.plan.resolve import Resolved, Resolver
from autoprec.plan.stats import Counts
from autoprec.plan.targets import Targets
from autoprec.plan.workspaces import Workspaces, given

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
        self._resolver = Resolver(decider, self.target, consistent=consistent)
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
        """See ``Resolver.resolve``."""
        guarded = self.guard is Mode.ALWAYS
        return self._resolver.resolve(request, q, kv, v, out, no_baseline, guarded=guarded)

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
        # masks differ in size and strides from call to call
        bound = resolved.bound if request.mask is None else None
        if resolved.safe is not None:
            both = bound, None if bound is None else resolved.bound_safe
            with current(q):
                self._guard.run(call, decision, resolved.safe, both)
            before = self.counts.called(decision.path)
        else:
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
