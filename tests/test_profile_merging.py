"""Adding what was measured now to the profile that was there: no row is lost for a lesser one."""

from dataclasses import replace
from typing import Any

import made_up
import pytest

from autoprec import profile as profiles
from autoprec.errors import MachineError
from autoprec.types import Measurement, Profile, Status


def only(*rows: Measurement, **changes: Any) -> Profile:
    return made_up.profile(rows, **changes)


def test_rows_are_replaced_by_key_and_the_rest_is_kept() -> None:
    slow, fast = made_up.measurement("fp16", 2.0), made_up.measurement("fp16", 1.0)
    kept, added = made_up.measurement("bf16"), made_up.measurement("tf32")
    old = only(slow, kept, remarks=["It was hot.", "Others computed."])
    new = only(
        fast,
        added,
        budget="1e-3",
        allow_baselines=True,
        created_at="2026-12-24T12:00:00Z",
        recorded_by="autoprec tune --budget 1e-3",
        ceilings=made_up.ceilings(copy_gb_s=2900.0),
        remarks=["It was cool.", "It was hot."],
    )
    assert profiles.merge(old, new) == replace(
        new,
        measurements=[fast, kept, added],
        choices=[],
        refusals=[],
        remarks=["It was hot.", "Others computed.", "It was cool."],
    )


def test_what_was_measured_is_not_lost_to_a_time_limit_nor_to_want_of_memory() -> None:
    good = made_up.measurement("fp16", 2.0)
    late = made_up.measurement("fp16", status=Status.SKIPPED, reason="there was no time")
    broken = made_up.measurement("fp16", status=Status.FAILED, reason="it broke")
    assert profiles.merge(only(good), only(late)).measurements == [good]
    assert profiles.merge(only(good), only(broken)).measurements == [broken]
    assert profiles.merge(only(late), only(good)).measurements == [good]
    assert profiles.merge(only(), only(late)).measurements == [late]
    refused = made_up.measurement(
        "fp16", status=Status.UNSUPPORTED, reason="it needs 2 GiB, and at most 1 GiB are free"
    )
    assert profiles.merge(only(good), only(refused)).measurements == [refused]
    for status in (Status.UNSUPPORTED, Status.FAILED):
        large = made_up.measurement("fp16", status=status, reason="no room", lacked_memory=True)
        assert profiles.merge(only(good), only(large)).measurements == [good]
        assert profiles.merge(only(late), only(large)).measurements == [large]
        assert profiles.merge(only(large), only(late)).measurements == [large]


def test_a_row_with_fewer_draws_does_not_replace_one_with_more() -> None:
    def made(draws: int | None, p50_ms: float) -> Profile:
        return made_up.profile([made_up.measurement("fp32", p50_ms, 1e-7, n_draws=draws)])

    def merged(old: int | None, new: int | None) -> float | None:
        return profiles.merge(made(old, 1.0), made(new, 2.0)).measurements[0].p50_ms

    assert merged(64, 16) == 1.0
    assert merged(16, 64) == merged(None, 16) == merged(64, 64) == merged(None, None) == 2.0


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"device": made_up.device(name="NVIDIA A100-SXM4-80GB", capability="8.0")},
            "the profile is for NVIDIA A100-SXM4-80GB (8.0), "
            "and this is NVIDIA H100 80GB HBM3 (9.0).",
        ),
        (
            {"kernels": "another", "driver": None},
            "the profile was measured without driver, and here it runs with driver 580.82. "
            "autoprec's kernels changed since the profile was measured.",
        ),
    ],
)
def test_rows_that_do_not_compare_are_not_mixed(changes: dict[str, Any], difference: str) -> None:
    old = made_up.profile(environment=made_up.environment(**changes))
    with pytest.raises(MachineError) as caught:
        profiles.merge(old, made_up.profile())
    assert caught.value.sentence == f"the profile cannot be added to: {difference}"
    assert caught.value.hint == "--fresh to replace it, or -o with another file to keep it"
