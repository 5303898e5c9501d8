import itertools
import time
from collections.abc import Callable

import pytest
import torch

from autoprec.probe import ceilings

MATMUL = torch.backends.cuda.matmul


def test_measures_a_cpu_quickly() -> None:
    start = time.monotonic()
    it = ceilings.measure(torch.device("cpu"))
    # 4 s on two idle cores; other processes may have taken most of them
    assert time.monotonic() - start < 20
    assert set(it.gemm_tflops) == {"fp32", "bf16", "fp16"}
    # Any CPU copies at 0.2 GB/s and multiplies at 1e8 operations a second; none at 1e15.
    assert 0.2 < it.copy_gb_s < 1e4
    assert all(1e-4 < rate < 1e3 for rate in it.gemm_tflops.values())


def test_rates_follow_from_times(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        def sample_ms(self, call: Callable[[], object]) -> float:
            return 2.0

    monkeypatch.setattr(ceilings, "timer", lambda device: Clock())
    monkeypatch.setattr(ceilings, "_OPERANDS", {"bf16": torch.bfloat16})  # fp16 takes long
    it = ceilings.measure(torch.device("cpu"))
    assert it.copy_gb_s == pytest.approx(2 * (128 << 20) / 2e-3 / 1e9)
    assert it.gemm_tflops["bf16"] == pytest.approx(2 * 1024**3 / 2e-3 / 1e12)


def test_slow_products_stop_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        def sample_ms(self, call: Callable[[], object]) -> float:
            return 100.0

    monkeypatch.setattr(ceilings, "timer", lambda device: Clock())
    it = ceilings.measure(torch.device("cpu"))
    assert it.gemm_tflops["fp32"] == pytest.approx(2 * 256**3 / 100e-3 / 1e12)


def test_the_best_sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes that hold the cores most of the time make no ceiling low."""

    class Clock:
        samples = itertools.cycle((90.0, 70.0, 2.0, 80.0))

        def sample_ms(self, call: Callable[[], object]) -> float:
            return next(self.samples)

    monkeypatch.setattr(ceilings, "timer", lambda device: Clock())
    monkeypatch.setattr(ceilings, "_OPERANDS", {"bf16": torch.bfloat16})
    it = ceilings.measure(torch.device("cpu"))
    assert it.copy_gb_s == pytest.approx(2 * (128 << 20) / 2e-3 / 1e9)
    assert it.gemm_tflops["bf16"] == pytest.approx(2 * 1024**3 / 2e-3 / 1e12)


def test_a_hiccup_at_a_large_size_leaves_a_small_one_standing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Clock:
        taken = 0

        def sample_ms(self, call: Callable[[], object]) -> float:
            self.taken += 1
            return 2.0 if self.taken <= 20 else 1e4  # those of the first size

    monkeypatch.setattr(ceilings, "timer", lambda device: Clock())
    monkeypatch.setattr(ceilings, "_OPERANDS", {"bf16": torch.bfloat16})
    rate = ceilings.measure(torch.device("cpu")).gemm_tflops["bf16"]
    assert rate == pytest.approx(2 * 256**3 / 2e-3 / 1e12)


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_the_precision_of_products_is_restored(before: str) -> None:
    original = MATMUL.fp32_precision
    try:
        MATMUL.fp32_precision = before
        with ceilings.fp32_products("tf32"):
            assert MATMUL.fp32_precision == "tf32"
        with pytest.raises(ZeroDivisionError), ceilings.fp32_products("ieee"):
            assert 1 / 0
        assert MATMUL.fp32_precision == before
    finally:
        MATMUL.fp32_precision = original


def test_the_old_names_of_the_precision_still_work_afterwards() -> None:
    # torch raises when allow_tf32 is read while fp32_precision says otherwise
    before = MATMUL.allow_tf32, torch.get_float32_matmul_precision()
    with ceilings.fp32_products("tf32"):
        pass
    assert (MATMUL.allow_tf32, torch.get_float32_matmul_precision()) == before
