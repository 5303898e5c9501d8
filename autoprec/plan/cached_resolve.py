"""From a request on a KVCache to what runs: checked and decided once for its shape."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import DTYPES
from autoprec.plan import arguments
from autoprec.plan.decision import Decision, phase_of
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.request import Request
from autoprec.plan.resolve import Deciding
from autoprec.plan.storage import NO_BASELINE, asked_of
from autoprec.probe.range import has_a_range
from autoprec.types import Mask, Phase, Storage, Workload

_MAX_DECIDED = 4096  # a cache that grows has a new length every so often


@dataclass(frozen=True, eq=False)
class CacheResolver(Deciding):
    """Decides calls on caches, each shape of them once."""

    _decided: dict[object, Decision] = field(default_factory=dict, init=False)

    def decide(
        self,
        request: Request,
        q: Tensor,
        cache: KVCache,
        out_dtype: torch.dtype,
        *,
        guarded: bool,
    ) -> Decision:
        """What runs for queries ``[batch, q_heads, q_len, head_dim]`` that fit a cache.

        Args:
            guarded: Whether no path may run that has fp16's range.

        Raises:
            AutoprecError: As ``Plan.attention`` does.
        """
        phase, kv_len = _phase(request, q.shape[2], cache)
        if guarded:
            _check_guarded(q, cache)
        key = (
            phase, kv_len, request.key, q.shape, q.dtype, out_dtype,
            q.device, cache.storage, cache.page_size, cache.k.shape[1], cache.v.shape[3],
            cache.capacity, cache.known, guarded,
        )  # fmt: skip
        decision = self._decided.get(key)
        if decision is None:
            workload = _workload(phase, kv_len, request, q, cache, out_dtype)
            asked = asked_of(
                cache.storage, request.accuracy, consistent=self.consistent, known=cache.known
            )
            target = self.target("q", q.device)
            decision = self.decider.decide(workload, target, no_baseline=NO_BASELINE, asked=asked)
            if guarded and has_a_range(decision.path):
                decision = self.decider.decide_safe(workload, target, asked=asked)
            if len(self._decided) >= _MAX_DECIDED:
                self._decided.clear()
            self._decided[key] = decision
        return decision


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


def _workload(
    phase: Phase,
    kv_len: int,
    request: Request,
    q: Tensor,
    cache: KVCache,
    out_dtype: torch.dtype,
) -> Workload:
    window = request.window
    if window is not None and window >= cache.capacity:  # it reaches over all keys there can be
        window = None
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
        window=window,
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
