"""What a tune says of the choices that were there, where it is asked something else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import pytest
from command_line import TINY, Cli

from autoprec.budget import Budget
from autoprec.commands.chosen_again import tell_changes
from autoprec.policy.choose import choose
from autoprec.types import Measurement

BUDGET = Budget.parse("1e-2")
Notes = Callable[..., list[str]]


@pytest.fixture
def notes(run: Cli, probe: dict[str, Any], tmp_path: Path) -> Notes:
    """What a tune of batch sizes says of the choices that were there."""
    words = ("tune", *TINY[:-4], "-o", str(tmp_path / "machine.json"))

    def notes(*more: str, paths: str = "fp32") -> list[str]:
        said = run(*words, "--paths", paths, *more).err.splitlines()
        return [line for line in said if "chosen again" in line]

    return notes


def test_another_budget_for_what_was_there_is_said(notes: Notes) -> None:
    assert notes("--batch", "1", "--budget", "1e-2") == []
    assert notes("--batch", "2", "--budget", "1e-5") == [
        "note: the 1 workload that was there is chosen again, since the budget is now "
        "rel_l2<=1e-05 (it was rel_l2<=0.01): no choice changes"
    ]
    assert notes("--batch", "3", "--budget", "rel_l2<=1e-5") == notes("--batch", "4") == []
    assert notes("--batch", "1", "--budget", "fp32") == [
        "note: the 4 workloads that were there are chosen again, since the budget is now "
        "ratio:fp32<=2 (it was rel_l2<=1e-05): no choice changes"
    ]
    assert notes("--batch", "1", "--fresh", "--budget", "1e-3") == []


def test_another_confidence_and_that_of_an_effort_are_said(notes: Notes) -> None:
    assert notes("--batch", "1") == []
    assert notes("--batch", "1", "--confidence", "0.9999") == [
        "note: the 1 workload that was there is chosen again, since the confidence is now 99.99% "
        "(it was 95%): no choice changes"
    ]
    assert notes("--batch", "1", "--effort", "quick") == [
        "note: the 1 workload that was there is chosen again, since the confidence is now 50%, "
        "that of --effort quick (it was 99.99%): no choice changes"
    ]
    assert notes("--batch", "1", "--effort", "quick", "--confidence", "0.5") == []


def test_the_choices_that_change_are_counted(notes: Notes) -> None:
    assert notes("--batch", "1,2") == []
    assert notes("--batch", "4", paths="bf16") == []
    assert notes("--batch", "4", "--budget", "1e-5", "--confidence", "0.9", paths="fp32") == [
        "note: the 3 workloads that were there are chosen again, since the budget is now "
        "rel_l2<=1e-05 (it was rel_l2<=0.01) and the confidence is now 90% (it was 95%): nothing "
        "in place of bf16 on 1 workload"
    ]


def drawn(path: str, ms: float, draws: int, **changes: Any) -> Measurement:
    bounds = {"gauss": made_up.errors(1e-4)}
    return made_up.measurement(path, ms, 1e-4, n_draws=draws, bounds=bounds, **changes)


def test_fewer_draws_than_the_confidence_needs_and_baselines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [drawn("bf16", 1.0, 20), drawn("fp16", 2.0, 64), drawn("sdpa-flash", 0.5, 64)]
    rows += [
        drawn("tf32", ms, draws, kernel=kernel, workload=made_up.workload(batch=2))
        for ms, draws, kernel in ((1.0, 20, "one"), (2.0, 64, "other"))
    ]
    choices, _ = choose(rows, BUDGET, confidence=0.5)
    quick = made_up.profile(rows, confidence=0.5, choices=choices)

    def said(confidence: float, *, allow_baselines: bool) -> str:
        tell_changes(quick, BUDGET, confidence, allow_baselines=allow_baselines, effort="normal")
        return capsys.readouterr().err

    assert said(0.5, allow_baselines=False) == ""
    assert said(0.95, allow_baselines=False) == (
        "note: the 2 workloads that were there are chosen again, since the confidence is now 95%, "
        "that of --effort normal (it was 50%): fp16 in place of bf16 on 1 workload and tf32 of "
        "other in place of tf32 of one on 1 workload\n"
    )
    assert said(0.5, allow_baselines=True) == (
        "note: the 2 workloads that were there are chosen again, since baselines may now be "
        "chosen: sdpa-flash in place of bf16 on 1 workload\n"
    )
