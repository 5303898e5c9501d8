"""``autoprec bench``: the plan's choice and its peers, workload by workload."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.policy.standard import Standard, judged, standard
from autoprec.report.change import change
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.facts import device, versions
from autoprec.report.numbers import MISSING, counted, error, geometric_mean, significant, times
from autoprec.report.rates import rate_text, unit
from autoprec.types import Environment, Measurement, Role, Status, Workload, by_workload

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("workload", "role", "path", "kernel", "status", "p20_ms", "p50_ms", "p80_ms", "n",
           "rel_l2", "within_budget", "reason")  # fmt: skip
"""Of the records, one for each row."""

_NOT_COMPARABLE = "not comparable: what the budget compares with was not measured on that workload"


def document(
    environment: Environment,
    libraries: Mapping[str, str],
    budget: Budget,
    rows: Sequence[Measurement],
    notes: Mapping[Workload, str],
    label: str,
    references: Sequence[Measurement] = (),
) -> Document:
    """A table for each workload, and how the plan stands over all of them.

    Args:
        environment: The machine.
        libraries: Versions of other libraries, by name.
        budget: The plan's.
        rows: What was measured; of a workload, what the plan runs comes before its peers.
        notes: By workload, what a person should know of the plan's choice.
        label: The profile's.
        references: What the budget compares with, where that is not among the rows.
    """
    found = by_workload(rows)
    beside = {
        workload: [row for row in references if row.workload == workload] for workload in found
    }
    held_to = {
        workload: standard([*its, *beside[workload]], budget) for workload, its in found.items()
    }
    kept = [held_to[row.workload].keeps(row) for row in rows if row.status is Status.OK]
    return Document(
        facts=(
            ("profile", label),
            ("device", device(environment.device)),
            ("versions", versions(environment)),
            ("peers", ", ".join(f"{name} {version}" for name, version in libraries.items())),
            ("budget", f"{budget} on every input family"),
        ),
        sentences=tuple(_sentences(found, held_to)),
        sections=tuple(
            _section(workload, its, beside[workload], held_to[workload], notes.get(workload, ""))
            for workload, its in found.items()
        ),
        notes=(
            "plan against it: the time of the other over the plan's; above 1x the plan is faster",
            "samples of all rows of a workload are taken in turn, each with cold caches",
            *([_NOT_COMPARABLE] if None in kept else []),
        ),
        records=lambda: _records(rows, held_to),
        kicker=f"autoprec bench on {environment.device.name}",
    )


def _sentences(
    found: Mapping[Workload, Sequence[Measurement]], held_to: Mapping[Workload, Standard]
) -> Iterator[str]:
    ratios = []
    for workload, its in found.items():
        plan, best = _plan(its), _best(its, held_to[workload])
        if plan and best:
            ratios.append(best.median_ms / plan.median_ms)
    mean = geometric_mean(ratios)
    if mean is None:
        yield "The plan and a peer within its budget were measured on no workload."
        return
    yield (
        f"The plan has {times(mean)} the speed of the fastest peer within its budget, in the "
        f"geometric mean over {counted(len(ratios), 'workload')}."
    )


def _plan(its: Sequence[Measurement]) -> Measurement | None:
    return next((m for m in its if m.role is Role.CANDIDATE and m.status is Status.OK), None)


def _best(its: Sequence[Measurement], held_to: Standard) -> Measurement | None:
    """The fastest peer within the budget."""
    peers = [m for m in its if m.role is Role.BASELINE and m.status is Status.OK]
    within = [m for m in peers if held_to.keeps(m)]
    return min(within, key=lambda m: m.median_ms, default=None)


def _section(
    workload: Workload,
    its: Sequence[Measurement],
    references: Sequence[Measurement],
    held_to: Standard,
    note: str,
) -> Section:
    plan = _plan(its)
    measured = sorted((m for m in its if m.status is Status.OK), key=lambda m: m.median_ms)
    missing = [
        f"{m.path} {m.status}: {m.reason.rstrip('.')}"
        for m in (*its, *references)
        if m.status is not Status.OK
    ]
    compared = [
        f"the budget compares with {m.path} of {m.kernel}: {significant(m.p50_ms)} ms, "
        f"rel_l2 {error(_worst(m))}"
        for m in references
        if m.status is Status.OK
    ]
    return Section(
        str(workload),
        (
            Column("what"),
            Column("kernel", rank=2),
            Column("p50 ms", Align.POINT),
            Column("p20-p80 ms", Align.RIGHT, rank=3),
            Column(unit(workload.phase), Align.POINT),
            Column("rel_l2", Align.RIGHT),
            Column("plan against it", Align.RIGHT),
            Column("verdict"),
        ),
        tuple(_row(m, plan, held_to) for m in measured),
        (*([f"the plan: {note}"] if note else []), *compared, *missing),
    )


def _row(it: Measurement, plan: Measurement | None, held_to: Standard) -> Row:
    ours = it is plan
    against, verdict = MISSING, "the plan" if ours else ""
    if plan is not None and not ours:
        against = times(it.median_ms / plan.median_ms)
        verdict = str(change(plan, it))
    stands = {True: "", False: "over budget", None: "not comparable"}[held_to.keeps(it)]
    verdict = ", ".join(filter(None, (verdict, stands)))
    cells = (
        it.path, it.kernel, significant(it.p50_ms),
        f"{significant(it.p20_ms)}-{significant(it.p80_ms)}", rate_text(it), error(_worst(it)),
        against, verdict,
    )  # fmt: skip
    return Row(cells, marked=ours)


def _records(rows: Sequence[Measurement], held_to: Mapping[Workload, Standard]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "workload": str(m.workload),
                "role": m.role.value,
                "path": m.path,
                "kernel": m.kernel,
                "status": m.status.value,
                "p20_ms": m.p20_ms,
                "p50_ms": m.p50_ms,
                "p80_ms": m.p80_ms,
                "n": m.n,
                "rel_l2": _worst(m),
                "within_budget": _within(m, held_to[m.workload]),
                "reason": m.reason,
            }
            for m in rows
        ],
        columns=list(COLUMNS),
    )


def _within(it: Measurement, held_to: Standard) -> bool | None:
    """Whether a row keeps to the budget; None where it, or what it is held to, is not measured."""
    return held_to.keeps(it) if it.status is Status.OK else None


def _worst(it: Measurement) -> float | None:
    """Its rel_l2 as the budget sees it, on the family where that is largest."""
    return max((numbers["rel_l2"] for numbers in judged(it).values()), default=None)
