"""``autoprec verify``: what came of each choice on fresh draws."""

from collections.abc import Sequence
from typing import Protocol

import pandas as pd

from autoprec.budget import Reading
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.numbers import MISSING, counted, significant
from autoprec.types import Choice, Measurement, Status


class Checked(Protocol):
    """What is known of a choice; ``verify.Check`` has the meanings."""

    @property
    def choice(self) -> Choice: ...  # noqa: D102
    @property
    def row(self) -> Measurement: ...  # noqa: D102
    @property
    def now(self) -> Measurement: ...  # noqa: D102
    @property
    def draws(self) -> int: ...  # noqa: D102
    @property
    def over(self) -> int: ...  # noqa: D102
    @property
    def worst(self) -> Reading | None: ...  # noqa: D102
    @property
    def trouble(self) -> str: ...  # noqa: D102


def document(
    checks: Sequence[Checked],
    *,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    holds: bool,
) -> Document:
    """A row for each choice.

    Args:
        checks: Of each choice.
        facts: What was verified, and how.
        notes: What else there is to know.
        holds: Whether everything is as the profile says.
    """
    draws, over = sum(it.draws for it in checks), sum(it.over for it in checks)
    share = f" ({over / draws:.1%})" if draws else ""
    verdict = "The profile holds" if holds else "The profile does not hold"
    return Document(
        facts=tuple(facts),
        sentences=(
            f"{verdict}: {_failing(checks)}{over} of {counted(draws, 'fresh draw')} over the "
            f"budget{share}, on {counted(len(checks), 'choice')}.",
            # the table has no room for why
            *(
                f"{it.choice.workload}, {it.choice.path}: {it.trouble.rstrip('.')}."
                for it in checks
                if it.trouble
            ),
        ),
        sections=(
            Section(
                "choices",
                (
                    Column("workload"),
                    Column("path"),
                    Column("draws", Align.RIGHT),
                    Column("over", Align.RIGHT),
                    Column("worst of budget", Align.RIGHT, rank=1),
                    Column("on", rank=2),
                    Column("p50 ms then", Align.POINT),
                    Column("now", Align.POINT),
                    Column("verdict"),
                ),
                tuple(map(_row, checks)),
            ),
        ),
        notes=tuple(notes),
        records=lambda: pd.DataFrame([_record(it) for it in checks]),
    )


def _failing(checks: Sequence[Checked]) -> str:
    """How many choices fail, as the beginning of a sentence; "" for none."""
    failing = sum(bool(it.trouble) for it in checks)
    if not failing:
        return ""
    return f"{counted(failing, 'choice')} {'fails' if failing == 1 else 'fail'}, "


def _verdict(it: Checked) -> str:
    """In a word what ``trouble`` says in a sentence."""
    if it.now.status is Status.SKIPPED:
        return "not checked"
    if it.now.status is not Status.OK:
        return it.now.status.value
    return "fails" if it.trouble else "holds"


def _row(it: Checked) -> Row:
    return Row((
        str(it.choice.workload),
        it.choice.path,
        str(it.draws),
        str(it.over),
        f"{1 / it.worst.margin:.0%}" if it.worst else MISSING,
        it.worst.family if it.worst else MISSING,
        significant(it.row.p50_ms),
        significant(it.now.p50_ms),
        _verdict(it),
    ))  # fmt: skip


def _record(it: Checked) -> dict[str, object]:
    return {
        "workload": str(it.choice.workload),
        "path": it.choice.path,
        "kernel": it.choice.kernel,
        "draws": it.draws,
        "over": it.over,
        "worst_of_budget": 1 / it.worst.margin if it.worst else None,
        "worst_family": it.worst.family if it.worst else "",
        "then_p50_ms": it.row.p50_ms,
        "now_p50_ms": it.now.p50_ms,
        "trouble": it.trouble,
    }
