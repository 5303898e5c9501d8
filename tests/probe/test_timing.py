import time
import types
from collections.abc import Callable

import pytest
import torch

from autoprec.probe import timing
from autoprec.probe.timing import quantiles, timer


def test_quantiles_are_interpolated() -> None:
    assert quantiles((3.0,)) == (3.0, 3.0, 3.0)
    assert quantiles((5.0, 1.0, 4.0, 2.0, 3.0, 6.0)) == (2.0, 3.5, 5.0)


def test_a_cpu_sample_is_the_calls_time_in_milliseconds() -> None:
    clock = timer(torch.device("cpu"))
    samples = [clock.sample_ms(lambda: time.sleep(0.02)) for _ in range(3)]
    # sleep takes 20 ms at least; the flush beforehand is not counted
    assert 20 <= min(samples) < 40


def test_caches_are_flushed_before_the_call() -> None:
    clock = timer(torch.device("cpu"))
    passes: list[int] = []
    for _ in range(3):
        clock.sample_ms(lambda: passes.append(int(clock._buffer[0])))  # type: ignore[attr-defined]
    assert passes == [1, 2, 3]


class FakeEvent:
    """Of a device on which everything takes 0.1 ms."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 0.1


class Flushes:
    """In place of the flush buffer: counts how often it is written."""

    count = 0

    def zero_(self) -> None:
        self.count += 1


def test_a_gpu_is_kept_busy_until_the_host_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(L2_cache_size=1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(timing, "free_bytes", lambda device: 1 << 20)
    clock = timing._GpuTimer(torch.device("cpu"))
    clock._buffer = buffer = Flushes()  # type: ignore[assignment]

    def flushes(call: Callable[[], object]) -> int:
        before = buffer.count
        assert clock.sample_ms(call) == 0.1
        return buffer.count - before

    def late() -> None:
        time.sleep(0.001)

    def quick() -> None:
        pass

    assert flushes(quick) == flushes(quick) == 2
    assert 2 + 15 <= flushes(late) <= 2 + 16  # the first time it was not hidden
    assert 15 <= flushes(late) <= 16 + 16
    assert flushes(quick) == 2


@pytest.mark.cuda
def test_a_gpu_sample_is_the_devices_time() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    clock = timer(device)
    x = torch.zeros(1 << 28, dtype=torch.int32, device=device)
    x.add_(1)
    samples = sorted(clock.sample_ms(lambda: x.add_(1)) for _ in range(5))
    # 2 GiB are moved: no memory is faster than 20 TB/s or, in a GPU, slower than 50 GB/s
    assert 0.1 < samples[2] < 43
    # an empty call is a few microseconds, not the host's time for the launches
    assert sorted(clock.sample_ms(lambda: None) for _ in range(5))[2] < 0.05


@pytest.mark.cuda
def test_a_host_that_is_slow_is_not_timed() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    clock = timer(device)
    x = torch.zeros(1 << 10, device=device)

    def late() -> None:
        time.sleep(0.0007)
        x.add_(1)

    assert sorted(clock.sample_ms(late) for _ in range(5))[2] < 0.2
