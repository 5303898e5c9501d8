"""What to use and what it costs: a line for each workload, and what there is to know of it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.policy.apriori import LEFT_OUT
from autoprec.policy.reasons import ROUNDING_REL_L2
from autoprec.report import baselines, consistent, layers, missing, prepared
from autoprec.report.change import Trend
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.facts import facts
from autoprec.report.figures.figure import figures
from autoprec.report.held import MARK, metric, notes
from autoprec.report.labels import short
from autoprec.report.numbers import (
    MISSING,
    counted,
    error,
    geometric_mean,
    listed,
    percent,
    significant,
    times,
)
from autoprec.report.outcomes import Judged, Outcome, outcomes
from autoprec.report.rates import rate_text, unit
from autoprec.types import Dtype, Measurement, Phase, Profile, Status

if TYPE_CHECKING:
    import pandas as pd

_LEGEND = (
    "ceiling: part of what the machine was measured to do; decode of its copy bandwidth, prefill "
    "and append of its matrix-product rate in the path's type",
    "speedup: over the fastest baseline within the budget, on the same workload and types",
)


def document(profile: Profile, label: str = "") -> Document:
    """What ``autoprec tune`` ends with: what to use, and what is to be known of it.

    Args:
        profile: What was saved.
        label: Where, or whose.
    """
    found = outcomes(profile)
    return Document(
        facts=facts(profile, label),
        sentences=(*sentences(found), *layers.sentences(profile)),
        sections=(
            *sections(found, Budget.parse(profile.budget)),
            *consistent.sections(found),
        ),
        notes=(*legend(found), *missing.sentences(found, _may_change), *profile.remarks),
        records=lambda: records(found, label),
        kicker=kicker(profile),
        verdict=verdict(found, profile),
        figures=figures(profile, found),
    )


def _may_change(row: Measurement) -> bool:
    """Whether what was not measured may be another time: what is unsupported stays so."""
    return row.lacked_memory or row.status in (Status.FAILED, Status.SKIPPED)


def legend(found: Sequence[Outcome]) -> tuple[str, ...]:
    """What the columns mean that do not say it themselves."""
    rows = [row for outcome in found for row in outcome.rows]
    drawn = any(row.measurement.n_draws or row.measurement.captured for row in rows)
    budgets = [outcome.budget for outcome in found]
    return (*_LEGEND, *notes([row.held for row in rows], budgets, bounds=drawn))


def records(found: Sequence[Outcome], label: str) -> "pd.DataFrame":
    """What ``frames.frame`` gives."""
    from autoprec.report.frames import of_outcomes  # with pandas, so not before it is wanted

    return of_outcomes(found, label)


def kicker(profile: Profile) -> str:
    """Device and date, in a line."""
    return f"autoprec on {profile.environment.device.name}, {profile.created_at[:10]}"


def verdict(found: Sequence[Outcome], profile: Profile) -> str:
    """The whole profile in one sentence; "" where nothing was decided."""
    decided = [outcome for outcome in found if outcome.choice or outcome.refusal]
    kept = [outcome for outcome in decided if outcome.choice]
    if not decided:
        return ""
    budget = Budget.parse(profile.budget)
    if not kept:
        return f"No path {_fails(found, budget)} on any workload."
    where = f"all {len(kept)}" if len(kept) == len(found) else f"{len(kept)} of {len(found)}"
    mean = geometric_mean(o.chosen.speedup for o in kept if o.chosen and o.chosen.speedup)
    within = f"Within {budget}, the chosen paths"
    if mean is None:
        return f"{within} serve {where} workloads; no baseline was measured."
    return (
        f"{within} run {where} workloads at {times(mean)} the speed of the fastest baseline, in "
        "the geometric mean."
    )


def sentences(found: Sequence[Outcome], *, after_verdict: bool = False) -> tuple[str, ...]:
    """What there is to say of the whole profile.

    Args:
        found: Every workload.
        after_verdict: Whether ``verdict`` has given the speed-up already.
    """
    if not found:
        return ("Nothing was measured.",)
    paths = [outcome.choice.path for outcome in found if outcome.choice]
    decided = sum(bool(outcome.choice or outcome.refusal) for outcome in found)
    said = [_kept(paths, _fails(found), decided, len(found))]
    less = sum(outcome.chosen.held.partial for outcome in found if outcome.chosen)
    if less:
        said.append(
            f"On {counted(less, 'workload')} the error of the choice is of fewer inputs than "
            f"others': {MARK} beside it."
        )
    speedups = [o.chosen.speedup for o in found if o.chosen and o.chosen.speedup]
    mean = geometric_mean(speedups)
    if mean is not None and not after_verdict:
        said.append(
            f"{times(mean)} the speed of the fastest baseline, in the geometric mean over "
            f"{counted(len(speedups), 'workload')}."
        )
    noisy = sum(map(baselines.inconclusive, found))
    if noisy:
        said.append(
            f"On {counted(noisy, 'workload')} the times are too noisy to say whether the choice or "
            "the baseline is faster: inconclusive."
        )
    beaten = sum(baselines.faster(outcome) is not None for outcome in found)
    if beaten:
        said.append(
            f"On {counted(beaten, 'workload')} a baseline within the budget is faster than the "
            "choice: autoprec tune --allow-baselines lets the plan run it."
        )
    return tuple(said)


def _fails(found: Sequence[Outcome], budget: Budget | str = "the budget") -> str:
    """What no path does where nothing could be chosen: it runs, or at least keeps to the budget."""
    ran = any(outcome.refusal.ran for outcome in found if outcome.refusal)
    return f"keeps to {budget}" if ran else "runs"


def _kept(paths: Sequence[str], fails: str, decided: int, total: int) -> str:
    """How many of all workloads have a path within the budget, and which."""
    if not decided:
        return f"There was no time to decide on {counted(total, 'workload')}."
    late = f"there was no time for {total - decided}" if decided < total else ""
    if not paths:
        where = f" of {counted(decided, 'workload')}, and {late}" if late else " workload"
        return f"No path {fails} on any{where}."
    names = [f"{path} on {paths.count(path)}" for path in dict.fromkeys(paths)]
    have = "has" if len(paths) == 1 else "have"
    where = f"{len(paths)} of {counted(total, 'workload')} {have}"
    return f"{where} a path within the budget: {listed(names)}{'; ' if late else ''}{late}."


def sections(found: Sequence[Outcome], budget: Budget) -> Iterator[Section]:
    """A table for each phase, with a row for each workload."""
    for phase in Phase:
        ours = [outcome for outcome in found if outcome.workload.phase is phase]
        if not ours:
            continue
        heading, names = short([outcome.workload for outcome in ours])
        yield Section(
            heading=heading,
            columns=(
                Column("workload"),
                Column("path"),
                Column("kernel", rank=2),
                Column("p50 ms", Align.POINT),
                Column(unit(phase), Align.POINT),
                Column("ceiling", Align.RIGHT, rank=1),
                Column(metric(ours[0].budget).title, Align.RIGHT),
                Column("whole outputs", Align.RIGHT, rank=5),
                Column("worst on", rank=4),
                Column("speedup", Align.RIGHT),
                Column("over", rank=3),
                Column("verdict"),
            ),
            rows=tuple(map(_row, names, ours)),
            notes=tuple(_notes(names, ours, budget)),
        )


def _row(name: str, outcome: Outcome) -> Row:
    row = outcome.chosen
    if row is None:
        verdict = "no time"
        if outcome.refusal:
            verdict = "over budget" if outcome.refusal.ran else "nothing runs"
        return Row((name, "none", *[MISSING] * 9, verdict))
    return Row((
        name,
        row.measurement.path,
        row.measurement.kernel,
        significant(row.measurement.p50_ms),
        rate_text(row.measurement),
        percent(row.ceiling_share),
        str(row.held),
        error(row.worst(row.held.metric.key)),
        row.held.family,
        times(row.speedup),
        outcome.baseline.path if outcome.baseline else MISSING,
        _verdict(outcome, row),
    ))  # fmt: skip


def _verdict(outcome: Outcome, row: Judged) -> str:
    if baselines.faster(outcome):
        return "baseline faster"
    if baselines.inconclusive(outcome):
        return Trend.INCONCLUSIVE.value
    return "baseline as fast" if baselines.as_fast(outcome) else row.held.within


def _notes(names: Sequence[str], found: Sequence[Outcome], budget: Budget) -> Iterator[str]:
    """What is to be known of each workload."""
    for name, outcome in zip(names, found, strict=True):
        if outcome.refusal:
            yield f"{name}: no path {_fails([outcome], budget)}. {_reached(outcome)}."
            continue
        for sentence in (baselines.sentence(outcome), prepared.sentence(outcome)):
            if sentence:
                yield f"{name}: {sentence}"
        if outcome.chosen and outcome.baseline and not outcome.baseline_within:
            yield (
                f"{name}: no baseline keeps to the budget; the speedup is over "
                f"{outcome.baseline.path}, the fastest of all"
            )
    outputs = dict.fromkeys(o.workload.out_dtype for o in found if o.refusal and o.refusal.ran)
    yield from filter(None, (_rounding(dtype, budget) for dtype in outputs))


def _reached(outcome: Outcome) -> str:
    """Every path with its error, the most accurate first, and then what was not measured."""
    rows = [row for row in outcome.rows if not row.measurement.aside]
    measured = [row for row in rows if row.measurement.status is Status.OK]
    others = [row for row in rows if row.measurement.status is not Status.OK]
    by_error = sorted(measured, key=lambda row: row.held.largest or 0.0)
    reached = [f"{row.measurement.path} {row.held}" for row in by_error]
    without = [
        f"{row.measurement.path} {'left out' if row.reason.startswith(LEFT_OUT) else row.verdict}"
        for row in others
    ]
    named = ", ".join(dict.fromkeys([*reached, *without]))
    return f"Reached: {named}" if reached else named


def _rounding(dtype: Dtype, budget: Budget) -> str:
    cost = ROUNDING_REL_L2.get(dtype, 0.0)
    bounds = [c.limit() for c in budget.clauses if c.key == "rel_l2" and not c.reference]
    if all(bound >= cost for bound in bounds):
        return ""
    return f"rounding the output to {dtype} alone costs {cost:.1e}: try --out-dtype fp32"
