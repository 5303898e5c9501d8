"""What ``autoprec tune`` is doing, on stderr: a bar in a terminal, a line for each workload."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
)
from rich.text import Text

from autoprec.budget import Budget
from autoprec.policy.contest import hold
from autoprec.probe.events import Event, Measured, Planned, Remark, Working
from autoprec.types import DEFAULT_CONFIDENCE, Measurement, Role, Status, Workload


class _TimeLeft(ProgressColumn):
    """Until the time limit."""

    max_refresh = 0.5

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def render(self, task: Task) -> Text:
        seconds = max(0, round(self._deadline - time.monotonic()))
        return Text(f"{seconds // 60}:{seconds % 60:02d} left at most")


class _Bar(Progress):
    """A bar with a line above it that says what is being done."""

    doing = "measuring what the machine can do at most"

    def get_renderables(self) -> Iterable[RenderableType]:
        yield Text(self.doing, no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table(self.tasks)


class Display:
    """Shows the events of a tune. A context manager.

    Args:
        budget: What a path must keep to.
        deadline: When measuring stops, on ``time.monotonic``'s clock.
        console: Where to write.
        allow_baselines: Whether a baseline may be chosen.
        confidence: Wanted of a bound.
    """

    def __init__(
        self,
        budget: Budget,
        deadline: float,
        console: Console,
        *,
        allow_baselines: bool,
        confidence: float = DEFAULT_CONFIDENCE,
    ) -> None:
        """Nothing is shown before the ``with``."""
        self._budget = budget
        self._allow_baselines, self._confidence = allow_baselines, confidence
        self._rows: list[Measurement] = []  # of the workload that is being measured
        self._bar = _Bar(
            BarColumn(),
            MofNCompleteColumn(),
            _TimeLeft(deadline),
            console=console,
            transient=True,
            refresh_per_second=2,  # seldom, for on a CPU the bar and the kernels share the cores
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        """Show the bar, where there is a terminal."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how the last workload ended, and take the bar away."""
        self._finish_workload()
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Planned(rows=rows):
                self._bar.update(self._task, total=rows)
            case Working(workload=workload, sentence=sentence):
                self._bar.doing = f"{workload}: {sentence}"
            case Measured(measurement=row):
                if self._rows and _line(self._rows[0]) != _line(row):
                    self._finish_workload()
                self._rows.append(row)
                self._bar.advance(self._task)
            case Remark(sentence=sentence):
                self._say(f"note: {sentence}")

    def _say(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _finish_workload(self) -> None:
        """One line for the workload that is done."""
        if self._rows:
            said = _in_mode(self._rows[0]) if self._rows[0].consistent else self._result()
            self._say(f"{self._rows[0].workload}: {said}")
        self._rows = []

    def _result(self) -> str:
        """What the workload would use, or why there is nothing yet."""
        held = hold(
            self._rows,
            self._budget,
            allow_baselines=self._allow_baselines,
            confidence=self._confidence,
        )
        if held.winner:
            row, error = held.winner.row, held.winner.reading
            return f"{row.path} takes {row.p50_ms:.3g} ms, {error.clause.key} {error.value:.1e}"
        ours = [row for row in self._rows if self._allow_baselines or row.role is Role.CANDIDATE]
        if any(row.status is Status.OK for row in ours):
            return f"nothing within {self._budget}"
        if any(row.status is Status.SKIPPED for row in ours):
            return "no time"
        return "nothing ran"


def _line(row: Measurement) -> tuple[Workload, bool]:
    """What rows share that have one line together."""
    return row.workload, row.consistent


def _in_mode(row: Measurement) -> str:
    """What came of a path in consistent mode."""
    if row.status is Status.OK:
        return f"{row.path} in consistent mode takes {row.p50_ms:.3g} ms"
    return f"{row.path} in consistent mode: {row.status}"
