"""Calls on a KVCache: checked and decided once for a shape, then run on lengths that may change."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from autoprec.errors import AutoprecWarning
from autoprec.kernels.interface import Call, Target
from autoprec.plan import arguments, checked, outputs
from autoprec.plan.cached_resolve import CacheResolver, check
from autoprec.plan.current import current
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Decision
from autoprec.plan.guard import Mode, told_of_caches
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.request import Request
from autoprec.plan.stats import Counts
from autoprec.plan.workspaces import given

_MAX_SIZED = 4096  # prompts may come in chunks of any length


class CacheRunner:
    """Runs calls on caches with the choices of a decider. Threads may share it, but not a cache.

    Args:
        decider: Whose choices they are.
        target: ``(name, device)`` → what kernels must know of a tensor's device.
        counts: Where calls are counted.
        guard: What the plan does about inputs that nobody has measured.
        consistent: Whether path and configuration must not depend on batch and lengths.
    """

    def __init__(
        self,
        decider: Decider,
        target: Callable[[str, torch.device], Target],
        counts: Counts,
        guard: Callable[[], Mode],
        *,
        consistent: bool,
    ) -> None:
        """Know no shape yet."""
        self._resolver = CacheResolver(decider, target, consistent=consistent)
        self._counts = counts
        self._guard = guard
        self._warned = False

    def attend(
        self,
        request: Request,
        q: Tensor,
        cache: KVCache,
        sm_scale: float | None,
        out: Tensor | None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Check, decide and run; the arguments are those of ``Plan.attention``."""
        queries = check(request, q, cache)
        arguments.check_gradient("q", q)
        out_dtype = outputs.output_dtype(request.out_dtype, out, q.dtype)
        decision = self._decide(request, queries, cache, out_dtype)
        if self._guard() is Mode.SAMPLE and not self._warned:
            self._warned = True
            warnings.warn(f"{told_of_caches(Mode.SAMPLE)}.", AutoprecWarning, stacklevel=4)
        shape = (*q.shape[:3], cache.v.shape[3])
        if out is None:
            out = torch.empty(shape, dtype=out_dtype, device=q.device)
        else:
            outputs.check_out(out, shape, q, *cache.tensors, *request.tensors)
        lse = lse_out
        if lse is not None:
            outputs.check_lse_out(lse, queries.shape[:3], out, q, *cache.tensors, *request.tensors)
        elif request.return_lse:
            lse = torch.empty(queries.shape[:3], dtype=torch.float32, device=q.device)
        written = out.transpose(1, 2) if request.layout == "bshd" else out
        scale = 1.0 / math.sqrt(q.shape[3]) if sm_scale is None else arguments.scale(sm_scale)
        if queries.numel() and written.numel():
            self._run(decision, request, queries, cache, written, lse, scale, workspace)
        return out if lse is None else (out, lse)

    def decision(self, request: Request, q: Tensor, cache: KVCache) -> Decision:
        """What would run; nothing runs."""
        queries = check(request, q, cache)
        out_dtype = outputs.output_dtype(request.out_dtype, None, q.dtype)
        return self._decide(request, queries, cache, out_dtype)

    def _decide(
        self, request: Request, queries: Tensor, cache: KVCache, out_dtype: torch.dtype
    ) -> Decision:
        guarded = self._guard() is Mode.ALWAYS
        return self._resolver.decide(request, queries, cache, out_dtype, guarded=guarded)

    def _run(
        self,
        decision: Decision,
        request: Request,
        q: Tensor,
        cache: KVCache,
        out: Tensor,
        lse: Tensor | None,
        sm_scale: float,
        workspace: Tensor | None,
    ) -> None:
        """Write out and lse, all as ``bhsd``, on the current stream of q's device."""
        requests = cache.requests(q.shape[2])
        if checked.enabled():
            checked.check_requests(requests, cache.k)
        window = decision.workload.window
        call = Call(
            q=q, k=cache.k, v=cache.v, out=out, lse=lse,
            diagonal=0 if request.causal else None, sm_scale=sm_scale, requests=requests,
            window_left=None if window is None else window - 1,
            soft_cap=request.soft_cap, sinks=request.sinks, halves=cache.halves,
            lost=self._counts.lost(q.device) if decision.counts_range else None,
            workspace=cache.workspace,
        )  # fmt: skip
        with current(q):
            space = _workspace(decision, call, cache, workspace)
            if space is not call.workspace:
                call = replace(call, workspace=space)
            decision.kernel.run(call, decision.path, decision.config)
        self._counts.called(decision.path)


def _workspace(
    decision: Decision, call: Call, cache: KVCache, buffer: Tensor | None
) -> Tensor | None:
    """The caller's memory of partial results, or the cache's, for requests at capacity."""
    assert call.requests is not None
    if buffer is not None:
        needed = decision.kernel.workspace(call, decision.path, decision.config)
        rest = [x for x in (call.lse, call.sinks) if x is not None]
        return given(buffer, needed, [call.q, call.out, *cache.tensors, *rest])
    # of a kernel's workspace nothing is asked but by shapes, of which a cache fixes the others
    key = (
        decision.kernel.name, decision.path, tuple(decision.config.items()), call.q.shape[1:3]
    )  # fmt: skip
    if key not in cache.sized:
        longest = replace(call, requests=replace(call.requests, max_kv_len=cache.capacity))
        needed = decision.kernel.workspace(longest, decision.path, decision.config)
        cache.make_room(needed)
        if len(cache.sized) >= _MAX_SIZED:
            cache.sized.clear()
        cache.sized.add(key)
    return cache.workspace
