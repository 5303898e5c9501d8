"""The most that ceilings allow, by hand."""

import pytest
from made_up import ceilings, workload

from autoprec.report.roofline import moved_bytes, roof


def test_a_long_prefill_is_bound_by_its_products() -> None:
    assert roof(workload(kv_len=8192), ceilings(), "fp16") == pytest.approx(733.0)


def test_a_short_prefill_is_bound_by_its_bytes() -> None:
    it = workload(kv_len=64)
    # q and the output have 32 heads, k and v 8; fp32, 128 wide
    assert moved_bytes(it) == 64 * 128 * 4 * (32 + 32 + 8 + 8)
    assert roof(it, ceilings(), "fp16") == pytest.approx(it.flops / moved_bytes(it) * 3.030)


def test_decode_is_bound_by_the_copy_and_counts_k_and_v() -> None:
    it = workload(phase="decode", batch=16, kv_len=8192)
    assert roof(it, ceilings(), "fp16") == pytest.approx(3030.0, rel=1e-2)


def test_a_type_without_a_ceiling_has_no_roof() -> None:
    assert roof(workload(), ceilings(), "int8") is None
