"""``autoprec bench``: the plan's choice and its peers, workload by workload."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.policy.standard import Standard, judged, standard
from autoprec.report.change import change
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.facts import device, versions
from autoprec.report.numbers import MISSING, error, significant, times
from autoprec.report.rates import rate_text, unit
from autoprec.report.standing import Standing, error_ratio, sentence
from autoprec.report.standing import section as over_all
from autoprec.types import Environment, Measurement, Status, Workload, by_workload

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("workload", "role", "path", "kernel", "status", "p20_ms", "p50_ms", "p80_ms", "n",
           "rel_l2", "error_ratio", "within_budget", "reason")  # fmt: skip
"""Of the records, one for each row."""

_NO_LSE = "gives no log-sum-exp"
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
    """A table for each workload and one of them all, and how the plan stands over all of them.

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
    standings = [Standing.of(workload, its, held_to[workload]) for workload, its in found.items()]
    ok = [row for row in rows if row.status is Status.OK]
    kept = [held_to[row.workload].keeps(row) for row in ok]
    lacking = any(_lacks_lse(row, held_to[row.workload]) for row in ok)
    return Document(
        facts=(
            ("profile", label),
            ("device", device(environment.device)),
            ("versions", versions(environment)),
            ("peers", ", ".join(f"{name} {version}" for name, version in libraries.items())),
            ("budget", f"{budget} on every input family"),
        ),
        sentences=(sentence(standings),),
        sections=(
            *(
                _section(
                    it,
                    found[it.workload],
                    beside[it.workload],
                    held_to[it.workload],
                    notes.get(it.workload, ""),
                )
                for it in standings
            ),
            *([over_all(standings)] if len(standings) > 1 else []),
        ),
        notes=(
            "plan against it, ratio: the time of the other over the plan's; above 1x the plan is "
            "faster",
            "error ratio: the plan's rel_l2 over the other's, the largest of all families; below "
            "1x the plan is more accurate",
            "samples of all rows of a workload are taken in turn, each with cold caches",
            *([_NOT_COMPARABLE] if None in kept else []),
            *([f"{_NO_LSE}: the budget bounds the error of that"] if lacking else []),
        ),
        records=lambda: _records(rows, standings, held_to),
        kicker=f"autoprec bench on {environment.device.name}",
    )


def _section(
    standing: Standing,
    its: Sequence[Measurement],
    references: Sequence[Measurement],
    held_to: Standard,
    note: str,
) -> Section:
    workload, plan = standing.workload, standing.plan
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
            Column("kernel", rank=1),
            Column("p50 ms", Align.POINT),
            Column("p20-p80 ms", Align.RIGHT, rank=3),
            Column(unit(workload.phase), Align.POINT),
            Column("rel_l2", Align.RIGHT),
            Column("error ratio", Align.RIGHT, rank=2),
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
    if _lacks_lse(it, held_to):
        stands = _NO_LSE
    verdict = ", ".join(filter(None, (verdict, stands)))
    cells = (
        it.path, it.kernel, significant(it.p50_ms),
        f"{significant(it.p20_ms)}-{significant(it.p80_ms)}", rate_text(it), error(_worst(it)),
        times(error_ratio(plan, it)), against, verdict,
    )  # fmt: skip
    return Row(cells, marked=ours)


def _lacks_lse(it: Measurement, held_to: Standard) -> bool:
    """Whether the budget bounds the error of a log-sum-exp that there is none of."""
    given = any("lse_abs" in errors for errors in it.errors.values())
    return held_to.budget.bounds_lse and not given


def _records(
    rows: Sequence[Measurement],
    standings: Sequence[Standing],
    held_to: Mapping[Workload, Standard],
) -> "pd.DataFrame":
    import pandas as pd

    plans = {it.workload: it.plan for it in standings}

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
                "error_ratio": error_ratio(plans[m.workload], m),
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
