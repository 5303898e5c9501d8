"""What ``autoprec verify`` prints: each choice that fails is a sentence, at any width."""

import made_up
import pytest
from made_up import measurement, workload

from autoprec.report.document import Document
from autoprec.report.formats import markdown, table
from autoprec.report.verified import document
from autoprec.types import Measurement, Status
from autoprec.verify import Check

SHORT, LONG = (workload(phase="decode", kv_len=kv_len) for kv_len in (1024, 8192))
SKIPPED = {"status": Status.SKIPPED, "reason": "the time was up before its turn."}


def check(then: Measurement, now: Measurement, over: int = 0) -> Check:
    choice = made_up.profile([then]).choices[0]
    return Check(choice=choice, row=then, now=now, draws=712, over=over, worst=None)


def made(*checks: Check, holds: bool = False) -> Document:
    return document(checks, facts=[], notes=[], holds=holds)


def failing() -> Document:
    then = measurement("tf32", 11.28, workload=SHORT)
    other = measurement("fp16", 1.0, workload=LONG)
    late = measurement("fp16", None, None, workload=LONG, **SKIPPED)
    now = measurement("tf32", 164.3, workload=SHORT)
    return made(check(then, now), check(other, late))


FAILING = """\
The profile does not hold: 2 choices fail, 0 of 1424 fresh draws over the budget (0.0%), on 2
choices.
decode b1 q1 kv1024 32/8 d128 causal fp32, tf32: slower: 164.3 ms, and 11.28 ms in the profile.
decode b1 q1 kv8192 32/8 d128 causal fp32, fp16: not checked: the time was up before its turn.

choices
workload                                   path  draws  over  p50 ms then  now  verdict
decode b1 q1 kv1024 32/8 d128 causal fp32  tf32    712     0        11.3   164  fails
decode b1 q1 kv8192 32/8 d128 causal fp32  fp16    712     0         1.00    -  not checked

- left out for want of width: worst of budget, on; --format markdown has every column
"""


def test_each_choice_that_fails_is_a_sentence() -> None:
    assert table.render(failing(), 100, False) == FAILING


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_width_hides_why(width: int) -> None:
    text = table.render(failing(), width, False)
    said = " ".join(text.split())
    assert "tf32: slower: 164.3 ms, and 11.28 ms in the profile." in said
    assert "fp16: not checked: the time was up before its turn." in said
    assert "verdict" in text
    assert "slower: 164.3 ms, and 11.28 ms in the profile." in markdown.render(failing())


def test_what_holds_needs_no_sentence() -> None:
    row = measurement("tf32", 11.28, workload=SHORT)
    text = table.render(made(check(row, row), holds=True), 120, False)
    assert text.startswith(
        "The profile holds: 0 of 712 fresh draws over the budget (0.0%), on 1 choice.\n\n"
    )
    assert text.count("holds") == 2
