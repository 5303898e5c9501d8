"""Timing: device events and a cold L2 on a GPU, the monotonic clock and cold caches on a CPU."""

import functools
import math
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy
import torch

from autoprec.probe.device import free_bytes

_MIB = 1 << 20

# Writing the flush buffer keeps the device busy until the host has queued what is timed: so many
# times what the host took for it last, between so many writes and so many. What it wrote is then
# read: a cache full of what is not written back yet would be emptied at the expense of what is
# timed.
_ROOM = 1.5
_LEAST, _MOST = 2, 16

# A host that took this share of what was timed, or less, has not been waited for.
_SMALL = 0.01


class Timer(Protocol):
    """Takes one sample at a time, so that the caller can interleave what is compared."""

    def sample_ms(self, call: Callable[[], object]) -> float:
        """Milliseconds that one call takes when its inputs are in no cache.

        The caller has called it once before, so that nothing is compiled or allocated in it.
        """


def timer(device: torch.device) -> Timer:
    """The timer for a device."""
    return _CpuTimer() if device.type == "cpu" else _GpuTimer(device)


@functools.lru_cache
def quantiles(samples: tuple[float, ...]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile of one or more samples, interpolated."""
    p20, p50, p80 = numpy.quantile(samples, (0.2, 0.5, 0.8))
    return float(p20), float(p50), float(p80)


class _GpuTimer:
    def __init__(self, device: torch.device) -> None:
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        size = min(max(2 * l2, 256 * _MIB), free_bytes(device) // 4)
        self._device = device
        self._buffer = torch.empty(size // 4, dtype=torch.int32, device=device)
        self._before, self._written, self._start, self._end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )
        # A first guess: the device may have been idle, and its clocks low.
        self._flush_ms = sorted(self._elapsed_ms(self._buffer.zero_)[0] for _ in range(4))[1]
        self._host_ms: WeakKeyDictionary[Callable[[], object], float] = WeakKeyDictionary()

    def sample_ms(self, call: Callable[[], object]) -> float:
        for _ in range(2):
            wanted = math.ceil(_ROOM * self._host_ms.get(call, 0.0) / self._flush_ms)
            flushes = min(max(_LEAST, wanted), _MOST)
            stream = torch.cuda.current_stream(self._device)
            began = time.perf_counter()
            self._before.record(stream)
            for _ in range(flushes):
                self._buffer.zero_()
            self._written.record(stream)
            self._buffer.max()
            # The device works on them meanwhile: as much less is left to hide the call behind.
            flush_host_ms = (time.perf_counter() - began) * 1e3
            ms, host_ms = self._elapsed_ms(call)
            self._host_ms[call] = host_ms
            # Events say it of this very sample, so that no clock that has changed since, and
            # nobody else on the device, can make it look busy for longer than it was.
            flushed_ms = self._before.elapsed_time(self._start)
            self._flush_ms = self._before.elapsed_time(self._written) / flushes or self._flush_ms
            if host_ms <= max(flushed_ms - flush_host_ms, _SMALL * ms):
                break
        return ms

    def _elapsed_ms(self, call: Callable[[], object]) -> tuple[float, float]:
        """What a call takes on the device, and until the host has queued it."""
        stream = torch.cuda.current_stream(self._device)
        began = time.perf_counter()
        self._start.record(stream)
        call()
        self._end.record(stream)
        queued = time.perf_counter()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)), (queued - began) * 1e3


class _CpuTimer:
    def __init__(self) -> None:
        # Larger than what one core's caches and its share of the last level hold.
        self._buffer = torch.zeros(64 * _MIB // 4, dtype=torch.int32)

    def sample_ms(self, call: Callable[[], object]) -> float:
        self._buffer.add_(1)
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
