"""One form of cache for all phases of a geometry."""

import pytest

from autoprec.policy.storage import alone, jointly
from autoprec.types import Dtype, Phase, Storage


@pytest.mark.parametrize(
    ("path", "dtype", "storage"),
    [
        ("fp32", Dtype.FP32, Storage.FP32),
        ("tf32x3", Dtype.FP32, Storage.FP32),
        ("bf16x3", Dtype.FP32, Storage.FP32),
        ("fp16x3", Dtype.FP32, Storage.PLANES),
        ("fp16", Dtype.FP32, Storage.PLANES),
        ("bf16", Dtype.FP32, Storage.BF16),
        ("fp16", Dtype.BF16, Storage.BF16),
        ("bf16p2", Dtype.BF16, Storage.BF16),
        ("fp16p2", Dtype.FP16, Storage.FP16),
        ("sdpa-flash", Dtype.FP32, Storage.FP32),
    ],
)
def test_a_path_alone(path: str, dtype: Dtype, storage: Storage) -> None:
    assert alone(path, dtype) is storage


def test_phases_that_agree_take_what_each_would() -> None:
    joint = jointly({Phase.PREFILL: "fp16x3", Phase.DECODE: "fp16"}, Dtype.FP32)
    assert joint.storage is Storage.PLANES
    assert joint.reason == (
        "each phase would take it alone: fp16x2 for prefill (fp16x3), fp16x2 for decode (fp16)"
    )


def test_phases_that_do_not_take_what_comes_in() -> None:
    joint = jointly({Phase.PREFILL: "fp16x3", Phase.DECODE: "tf32x3"}, Dtype.FP32)
    assert joint.storage is Storage.FP32
    assert joint.reason == (
        "alone it would be fp16x2 for prefill (fp16x3), fp32 for decode (tf32x3); "
        "fp32 serves all of them"
    )
