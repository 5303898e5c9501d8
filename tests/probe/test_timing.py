import time

import pytest
import torch

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
