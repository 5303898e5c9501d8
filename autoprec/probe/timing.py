"""Timing: device events and a cold L2 on a GPU, the monotonic clock and cold caches on a CPU."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy
import torch

from autoprec.probe.device import free_bytes

_MIB = 1 << 20

# Writing the flush buffer takes at least this long, so that the host has queued what is timed,
# several launches of a Triton kernel from Python, before the device gets there.
_HIDE_MS = 0.4


class Timer(Protocol):
    """Takes one sample at a time, so that the caller can interleave what is compared."""

    def sample_ms(self, call: Callable[[], object]) -> float:
        """Milliseconds that one call takes when its inputs are in no cache.

        The caller has called it once before, so that nothing is compiled or allocated in it.
        """


def timer(device: torch.device) -> Timer:
    """The timer for a device."""
    return _CpuTimer() if device.type == "cpu" else _GpuTimer(device)


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile of one or more samples, interpolated."""
    p20, p50, p80 = numpy.quantile(samples, (0.2, 0.5, 0.8))
    return float(p20), float(p50), float(p80)


class _GpuTimer:
    def __init__(self, device: torch.device) -> None:
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        size = min(max(2 * l2, 256 * _MIB), free_bytes(device) // 4)
        self._device = device
        self._buffer = torch.empty(size // 4, dtype=torch.int32, device=device)
        self._flushes = 1
        once = sorted(self._elapsed_ms(self._flush) for _ in range(4))[1]
        self._flushes = math.ceil(_HIDE_MS / max(once, 1e-3))

    def sample_ms(self, call: Callable[[], object]) -> float:
        self._flush()
        return self._elapsed_ms(call)

    def _flush(self) -> None:
        for _ in range(self._flushes):
            self._buffer.zero_()

    def _elapsed_ms(self, call: Callable[[], object]) -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        start.record(stream)
        call()
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end))


class _CpuTimer:
    def __init__(self) -> None:
        # Larger than what one core's caches and its share of the last level hold.
        self._buffer = torch.zeros(64 * _MIB // 4, dtype=torch.int32)

    def sample_ms(self, call: Callable[[], object]) -> float:
        self._buffer.add_(1)
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
