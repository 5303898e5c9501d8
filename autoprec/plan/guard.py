"""Run-time guards: calls that fp16's range has hurt, computed again; and calls checked as they run.

Neither waits for the device. ``always`` has the device decide, call by call; ``sample`` compares a
few rows of every n-th call with exact attention and keeps the worst.
"""

import threading
from dataclasses import replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import Call, run_launches
from autoprec.kernels.reference import attention
from autoprec.paths import PATHS
from autoprec.plan.decision import Decision
from autoprec.plan.execute import run
from autoprec.plan.stats import Counts

Bounds = tuple[dict[object, Any] | None, dict[object, Any] | None]

_ROWS = 16  # of a sampled call, at most, in all query heads of one KV head
_BLOCK = 1 << 14  # keys of exact attention at a time


class Mode(StrEnum):
    """What is done about calls whose inputs nobody has measured."""

    OFF = "off"  # nothing
    SAMPLE = "sample"  # every n-th call is compared with exact attention, on a few rows
    ALWAYS = "always"  # what has lost to fp16's range is computed again by a path with fp32's

    @classmethod
    def of(cls, text: object) -> "Mode":
        """The mode of a name.

        Raises:
            InputError: There is none.
        """
        if text not in list(cls):
            raise InputError(f"guard must be one of {', '.join(cls)}, got {text!r}.")
        return cls(str(text))


class Guard:
    """Runs guarded calls. Threads may share it: each has slots of its own on each stream."""

    def __init__(self, counts: Counts) -> None:
        """Know no device yet.

        Args:
            counts: Where what happened is counted.
        """
        self._counts = counts
        self._slots: dict[object, Tensor] = {}
        self._verdicts: dict[object, _Verdicts] = {}

    def run(
        self, call: Call, decision: Decision, safe: Decision, bound: Bounds = (None, None)
    ) -> None:
        """Run a call, and run it again where it has lost to fp16's range.

        A kernel for GPUs is followed by another path's, whose programs look at the verdict first;
        where all is well they return at once. Kernels for CPUs have run when they return.

        Args:
            call: Without ``lost``.
            decision: What runs; it has a range.
            safe: What runs where that range is too narrow.
            bound: For each of the two, what ``execute.run`` is given.
        """
        totals = self._counts.guarded(call.q.device, decision.path, safe.path)
        if decision.kernel.launches is None or safe.kernel.launches is None:
            self._on_the_host(call, decision, safe, totals)
            return
        capturing = _capturing(call)
        if decision.counts_range and not capturing:
            verdict = self._verdict(call.q.device, decision.path, safe.path)
            run(decision, replace(call, lost=verdict), bound[0])
        else:
            verdict = self._settled(call, decision, totals, bound[0], capturing=capturing)
        run(safe, replace(call, only_if=verdict), bound[1])

    def _verdict(self, device: torch.device, path: str, safe: str) -> Tensor:
        """The verdict of the next call, int32 ``[1]``, zero."""
        key = (_place(device), path, safe)
        verdicts = self._verdicts.get(key)
        if verdicts is None:
            verdicts = self._verdicts[key] = _Verdicts(device, PATHS[path].p_parts)
            self._counts.verdicts(path, safe, key[0], verdicts.ring)
        return verdicts.take()

    def _settled(
        self,
        call: Call,
        decision: Decision,
        totals: Tensor,
        bound: dict[object, Any] | None,
        *,
        capturing: bool,
    ) -> Tensor:
        """Run a call whose verdict takes a launch; the verdict, int32 ``[1]``."""
        from autoprec.kernels import guard as kernels  # there is a Triton where there are launches

        heads = 0 if decision.counts_range else call.v.shape[0] * call.v.shape[1]
        device = call.q.device
        # replays may overlap with anything
        slot = kernels.slot(heads, device) if capturing else self._slot(device, heads)
        lost = None if heads else kernels.lost_of(slot)
        run(decision, replace(call, lost=lost), bound)
        looks = [kernels.spread(call.v, slot)] if heads else []
        p_parts = PATHS[decision.path].p_parts
        run_launches([*looks, kernels.settle(slot, totals, heads, p_parts)])
        return kernels.turn_of(slot)

    def _on_the_host(self, call: Call, decision: Decision, safe: Decision, totals: Tensor) -> None:
        """Run a call by a kernel for CPUs, look at its verdict, and run it again where it lost."""
        lost = torch.zeros(1, dtype=torch.int32, device=call.q.device)
        decision.kernel.run(replace(call, lost=lost), decision.path, decision.config)
        count = int(lost)
        if not decision.counts_range:
            count = _far_apart(call.v, PATHS[decision.path].p_parts)
        if count:
            totals += torch.tensor([count, 1], dtype=torch.int32, device=totals.device)
            safe.kernel.run(call, safe.path, safe.config)

    def _slot(self, device: torch.device, heads: int) -> Tensor:
        """A slot, zeroed, for calls that follow each other: each leaves it as it was."""
        from autoprec.kernels import guard as kernels

        place = _place(device)
        slot = self._slots.get(place)
        if slot is None or slot.numel() < kernels.slot_numbers(heads):
            slot = self._slots[place] = kernels.slot(heads, device)
        return slot

    def check(self, call: Call, path: str, number: int) -> None:
        """Compare a few rows of a call that was just queued with exact attention.

        Args:
            call: Its inputs are as they were.
            path: What ran it.
            number: Of the check: other rows and heads each time.
        """
        if _capturing(call):
            return  # a replay must not do it each time
        worst = self._counts.worst(call.q.device, path, _place(call.q.device))
        torch.maximum(worst, _errors(call, number), out=worst)
        self._counts.checked(path)


class _Verdicts:
    """A verdict for each of the calls of one thread on one stream, which follow each other."""

    def __init__(self, device: torch.device, p_parts: int) -> None:
        from autoprec.kernels import guard as kernels

        self.ring = kernels.verdicts(device)
        self._each = self.ring[:, :1].unbind()
        self._used = 0
        # what a captured call launches must be loaded by then
        run_launches([kernels.settle(kernels.slot(0, device), kernels.slot(0, device), 0, p_parts)])

    def take(self) -> Tensor:
        """The next one, zero; where all are used, those are collected first."""
        if self._used == len(self._each):
            from autoprec.kernels import guard as kernels

            run_launches([kernels.collect(self.ring)])
            self._used = 0
        self._used += 1
        return self._each[self._used - 1]


def _capturing(call: Call) -> bool:
    return call.q.is_cuda and torch.cuda.is_current_stream_capturing()


def _place(device: torch.device) -> object:
    """What calls share that follow each other on a device: this thread, and its stream there."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return threading.get_ident(), device, stream


def _errors(call: Call, number: int) -> Tensor:
    """The DRIFT of some rows, fp64; NaN where a row is not finite and ought to be."""
    batch, kv_heads = call.k.shape[:2]
    group, q_len = call.q.shape[1] // kv_heads, call.q.shape[2]
    request, head = divmod(number * 7919 % (batch * kv_heads), kv_heads)  # a prime: all in turn
    heads = slice(head * group, (head + 1) * group)
    step = max(1, q_len // _ROWS)
    # made on the device: numbers sent there from the host would be waited for
    rows = torch.arange(number % step, q_len, step, device=call.q.device)[:_ROWS]
    exact, _ = attention(
        call.q[request : request + 1, heads],
        call.k[request : request + 1, head : head + 1],
        call.v[request : request + 1, head : head + 1],
        diagonal=call.diagonal,
        sm_scale=call.sm_scale,
        window_left=call.window_left,
        soft_cap=call.soft_cap,
        sinks=None if call.sinks is None else call.sinks[heads],
        mask=call.mask[request : request + 1, heads] if isinstance(call.mask, Tensor) else None,
        rows=rows,
        block=_BLOCK,
    )
    got = call.out[request : request + 1, heads].index_select(2, rows).double()
    judged = exact.isfinite().all(-1, keepdim=True)
    exact = torch.where(judged, exact, 0.0)
    off = torch.where(judged, got - exact, 0.0)
    norms, size = exact.norm(dim=-1), exact.norm()
    floor = 1e-3 * size / max(1, norms.numel()) ** 0.5
    rows_off = off.norm(dim=-1) / torch.maximum(norms, floor).clamp_min(1e-300)
    return torch.stack((off.norm() / size.clamp_min(1e-300), rows_off.max(), off.abs().max()))


def _far_apart(v: Tensor, p_parts: int) -> int:
    """How many heads hold values that fp16 probabilities cannot serve; see ``kernels/guard.py``."""
    sizes = v.float().abs().nan_to_num(0.0, posinf=0.0).amax(-1)
    least = torch.where(sizes > 0, sizes, torch.inf).amin(-1)
    return int((least * 2.0 ** (19 if p_parts >= 2 else 28) < sizes.amax(-1)).sum())


def told(mode: Mode, every: int, safe: Decision | None) -> str:
    """What a mode does to a call, for ``explain``; "" where it does nothing."""
    if mode is Mode.SAMPLE:
        return f"one call in {every} is compared with exact attention, on up to {_ROWS} rows"
    if safe is None:
        return ""
    notes = "".join(f"; {note}" for note in safe.notes)
    return f"{safe.path} by {safe.kernel.name} too, where fp16's range is too narrow{notes}"


def told_of_caches(mode: Mode) -> str:
    """What a mode does to calls on a KVCache, for ``explain``; "" where it does nothing."""
    return {
        Mode.OFF: "",
        Mode.SAMPLE: "calls on a KVCache are not compared with exact attention",
        Mode.ALWAYS: "paths with fp32's range alone, since calls on a KVCache run once",
    }[mode]
