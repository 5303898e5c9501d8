"""The error model alone; ``tests/kernels/test_accuracy_model.py`` holds kernels to it."""

import math
import struct
from dataclasses import replace
from pathlib import Path as File

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.paths import PATHS, Path
from autoprec.policy import bounds
from autoprec.policy.bounds import certified, expected_rel_l2, operand_error, probability_error
from autoprec.types import Dtype

DOCUMENT = File(__file__).parents[2] / "docs" / "precision.md"

_NAMES = st.sampled_from(sorted(PATHS))
_DIMS = st.integers(1, 512)
_LENGTHS = st.integers(1, 20_000)
_LOGITS = st.floats(0.0, 1e3)


def _nearest(x: float, operand: str) -> float:
    """A number in fp16's range, or any, to the nearest of a type; ties away from zero or even."""
    if operand == "fp16":
        return float(struct.unpack("<e", struct.pack("<e", x))[0])
    if operand == "fp32":
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    mantissa, exponent = math.frexp(x)
    steps = 2.0 ** bounds.BITS[operand]
    return math.ldexp(round(mantissa * steps) / steps, exponent)


def _parts(x: float, operand: str, count: int) -> list[float]:
    parts = []
    for _ in range(count):
        parts.append(_nearest(x, operand))
        x -= parts[-1]
    return parts


def _fp32(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32)


@given(_NAMES, _fp32(1.0, 2.0**14), _fp32(1.0, 2.0**14))
def test_parts_and_products_are_as_close_as_said(name: str, a: float, b: float) -> None:
    """Of fp32 numbers, as QKᵀ forms them; fp16's own least numbers are the floors' affair."""
    path = PATHS[name]
    x, y = (_parts(number, path.operand, path.parts) for number in (a, b))
    rho = operand_error(path, Dtype.FP32)
    # fp16's second part of numbers from 1 on is at worst half of 2^-24 off
    assert abs(sum(x) - a) <= rho * a + (2.0**-25 if path.operand == "fp16" else 0.0)
    formed = sum(p * q for i, p in enumerate(x) for j, q in enumerate(y) if i + j < path.parts)
    dropped = bounds._dropped(path, path.parts)
    assert abs(formed - sum(x) * sum(y)) <= dropped * a * b + 2.0**-45 * a * b


@pytest.mark.parametrize(
    ("name", "inputs", "operand", "probability"),
    [
        ("fp32", Dtype.FP32, 0.0, 0.0),
        ("tf32", Dtype.FP32, 2.0**-11, 2.0**-11),
        ("tf32", Dtype.BF16, 0.0, 2.0**-11),
        ("fp16x3", Dtype.FP32, 2.0**-22, 2.0**-22),
        ("bf16x3", Dtype.FP32, 2.0**-16, 2.0**-16),
        ("bf16x6", Dtype.FP32, 0.0, 0.0),
        ("bf16", Dtype.BF16, 0.0, 2.0**-8),
        ("bf16", Dtype.FP16, 2.0**-8, 2.0**-8),
        ("bf16p2", Dtype.BF16, 0.0, 2.0**-16),
        ("fp16p2", Dtype.FP16, 0.0, 2.0**-22),
    ],
)
def test_what_is_rounded(name: str, inputs: Dtype, operand: float, probability: float) -> None:
    assert operand_error(PATHS[name], inputs) == operand
    assert probability_error(PATHS[name]) == probability


def test_products_left_out() -> None:
    found = {name: sorted(bounds._left_out(row.parts, row.parts)) for name, row in PATHS.items()}
    assert {name: orders for name, orders in found.items() if orders} == {
        "tf32x3": [2],
        "fp16x3": [2],
        "bf16x3": [2],
        "bf16x6": [3, 3, 4],
    }
    assert list(bounds._left_out(PATHS["bf16p2"].p_parts, PATHS["bf16p2"].parts)) == []


def test_the_bound_of_one_key_by_hand() -> None:
    """A row that sees one key: only V's and P's rounding, and short sums, are left beside δ."""
    path = PATHS["bf16"]
    got = certified(path, head_dim=1, kv_len=1, largest_logit=0.0, widest_logit=0.0)
    u = 2.0**-8
    assert got.relative == pytest.approx(-1 + math.exp(-math.log1p(-((1 + u) ** 2 - 1))), rel=1e-3)
    assert (got.p_floor, got.v_floor) == (0.0, 0.0)


def test_logits_count_twice() -> None:
    """e^{2δ}, δ = largest_logit * (2u + u²) and fp32's share."""
    path = PATHS["tf32"]
    with_logits, without = (
        certified(path, head_dim=1, kv_len=1, largest_logit=a, widest_logit=a).relative
        for a in (10.0, 0.0)
    )
    u = 2.0**-11
    growth = (1 + with_logits) / (1 + without)
    assert math.log(growth) == pytest.approx(2 * 10.0 * (2 * u + u * u), rel=1e-3)


def test_floors_are_fp16s() -> None:
    sizes = {"head_dim": 64, "kv_len": 256, "largest_logit": 0.0, "widest_logit": 1.0}
    for name, path in PATHS.items():
        for inputs in path.inputs:
            got = certified(path, **sizes, inputs=inputs)  # type: ignore[arg-type]
            assert (got.p_floor > 0) == (path.operand == "fp16"), name
            assert (got.v_floor > 0) == (path.operand == "fp16" and inputs != "fp16"), name


@given(_NAMES, _DIMS, _LENGTHS, _LOGITS, st.sampled_from(list(Dtype)))
def test_more_of_anything_bounds_no_less(
    name: str, head_dim: int, kv_len: int, logit: float, output: Dtype
) -> None:
    def relative(path: Path, **changed: float) -> float:
        sizes = {"head_dim": head_dim, "kv_len": kv_len, "largest_logit": logit,
                 "widest_logit": logit, **changed}  # fmt: skip
        return certified(path, output=output, **sizes).relative  # type: ignore[arg-type]

    least = relative(PATHS[name])
    assert least >= 2.0 ** -bounds.BITS[output]
    assert relative(PATHS[name], head_dim=2 * head_dim) >= least
    assert relative(PATHS[name], kv_len=2 * kv_len) >= least
    assert relative(PATHS[name], largest_logit=2 * logit) >= least
    assert relative(PATHS[name], widest_logit=2 * logit) >= least
    assert relative(PATHS[name], exp_error=2.0**-12) >= least


@given(_NAMES, _DIMS, _LENGTHS, _LOGITS, st.sampled_from(list(Dtype)))
def test_less_is_expected_than_certified(
    name: str, head_dim: int, kv_len: int, logit: float, output: Dtype
) -> None:
    expected = expected_rel_l2(
        PATHS[name], head_dim=head_dim, kv_len=kv_len, typical_logit=logit, output=output
    )
    # Σ|q||k| is no less than √(Σ q²k²)
    bound = certified(
        PATHS[name], head_dim=head_dim, kv_len=kv_len, largest_logit=logit, widest_logit=logit,
        output=output,
    )  # fmt: skip
    assert 0 < expected <= bound.relative


def test_what_cannot_be_bounded_is_infinite() -> None:
    sizes = {"head_dim": 128, "widest_logit": 0.0}
    long = certified(PATHS["bf16"], kv_len=1 << 23, largest_logit=1.0, **sizes)  # type: ignore[arg-type]
    assert long.relative == math.inf
    wild = certified(PATHS["bf16"], kv_len=64, largest_logit=1e6, **sizes)  # type: ignore[arg-type]
    assert wild.relative == math.inf


def test_the_expected_error_of_bf16_by_hand() -> None:
    """Q and K move the logits, P and V the sum: four roundings of 0.42 * 2^-8, independent."""
    got = expected_rel_l2(PATHS["bf16"], head_dim=128, kv_len=4096)
    assert got == pytest.approx(2 * 0.42 * 2.0**-8, rel=1e-6)
    inputs_exact = expected_rel_l2(PATHS["bf16"], head_dim=128, kv_len=4096, inputs=Dtype.BF16)
    assert inputs_exact == pytest.approx(0.42 * 2.0**-8, rel=1e-6)


def test_the_table_of_paths_is_within_a_factor_of_3() -> None:
    for name, path in PATHS.items():
        got = expected_rel_l2(path, head_dim=128, kv_len=4096, inputs=path.inputs[0])
        assert 1 / 3 <= got / path.expected_rel_l2 <= 3, name


def test_a_dropped_product_is_expected_to_show() -> None:
    whole, halved = (
        expected_rel_l2(replace(PATHS["bf16p2"], p_parts=parts), head_dim=64, kv_len=256,
                        inputs=Dtype.BF16)
        for parts in (2, 1)
    )  # fmt: skip
    assert halved > 100 * whole


def test_the_document_has_the_models_numbers() -> None:
    lines = ["| path | inputs | expected `rel_l2` | certified |", "|---|---|---|---|"]
    for name, path in PATHS.items():
        inputs = path.inputs[0]
        expected = expected_rel_l2(path, head_dim=128, kv_len=4096, inputs=inputs)
        bound = certified(
            path, head_dim=128, kv_len=4096, largest_logit=10.0, widest_logit=100.0, inputs=inputs
        )
        lines.append(f"| `{name}` | {inputs} | {expected:.1e} | {bound.relative:.1e} |")
    assert "\n".join(lines) + "\n" in DOCUMENT.read_text(encoding="utf-8")


def test_the_document_speaks_of_every_path() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in PATHS if f"\n### `{name}`\n" not in text] == []
