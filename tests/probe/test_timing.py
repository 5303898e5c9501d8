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


class Device:
    """A GPU and its host, each with a clock of its own, in milliseconds.

    Attributes:
        flush_ms: How long a write of the flush buffer takes.
        read_ms: How long its read does.
        launch_ms: How long the host takes to queue one.
        writes: How often it was written.
        reads: How often it was read.
    """

    def __init__(self) -> None:
        self.host_ms = self.device_ms = 0.0
        self.flush_ms, self.read_ms, self.launch_ms = 0.1, 0.0, 0.0
        self.writes = self.reads = 0

    def zero_(self) -> None:
        self.host_ms += self.launch_ms
        if self.launch_ms:
            self.device_ms = max(self.device_ms, self.host_ms)
        self.device_ms += self.flush_ms
        self.writes += 1

    def max(self) -> None:
        """What was written last is read, so that it is written back before what is timed."""
        assert self.writes >= 2
        self.device_ms += self.read_ms
        self.reads += 1

    def call(self, host_ms: float) -> Callable[[], object]:
        """What takes the host so long, and the device a tenth of a millisecond."""

        def call() -> None:
            self.host_ms += host_ms
            self.device_ms += 0.1

        return call

    def event(self, *, enable_timing: bool) -> object:
        assert enable_timing
        event = types.SimpleNamespace(synchronize=lambda: None)
        event.record = lambda stream: setattr(event, "at", self.device_ms)
        event.elapsed_time = lambda end: end.at - event.at
        return event


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    properties = types.SimpleNamespace(L2_cache_size=1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch, "empty", lambda *shape, **more: device)
    monkeypatch.setattr(timing, "free_bytes", lambda device: 1 << 20)
    clock = types.SimpleNamespace(perf_counter=lambda: device.host_ms / 1e3)
    monkeypatch.setattr(timing, "time", clock)
    return device


def test_a_gpu_is_kept_busy_until_the_host_is_ready(gpu: Device) -> None:
    clock = timing._GpuTimer(torch.device("cpu"))

    def writes(call: Callable[[], object]) -> int:
        before, read = gpu.writes, gpu.reads
        assert clock.sample_ms(call) == pytest.approx(0.1)
        assert gpu.reads > read
        return gpu.writes - before

    quick, late = gpu.call(0.01), gpu.call(0.98)
    assert writes(quick) == writes(quick) == 2
    assert writes(late) == 2 + 15  # the first time it was not hidden
    assert writes(late) == 15
    assert writes(quick) == 2


def test_a_gpu_that_has_become_faster_is_kept_busy_with_more(gpu: Device) -> None:
    clock = timing._GpuTimer(torch.device("cpu"))
    gpu.flush_ms = 0.02  # it was idle when it was first timed
    late = gpu.call(0.15)
    clock.sample_ms(late)
    assert gpu.writes == 4 + 2 + 12  # 12 of them take half as long again as the host
    clock.sample_ms(late)
    assert gpu.writes == 4 + 2 + 12 + 12


def test_the_read_of_the_flush_buffer_does_not_count_as_a_write_of_it(gpu: Device) -> None:
    clock = timing._GpuTimer(torch.device("cpu"))
    gpu.read_ms = 0.3
    quick, late = gpu.call(0.01), gpu.call(0.98)
    clock.sample_ms(quick)
    assert gpu.writes == 4 + 2
    clock.sample_ms(late)
    assert gpu.writes == 4 + 2 + 2 + 15  # as many as without a read


def test_a_gpu_works_while_the_host_queues_what_keeps_it_busy(gpu: Device) -> None:
    gpu.launch_ms = 0.03
    clock = timing._GpuTimer(torch.device("cpu"))

    def call() -> None:
        gpu.host_ms += 0.18
        gpu.device_ms = max(gpu.device_ms, gpu.host_ms) + 0.1

    gpu.device_ms = gpu.host_ms
    # two writes end 0.23 ms after the first was begun to be queued, and the host 0.24
    assert clock.sample_ms(call) == pytest.approx(0.1)
    assert gpu.writes == 4 + 2 + 3


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
