"""How sure the choices' bounds are, in reports."""

from dataclasses import replace

import made_up
import pytest
from made_up import measurement, profile, workload

from autoprec.report import confidence
from autoprec.report.explain import explain
from autoprec.types import Measurement, Profile

DECODE = workload(phase="decode", kv_len=1024)


def row(path: str, draws: int | None) -> Measurement:
    sure = 0.0 if draws is None else 1 - 0.95**draws
    bounds = {} if draws is None else {"gauss": made_up.errors(2e-4)}
    return measurement(
        path, 1.0, 1e-4, workload=DECODE, n_draws=draws, confidence=sure, bounds=bounds,
        extremes={} if draws is None else {"tiny": made_up.errors(3e-4)},
    )  # fmt: skip


def made(draws: int | None) -> Profile:
    return profile([row("fp16", draws)])


def test_fact() -> None:
    assert confidence.fact(profile([])) == ""
    assert confidence.fact(made(None)) == (
        "none: choices rest on the largest errors measured, without a bound"
    )
    assert confidence.fact(made(64)) == (
        "of 64 draws or more: 96 % sure that 95 % of inputs keep to them"
    )
    assert confidence.fact(made(16)) == (
        "of 16 draws or more: 56 % sure that 95 % of inputs keep to them; 95 % sure takes 59 draws"
    )
    assert confidence.fact(made(0)) == (
        "none for 1 of 1 choice, for which no inputs were drawn; 95 % sure takes 59 draws"
    )
    several = [row("fp16", 16), *(replace(row("fp16", draws), workload=shape) for draws, shape in
               ((0, workload()), (None, workload(kv_len=64))))]  # fmt: skip
    assert confidence.fact(profile(several)) == (
        "of 16 draws or more: 56 % sure that 95 % of inputs keep to them; none for 1 of 3 choices, "
        "for which no inputs were drawn; 95 % sure takes 59 draws; 1 of 3 choices have no bound"
    )


@pytest.mark.parametrize(
    ("draws", "sure"),
    [(103, "99 %"), (104, "99.5 %"), (180, "99.99 %"), (192, "99.99 %"), (1000, "over 99.99 %")],
)
def test_many_draws_are_never_rounded_to_certainty(draws: int, sure: str) -> None:
    found = made(draws)
    assert confidence.fact(found) == (
        f"of {draws} draws or more: {sure} sure that 95 % of inputs keep to them"
    )
    heading = f"bound on the error of a head, {sure} sure for 95 % of inputs, "
    assert heading in explain(found, DECODE, width=120, colour=False)


def captured(draws: int, **heads: int) -> Profile:
    """A profile of one row, which had all captured heads."""
    least = min((draws, *heads.values()))
    return profile([replace(row("fp16", draws), captured=heads, confidence=1 - 0.95**least)])


def test_captured_heads_are_no_more_draws_than_there_are_of_them() -> None:
    assert confidence.fact(captured(60, captured=30)) == (
        "of 60 draws or more: 95 % sure that 95 % of inputs keep to them; of all 30 heads of "
        "captured: 79 % sure; 95 % sure takes 59 draws"
    )
    assert confidence.fact(captured(16, a=8, b=1)) == (
        "of 16 draws or more: 56 % sure that 95 % of inputs keep to them; of the one head of b: "
        "5 % sure; 95 % sure takes 59 draws"
    )
    assert confidence.fact(captured(64, captured=60)) == confidence.fact(made(64))


def test_the_choice_on_few_captured_heads_is_not_short_of_draws() -> None:
    found = captured(60, captured=30)
    assert [choice.path for choice in found.choices] == ["fp16"]
    assert confidence.short(found) == []
    assert confidence.few_heads(found) == ("captured", 30)
    assert confidence.least(found) == 1 - 0.95**60
    assert confidence.few_heads(captured(60, captured=59)) is None


def test_explain_says_how_many_heads_were_captured() -> None:
    text = explain(captured(64, captured=30), DECODE, width=120, colour=False)
    assert (
        "bound on the error of a head, 96 % sure for 95 % of inputs, from 64 draws, and 79 % from "
        "all 30 heads of captured\n" in text
    )


def test_choices_that_are_less_sure_than_asked() -> None:
    assert confidence.short(made(64)) == []
    assert confidence.short(made(None)) == []
    short = made(16)
    assert confidence.short(short) == short.measurements
    assert confidence.least(short) == 1 - 0.95**16


def test_explain_has_bounds_and_extremes() -> None:
    text = explain(made(64), DECODE, width=120, colour=False)
    assert (
        """\
bound on the error of a head, 96 % sure for 95 % of inputs, from 64 draws
inputs     rel_l2  row_rel_p999  row_rel_max   max_abs  lse_abs nats
gauss    2.00e-04      3.00e-04     4.00e-04  2.00e-03      1.00e-04

error on extreme inputs, which no budget holds
inputs     rel_l2  row_rel_p999  row_rel_max   max_abs  lse_abs nats
tiny     3.00e-04      4.50e-04     6.00e-04  3.00e-03      1.50e-04
"""
        in text
    )
