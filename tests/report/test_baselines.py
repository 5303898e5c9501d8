"""Baselines beside what was chosen: which are said to be faster."""

import pytest
from made_up import measurement, profile

from autoprec.report import summary
from autoprec.report.formats import table
from autoprec.report.report import document, render


@pytest.mark.parametrize(
    ("spread", "verdict"), [(0.02, "baseline as fast"), (0.002, "baseline faster")]
)
def test_a_baseline_one_percent_ahead_is_faster_only_where_the_ranges_do_not_meet(
    spread: float, verdict: str
) -> None:
    rows = [
        measurement(path, ms, 5e-7, p20_ms=ms * (1 - spread), p80_ms=ms * (1 + spread))
        for path, ms in (("fp32", 8.18), ("sdpa-flash", 8.09))
    ]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert f"  {verdict}\n" in text
    assert ("is 1.01x faster than fp32: 8.09 against 8.18 ms" in text) == (spread < 0.01)
    assert ("a baseline within the budget is faster" in text) == (spread < 0.01)


@pytest.mark.parametrize(
    ("baseline_ms", "verdict"),
    [(2.0, "within budget"), (1.04, "baseline as fast"), (0.97, "baseline as fast"),
     (0.9, "baseline faster")],
)  # fmt: skip
def test_a_baseline_is_faster_only_where_the_ranges_do_not_meet(
    baseline_ms: float, verdict: str
) -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", baseline_ms, 3e-4)]
    text = table.render(document(profile(rows)), 160, False)
    assert verdict in text
    assert ("sdpa-flash, within the budget, is 1.11x faster than fp16: 0.900 against 1.00 ms" in
            text) == (verdict == "baseline faster")  # fmt: skip


@pytest.mark.parametrize(
    ("baseline_ms", "verdict"),
    [(1.2, "baseline as fast"), (0.85, "baseline as fast"), (1.3, "inconclusive"),
     (8.02, "inconclusive"), (0.16, "inconclusive")],
)  # fmt: skip
def test_ranges_that_meet_around_medians_far_apart_are_inconclusive(
    baseline_ms: float, verdict: str
) -> None:
    noise = {"p20_ms": 0.1, "p80_ms": 10.0}
    rows = [
        measurement("fp16", 1.0, 3e-4, **noise),
        measurement("sdpa-flash", baseline_ms, 3e-4, **noise),
    ]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert f"  {verdict}\n" in text
    assert (
        "\nOn 1 workload the times are too noisy to say whether the choice or the baseline is "
        "faster: inconclusive.\n" in text
    ) == (verdict == "inconclusive")


def test_a_baseline_over_the_budget_is_no_rival() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-2)]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert "faster" not in text
    assert (
        "\n- b1 kv4096 fp32: no baseline keeps to the budget; the speedup is over sdpa-flash, the "
        "fastest of all\n"
    ) in text


def test_a_chosen_baseline_is_not_said_to_beat_itself() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-4)]
    text = render([("", profile(rows, allow_baselines=True))])
    assert "sdpa-flash on 1" in text
    assert "faster" not in text
