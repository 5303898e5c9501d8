"""Calls on a KVCache: checked and decided once for a shape, then run on lengths that may change."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from autoprec.errors import AutoprecWarning, InputError
from autoprec.kernels.interface import DTYPES, Call, Target
from autoprec.plan import arguments, checked, outputs
from autoprec.plan.current import current
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Decision, phase_of
from autoprec.plan.guard import Mode, told_of_caches
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.request import Request
from autoprec.plan.stats import Counts
from autoprec.plan.storage import NO_BASELINE, asked_of
from autoprec.plan.workspaces import given
from autoprec.probe.range import has_a_range
from autoprec.types import Mask, Phase, Storage, Workload

_MAX_DECIDED = 4096


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
        self._decider = decider
        self._target = target
        self._counts = counts
        self._guard = guard
        self._warned = False
        self._consistent = consistent
        self._decided: dict[object, Decision] = {}

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
        decision = self.decide(request, queries, cache, out_dtype)
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
        return self.decide(request, queries, cache, out_dtype)

    def decide(
        self,
        request: Request,
        q: Tensor,
        cache: KVCache,
        out_dtype: torch.dtype,
    ) -> Decision:
        """What runs for queries ``[batch, q_heads, q_len, head_dim]`` that fit a cache.

        Raises:
            AutoprecError: As ``Plan.attention`` does.
        """
        phase, kv_len = _phase(request, q.shape[2], cache)
        always = self._guard() is Mode.ALWAYS
        if always:
            _check_guarded(q, cache)
        key = (
            phase, kv_len, request.key, q.shape, q.dtype, out_dtype,
            q.device, cache.storage, cache.page_size, cache.k.shape[1], cache.v.shape[3],
            always,
        )  # fmt: skip
        decision = self._decided.get(key)
        if decision is None:
            workload = _workload(phase, kv_len, request, q, cache, out_dtype)
            asked = asked_of(cache.storage, request.accuracy, consistent=self._consistent)
            target = self._target("q", q.device)
            decision = self._decider.decide(workload, target, no_baseline=NO_BASELINE, asked=asked)
            if always and has_a_range(decision.path):
                decision = self._decider.decide_safe(workload, target, asked=asked)
            if len(self._decided) >= _MAX_DECIDED:
                self._decided.clear()
            self._decided[key] = decision
        return decision

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
        call = Call(
            q=q, k=cache.k, v=cache.v, out=out, lse=lse,
            diagonal=0 if request.causal else None, sm_scale=sm_scale, requests=requests,
            window_left=None if request.window is None else request.window - 1,
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
        written = [x for x in (call.out, call.lse, call.sinks) if x is not None]
        return given(buffer, needed, [call.q, *cache.tensors, *written])
    key = (id(decision), call.q.shape[2])
    if key not in cache.sized:
        longest = replace(call, requests=replace(call.requests, max_kv_len=cache.capacity))
        needed = decision.kernel.workspace(longest, decision.path, decision.config)
        cache.make_room(needed)
        cache.sized[key] = decision  # so that its id stays its own
    return cache.workspace


def _workload(
    phase: Phase,
    kv_len: int,
    request: Request,
    q: Tensor,
    cache: KVCache,
    out_dtype: torch.dtype,
) -> Workload:
    return Workload(
        phase=phase,
        batch=q.shape[0],
        q_len=q.shape[2],
        kv_len=kv_len,
        q_heads=q.shape[1],
        kv_heads=cache.k.shape[1],
        head_dim=q.shape[3],
        head_dim_v=cache.v.shape[3],
        mask=Mask.CAUSAL if request.causal else Mask.FULL,
        window=request.window,
        soft_cap=request.soft_cap,
        sinks=request.sinks is not None,
        layout=cache.layout,
        page_size=cache.page_size,
        input_dtype=DTYPES[q.dtype],
        out_dtype=DTYPES[out_dtype],
    )


def _phase(request: Request, q_len: int, cache: KVCache) -> tuple[Phase, int]:
    """The phase of a call, and the length it is looked up with: one for many."""
    phase = phase_of(q_len, cache.bound, request.named)
    if phase is Phase.PREFILL:
        return phase, q_len
    rounded = 1 << max(cache.bound - 1, 0).bit_length()
    return phase, max(rounded, q_len + 1 if phase is Phase.APPEND else 1)


def _check_guarded(q: Tensor, cache: KVCache) -> None:
    """Refuse a cache whose tokens have been brought into fp16's range.

    Raises:
        InputError: They have.
    """
    if cache.storage is Storage.PLANES or (cache.storage, q.dtype == torch.float16) == (
        Storage.FP16, False,
    ):  # fmt: skip
        raise InputError(
            f"the cache holds {cache.storage}, and what fp16's range has cost its tokens cannot be "
            "computed again, as plan.guard asks for.",
            "plan.new_kv_cache again, which now takes a storage with fp32's range",
        )


def check(request: Request, q: object, cache: KVCache) -> Tensor:
    """Refuse queries that do not fit the cache; the queries as ``bhsd``.

    Raises:
        InputError: The sentence names the argument.
    """
    arguments.check_layout(request.layout)
    arguments.check_tensors(("q", "q", "q"), q, q, q)
    assert isinstance(q, Tensor)
    request.check_causal()
    request.check()
    request.refuse_mask()
    if q.ndim != 4:
        raise InputError(f"q {tuple(q.shape)} must have four dimensions, "
                         f"{arguments.LAYOUTS[request.layout]}.")  # fmt: skip
    if request.layout == "bshd":
        q = q.transpose(1, 2)
    batch, q_heads, _, head_dim = q.shape
    if (batch, head_dim) != (cache.batch, cache.k.shape[3]):
        raise InputError(
            f"q has {batch} requests of head dim {head_dim}, "
            f"the cache {cache.batch} of {cache.k.shape[3]}."
        )
    if q_heads % cache.k.shape[1]:
        raise InputError(f"q has {q_heads} heads, no multiple of the {cache.k.shape[1]} "
                         "of the cache.")  # fmt: skip
    if q.device != cache.k.device:
        raise InputError(f"q is on {q.device}, the cache is on {cache.k.device}.")
    request.check_sinks(q_heads, q.device)
    return q
