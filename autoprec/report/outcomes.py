"""Every measurement of a profile beside what was chosen: its verdict, and what it compares to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autoprec.budget import Budget
from autoprec.policy.contest import Contest, hold
from autoprec.policy.standard import judged
from autoprec.report.held import Extent, Held, metric
from autoprec.report.rates import share
from autoprec.types import (
    Choice,
    Dtype,
    Measurement,
    Phase,
    Profile,
    Refusal,
    Role,
    Status,
    Workload,
    by_workload,
)


class Verdict(StrEnum):
    """What became of a measurement."""

    CHOSEN = "chosen"
    SLOWER = "slower"  # within the budget, and clearly slower than another
    LESS_ACCURATE = "less accurate"  # within the budget, and no clear difference in time
    PREPARED = "prepared"  # within the budget, its time without the conversion of K and V
    CACHED = "cached"  # within the budget, K and V in a cache in another form than the inputs'
    CONSISTENT = "consistent"  # within the budget, in consistent mode
    FEW_DRAWS = "too few draws"  # within the budget on fewer draws than the confidence needs
    OVER_BUDGET = "over budget"
    BASELINE = "baseline"  # within the budget, and not ours to choose
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A measurement and how it stands.

    Attributes:
        reason: Why it was not taken, or not measured; "" where it is the choice.
        ceiling_share: Part of what the machine can do at most, as ``rates.ceiling`` defines it.
        held: Its errors as the budget sees them.
        speedup: Median time of the outcome's baseline over that of this measurement.
    """

    measurement: Measurement
    verdict: Verdict
    reason: str
    ceiling_share: float | None = None
    held: Held = field(default_factory=Held)
    speedup: float | None = None

    @property
    def label(self) -> str:
        """The path, and its variant where it is one."""
        return labelled(self.measurement.path, self.measurement.variant)

    def worst(self, metric: str) -> float | None:
        """The largest value of an error metric of whole outputs, over the input families."""
        errors = self.measurement.errors.values()
        return max((numbers[metric] for numbers in errors if metric in numbers), default=None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One workload: what was measured, and what came of it.

    Attributes:
        rows: The fastest first, what was not measured last.
        choice: None where there is none.
        refusal: None where there is a choice, or where there was no time to know.
        baseline: What speed-ups are over: the fastest baseline within the budget; where there is
            none, the fastest of all.
        baseline_within: Whether it keeps to the budget.
        budget: The clauses that hold for its phase.
    """

    workload: Workload
    rows: tuple[Judged, ...]
    choice: Choice | None
    refusal: Refusal | None
    baseline: Measurement | None
    baseline_within: bool
    budget: Budget

    @property
    def chosen(self) -> Judged | None:
        """The row that was chosen."""
        return next((row for row in self.rows if row.verdict is Verdict.CHOSEN), None)

    @property
    def prepared(self) -> Measurement | None:
        """What was chosen, with K and V prepared beforehand; None where that was not measured."""
        if self.chosen is None:
            return None
        identity = _identity(self.chosen.measurement)
        rows = (row.measurement for row in self.rows if row.verdict is Verdict.PREPARED)
        return next((m for m in rows if _identity(m) == identity), None)


def labelled(path: str, variant: str) -> str:
    """A path as tables name its rows: ``fp16x3``, ``fp16x3 (prepared)``."""
    return f"{path} ({variant})" if variant else path


def outcomes(profile: Profile) -> list[Outcome]:
    """Every workload of a profile, by phase, then types, then sizes."""
    budget = Budget.parse(profile.budget)
    rows = by_workload(profile.measurements)
    extent = Extent(profile.measurements)
    choices = {choice.workload: choice for choice in profile.choices}
    refusals = {refusal.workload: refusal for refusal in profile.refusals}
    return [
        _outcome(its, budget, profile, extent, choices.get(workload), refusals.get(workload))
        for workload, its in sorted(rows.items(), key=lambda item: _order(item[0]))
    ]


def _order(it: Workload) -> tuple[object, ...]:
    phases, dtypes = list(Phase), list(Dtype)
    return (
        phases.index(it.phase), it.q_heads, it.kv_heads, it.head_dim, it.head_dim_v, it.mask,
        it.window or 0, it.soft_cap or 0, it.sinks, it.layout, it.page_size or 0,
        dtypes.index(it.input_dtype), dtypes.index(it.out_dtype), it.batch, it.kv_len, it.q_len,
    )  # fmt: skip


def _outcome(
    measurements: Sequence[Measurement],
    budget: Budget,
    profile: Profile,
    extent: Extent,
    choice: Choice | None,
    refusal: Refusal | None,
) -> Outcome:
    baselines = [m for m in measurements if m.role is Role.BASELINE and m.status is Status.OK]
    held = hold(
        measurements,
        budget,
        allow_baselines=profile.allow_baselines,
        confidence=profile.confidence,
    )
    within = [m for m in baselines if held.standard.violation(m) is None]
    baseline = min(within or baselines, key=lambda m: m.median_ms, default=None)
    chosen = _chosen(measurements, choice)
    level = [entry.row for entry in held.level]
    rejected = choice.rejected if choice else refusal.rejected if refusal else {}
    shown, expected = metric(held.standard.budget), extent.expected(measurements)
    rows = []
    for m in sorted(measurements, key=lambda m: (m.status is not Status.OK, m.median_ms)):
        if m.status is not Status.OK:
            rows.append(Judged(measurement=m, verdict=Verdict(m.status), reason=m.reason))
            continue
        verdict = _verdict(m, held, chosen=m is chosen, level=m in level)
        alike = [o for o in measurements if o.path == m.path and not o.aside]
        rows.append(
            Judged(
                measurement=m,
                verdict=verdict,
                reason=rejected.get(m.path, "")
                if alike == [m]
                else _reason(m, verdict, held, chosen),
                ceiling_share=share(m, profile.ceilings),
                held=Held(judged(m, held.standard.layer), shown, expected, drawn=extent.drawn(m)),
                speedup=baseline.median_ms / m.median_ms if baseline else None,
            )
        )
    return Outcome(
        workload=measurements[0].workload,
        rows=tuple(rows),
        choice=choice,
        refusal=refusal,
        baseline=baseline,
        baseline_within=bool(within),
        budget=held.standard.budget,
    )


def _chosen(measurements: Sequence[Measurement], choice: Choice | None) -> Measurement | None:
    if choice is None:
        return None
    identity = (choice.path, choice.kernel, choice.storage)
    same = [
        m
        for m in measurements
        if m.status is Status.OK and not m.aside and _identity(m) == identity
    ]
    return min(same, key=lambda m: m.median_ms, default=None)


def _identity(measurement: Measurement) -> tuple[str, str, str]:
    return (measurement.path, measurement.kernel, measurement.storage)


def _verdict(measurement: Measurement, held: Contest, *, chosen: bool, level: bool) -> Verdict:
    if chosen:
        return Verdict.CHOSEN
    if held.standard.violation(measurement):
        return Verdict.OVER_BUDGET
    if measurement.aside:
        return _beside(measurement)
    if measurement.role is Role.BASELINE:
        return Verdict.BASELINE
    if level:
        return Verdict.LESS_ACCURATE
    entry = next(entry for entry in held.entries if entry.row is measurement)
    short = entry not in held.eligible and entry.draws < held.needed
    return Verdict.FEW_DRAWS if short else Verdict.SLOWER


def _beside(measurement: Measurement) -> Verdict:
    """What a variant of a path is that takes part in no contest."""
    if measurement.consistent:
        return Verdict.CONSISTENT
    return Verdict.CACHED if measurement.cached else Verdict.PREPARED


def _reason(
    measurement: Measurement, verdict: Verdict, held: Contest, chosen: Measurement | None
) -> str:
    """Why a row was not taken, where the choice's sentence may speak of another of its path."""
    if verdict is Verdict.OVER_BUDGET:
        return str(held.standard.reading(measurement))
    if verdict is Verdict.FEW_DRAWS:
        drawn = f"{measurement.n_draws} of the {held.needed} draws"
        return f"within the budget on {drawn} that it needs to be chosen"
    if verdict is Verdict.PREPARED:
        return "its time leaves out the conversion of K and V, so it is never chosen"
    if verdict is Verdict.CACHED:
        return f"it reads a cache in {measurement.storage}, brought into that form by the append"
    if verdict is Verdict.CONSISTENT:
        return "it is what a plan in consistent mode runs"
    if chosen is None or verdict is Verdict.CHOSEN:
        return ""
    ratio = measurement.median_ms / chosen.median_ms
    what = f"{chosen.path} of {chosen.kernel}"
    if verdict is Verdict.LESS_ACCURATE:
        return f"no clear difference in time from {what}, which is more accurate"
    return f"takes {ratio:.2f}x the time of {what}"
