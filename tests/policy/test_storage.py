"""One form of cache for all phases of a geometry."""

from typing import Any

import pytest
from made_up import measurement, workload

from autoprec.budget import Budget
from autoprec.policy.contest import hold
from autoprec.policy.standard import Standard, standard
from autoprec.policy.storage import alone, fastest, jointly, on_form
from autoprec.types import Conversion, Dtype, Measurement, Phase, Status, Storage

DECODE, PREFILL = workload(phase="decode"), workload()
BF16, PLANES = Storage.BF16, Storage.PLANES


def stored(path: str, ms: float, error: float, storage: Storage, **changes: Any) -> Measurement:
    """A row of a cache."""
    given = {"conversion": Conversion.AMORTISED, "storage": storage} | changes
    return measurement(path, ms, error, **given)


def held_to(rows: list[Measurement], budget: str = "1e-3") -> Standard:
    return standard(rows, Budget.parse(budget))


def taken(rows: list[Measurement], budget: str = "1e-3") -> dict[Storage, tuple[str, float | None]]:
    found = fastest(rows, held_to(rows, budget))
    return {storage: (row.path, row.p50_ms) for storage, row in found.items()}


def decode_rows() -> list[Measurement]:
    """A decode that is fastest on one plane, and on fp32 where it must be accurate."""
    given = {"workload": DECODE}
    return [
        measurement("fp16", 2.1, 4e-4, conversion=Conversion.INCLUDED, **given),
        stored("fp16", 1.0, 4e-4, PLANES, **given),
        stored("fp16", 0.9, 4e-4, Storage.FP16, **given),
        measurement("fp16x3", 2.4, 4e-7, conversion=Conversion.INCLUDED, **given),
        stored("fp16x3", 2.0, 4e-7, PLANES, **given),
        measurement("bf16", 2.0, 3e-3, conversion=Conversion.INCLUDED, **given),
        stored("bf16", 0.8, 3e-3, BF16, **given),
        measurement("tf32x3", 1.9, 5e-7, **given),
    ]


def prefill_rows() -> list[Measurement]:
    """A prefill that is faster where it splits fp32 itself, and by a kernel that reads no cache."""
    return [
        measurement("fp16x3", 3.0, 4e-7, conversion=Conversion.INCLUDED),
        stored("fp16x3", 3.3, 4e-7, PLANES),
        measurement("fp16x3", 1.0, 4e-7, kernel="hopper-prefill"),
        measurement("bf16", 1.5, 3e-3, conversion=Conversion.INCLUDED),
        stored("bf16", 1.2, 3e-3, BF16),
    ]


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


def test_the_fastest_on_each_form_within_the_budget() -> None:
    assert taken(decode_rows(), "1e-3") == {
        PLANES: ("fp16", 1.0), Storage.FP32: ("tf32x3", 1.9),
    }  # fmt: skip
    assert taken(decode_rows(), "1e-2") == {
        BF16: ("bf16", 0.8), PLANES: ("fp16", 1.0), Storage.FP32: ("tf32x3", 1.9),
    }  # fmt: skip
    assert taken(decode_rows(), "1e-5") == {
        Storage.FP32: ("tf32x3", 1.9), PLANES: ("fp16x3", 2.0),
    }  # fmt: skip
    assert taken(decode_rows(), "1e-9") == {}


def test_a_kernel_that_reads_no_cache_says_nothing_of_them() -> None:
    assert taken(prefill_rows())[Storage.FP32] == ("fp16x3", 3.0)
    without = [row for row in prefill_rows() if not row.cached]
    assert taken(without) == {}


def test_a_form_is_out_where_its_path_is() -> None:
    # more draws of the path found an error that the form's few did not
    rows = [measurement("fp16", 2.0, 2e-3), stored("fp16", 1.0, 4e-4, PLANES)]
    assert taken(rows, "1e-3") == {}


def test_rows_of_caches_and_of_consistent_mode_take_part_in_no_contest() -> None:
    rows = [
        measurement("fp16", 2.0, 4e-4),
        stored("fp16", 1.0, 4e-4, PLANES),
        measurement("fp16", 0.5, 4e-4, consistent=True),
    ]
    held = hold(rows, Budget.parse("1e-3"), allow_baselines=False, confidence=0.95)
    assert [entry.row for entry in held.entries] == rows[:1]
    assert [row.variant for row in rows] == ["", "fp16x2 cache", "consistent"]
    assert len({row.key for row in rows}) == 3


def test_on_a_form_the_fastest_that_may_run() -> None:
    rows = decode_rows()
    both = ("fp16x3", "fp16")

    def on(paths: tuple[str, ...], budget: str, storage: Storage = PLANES) -> str:
        row = on_form(rows, held_to(rows, budget), storage, paths)
        return "" if row is None else row.path

    assert on(both, "1e-3") == "fp16"
    assert on(both, "1e-5") == "fp16x3"
    assert on(both, "1e-9") == ""
    assert on(("fp16",), "1e-9") == "fp16"  # it was asked for
    assert on((), "1e-2", BF16) == "bf16"
    assert on((), "1e-3", BF16) == ""


def by_form(budget: str) -> dict[Phase, dict[Storage, Measurement]]:
    return {
        Phase.PREFILL: fastest(prefill_rows(), held_to(prefill_rows(), budget)),
        Phase.DECODE: fastest(decode_rows(), held_to(decode_rows(), budget)),
    }


def test_measured_phases_take_what_costs_them_least_together() -> None:
    paths = {Phase.PREFILL: "fp16x3", Phase.DECODE: "fp16"}
    joint = jointly(paths, Dtype.FP32, by_form("1e-3"))
    # fp32 costs decode 1.9x, planes cost prefill 1.1x
    assert joint.storage is PLANES
    assert joint.reason == (
        "alone it would be fp32 for prefill (fp16x3, 3 ms), fp16x2 for decode (fp16, 1 ms); fp16x2 "
        "costs them least together: 1.10x for prefill (fp16x3, 3.3 ms), 1.00x for decode "
        "(fp16, 1 ms)"
    )


def test_measured_phases_that_agree() -> None:
    joint = jointly({Phase.PREFILL: "bf16", Phase.DECODE: "bf16"}, Dtype.FP32, by_form("1e-2"))
    assert joint.storage is BF16
    assert joint.reason == (
        "each phase was fastest on it: bf16 for prefill (bf16, 1.2 ms), "
        "bf16 for decode (bf16, 0.8 ms)"
    )


def test_where_a_phase_was_not_measured_on_forms_the_paths_decide() -> None:
    paths = {Phase.PREFILL: "fp16x3", Phase.DECODE: "fp16"}
    measured = by_form("1e-3") | {Phase.PREFILL: {}}
    assert jointly(paths, Dtype.FP32, measured) == jointly(paths, Dtype.FP32)


def test_what_was_skipped_is_no_form() -> None:
    skipped = measurement(
        "fp16x3", None, None, storage=PLANES, conversion=Conversion.AMORTISED,
        status=Status.SKIPPED, reason="there was no time for it",
    )  # fmt: skip
    assert list(taken([measurement("fp16x3", 1.0, 4e-7), skipped])) == [Storage.FP32]
