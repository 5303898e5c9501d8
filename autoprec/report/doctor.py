"""``autoprec doctor``: what was looked at, how it stands, and what to do."""

from collections.abc import Sequence
from typing import Protocol

import pandas as pd

from autoprec.report.document import Column, Document, Row, Section
from autoprec.report.numbers import counted


class Found(Protocol):
    """What ``probe.doctor`` gives."""

    @property
    def what(self) -> str:
        """What was looked at."""

    @property
    def state(self) -> str:
        """``ok``, ``note`` or ``problem``."""

    @property
    def sentence(self) -> str:
        """What was found."""

    @property
    def hint(self) -> str:
        """What to do about it, or ""."""


def document(findings: Sequence[Found]) -> Document:
    """A row for each finding; what to do stands below."""
    problems = sum(it.state == "problem" for it in findings)
    notes = sum(it.state == "note" for it in findings)
    said = f"{counted(problems, 'problem')}, {counted(notes, 'note')}."
    return Document(
        facts=(),
        sentences=(said if problems or notes else "Everything is as it should be.",),
        sections=(
            Section(
                "what was looked at",
                (Column("what"), Column("state"), Column("found", fills=True)),
                tuple(
                    Row((it.what, it.state, it.sentence), marked=it.state == "problem")
                    for it in findings
                ),
                tuple(f"{it.what}: try {it.hint}" for it in findings if it.hint),
            ),
        ),
        notes=(),
        records=lambda: pd.DataFrame(
            [(it.what, str(it.state), it.sentence, it.hint) for it in findings],
            columns=["what", "state", "found", "try"],
        ),
    )
