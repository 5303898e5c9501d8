"""The last words of ``autoprec tune``."""

from pathlib import Path

import made_up
import pytest

from autoprec.commands.conclusion import conclude
from autoprec.policy.choose import choose_again
from autoprec.types import Measurement, Status

PREFILL, DECODE = made_up.workload(), made_up.workload(phase="decode")


def late(path: str, **more: object) -> Measurement:
    return made_up.measurement(
        path, None, None, status=Status.SKIPPED, reason="there was no time for it", **more
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [late("bf16"), late("fp32")],
            "there was no time for 2 measurements on 1 workload",
        ),
        (
            [late("bf16", workload=DECODE), late("fp32", workload=DECODE)],
            "nothing is chosen for 1 of 2 workloads: there was no time for 2 measurements on "
            "1 workload",
        ),
        (
            [late("bf16"), late("fp32", workload=DECODE)],
            "nothing is chosen for 1 of 2 workloads: there was no time for 2 measurements on "
            "2 workloads",
        ),
    ],
)
def test_workloads_without_a_choice_for_want_of_time_are_counted(
    rows: list[Measurement], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = choose_again(made_up.profile([made_up.measurement("tf32"), *rows]))
    conclude(found, Path("machine.json"), 50)
    assert capsys.readouterr().err.splitlines()[0] == (
        f"note: {said}; try a longer --time-limit, or fewer workloads"
    )


def test_too_few_captured_heads_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    row = made_up.measurement("bf16", 1.0, 3e-3, n_draws=64, captured={"captured": 30})
    conclude(choose_again(made_up.profile([row])), Path("machine.json"), 50)
    assert capsys.readouterr().err == (
        "note: 95 % confidence takes 59 heads, and 79 % is what all 30 heads of captured can give; "
        "capture more, of other texts\n"
    )
