"""How a plan stands on each of some workloads against the fastest peer within its budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoprec.policy.standard import Standard
from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.numbers import MISSING, counted, geometric_mean, significant, times
from autoprec.types import Measurement, Role, Status, Workload


@dataclass(frozen=True)
class Standing:
    """A workload's.

    Attributes:
        plan: What the plan runs; None where that was not measured.
        best: The fastest peer within the budget; None for none.
    """

    workload: Workload
    plan: Measurement | None
    best: Measurement | None

    @classmethod
    def of(cls, workload: Workload, its: Sequence[Measurement], held_to: Standard) -> "Standing":
        """Of a workload's rows and what these are held to."""
        ok = [row for row in its if row.status is Status.OK]
        peers = [row for row in ok if row.role is Role.BASELINE and held_to.keeps(row)]
        return cls(
            workload,
            next((row for row in ok if row.role is Role.CANDIDATE), None),
            min(peers, key=lambda row: row.median_ms, default=None),
        )

    @property
    def ratio(self) -> float | None:
        """The peer's time over the plan's."""
        if self.plan is None or self.best is None:
            return None
        return self.best.median_ms / self.plan.median_ms


def error_ratio(plan: Measurement | None, other: Measurement) -> float | None:
    """The plan's rel_l2 over another row's: the largest of all families, of the same draws."""
    if plan is None or plan is other or other.status is not Status.OK:
        return None
    pairs = [
        (errors["rel_l2"], other.errors[family]["rel_l2"])
        for family, errors in plan.errors.items()
        if family in other.errors
    ]
    return max((ours / its for ours, its in pairs if its), default=None)


def sentence(standings: Sequence[Standing]) -> str:
    """How it stands over all of them."""
    mean = geometric_mean(_ratios(standings))
    if mean is None:
        return "The plan and a peer within its budget were measured on no workload."
    return (
        f"The plan has {times(mean)} the speed of the fastest peer within its budget, in the "
        f"geometric mean over {counted(len(_ratios(standings)), 'workload')}."
    )


def section(standings: Sequence[Standing]) -> Section:
    """A row for each workload, and the means and the lowest ratios below them."""
    return Section(
        "all workloads, against the fastest peer within the budget",
        (
            Column("workload"),
            Column("plan", rank=3),
            Column("plan ms", Align.POINT),
            Column("peer", rank=2),
            Column("peer ms", Align.POINT),
            Column("ratio", Align.RIGHT),
            Column("error ratio", Align.RIGHT, rank=1),
        ),
        tuple(_row(it) for it in standings),
        tuple(_lines(standings)),
    )


def _row(it: Standing) -> Row:
    plan, best = it.plan, it.best
    return Row((
        str(it.workload),
        plan.path if plan else MISSING,
        significant(plan.p50_ms if plan else None),
        best.path if best else MISSING,
        significant(best.p50_ms if best else None),
        times(it.ratio),
        times(error_ratio(plan, best) if best else None),
    ))  # fmt: skip


def _lines(standings: Sequence[Standing]) -> Iterator[str]:
    """Over all workloads and, where there are several phases, over those of each."""
    phases = list(dict.fromkeys(it.workload.phase for it in standings))
    groups = [(phase.value, [it for it in standings if it.workload.phase is phase])
              for phase in phases]  # fmt: skip
    for name, its in [*(groups if len(groups) > 1 else []), ("all", list(standings))]:
        measured = [(it.ratio, it) for it in its if it.ratio is not None]
        if not measured:
            continue
        lowest, where = min(measured, key=lambda pair: pair[0])
        errors = [
            ratio for _, it in measured
            if it.best and (ratio := error_ratio(it.plan, it.best)) is not None
        ]  # fmt: skip
        of = f"{len(measured)} of {counted(len(its), 'workload')}"
        yield (
            f"{name}: ratio {times(geometric_mean(ratio for ratio, _ in measured))} in the "
            f"geometric mean over {of}, at the lowest {times(lowest)} on {where.workload}; "
            f"error ratio {times(max(errors, default=None))} at the most"
        )


def _ratios(standings: Sequence[Standing]) -> list[float]:
    return [it.ratio for it in standings if it.ratio is not None]
