"""Profiles side by side: each against the first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.report.change import SAME_WITHIN, Trend, faster
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.numbers import MISSING, counted, listed, significant
from autoprec.report.outcomes import Outcome, Verdict, outcomes
from autoprec.report.pairs import Pair, geometric_means, measured_in, pairs
from autoprec.types import Profile, Workload

if TYPE_CHECKING:
    import pandas as pd

_MEANS = {
    "choices": "what each profile chose, whatever the path",
    "candidates": "the same path in both",
    "baselines": "the same baseline in both: what the machine alone changed",
}


_NOTES = (
    f"same: surely no more than {100 * SAME_WITHIN:g}% apart",
    "inconclusive: the difference is not larger than the noise, or the ranges from the 20th to the "
    "80th percentile meet",
)


@dataclass(frozen=True)
class _Side:
    """A profile, the letter it goes by, and its label."""

    name: str
    label: str
    profile: Profile
    outcomes: list[Outcome]


@dataclass(frozen=True)
class _Match:
    """Two profiles, and every path of either."""

    a: _Side
    b: _Side
    pairs: list[Pair]

    @property
    def means(self) -> dict[str, tuple[float, int]]:
        """How much faster the second is, and over how many rows."""
        return geometric_means(self.a.outcomes, self.b.outcomes, self.pairs)


def document(profiles: Sequence[tuple[str, Profile]]) -> Document:
    """Every profile against the first, path by path; the geometric means come last.

    Args:
        profiles: At least two, each with its label.
    """
    first, *others = (
        _Side(_letter(position), label, profile, outcomes(profile))
        for position, (label, profile) in enumerate(profiles)
    )
    matches = [_Match(first, other, pairs(first.outcomes, other.outcomes)) for other in others]
    return Document(
        facts=tuple(
            (side.name, f"{side.label}: {_what(side.profile)}") for side in (first, *others)
        ),
        sentences=tuple(sentence for match in matches for sentence in _sentences(match)),
        sections=tuple(
            replace(section, heading=f"{_title(match)}: {section.heading}")
            if len(matches) > 1
            else section
            for match in matches
            for section in _sections(match)
        ),
        notes=_NOTES,
        records=lambda: _records(matches),
        kicker="autoprec, profiles compared",
        folded_heading="Every path of every workload",
    )


def _records(matches: Sequence[_Match]) -> "pd.DataFrame":
    import pandas as pd  # not before it is wanted

    from autoprec.report.frames import of_pairs

    frames = [of_pairs(match.pairs, match.a.label, match.b.label) for match in matches]
    return pd.concat(frames, ignore_index=True)


def _letter(position: int) -> str:
    """A, B, … Z, then P27 and on: short, so that it can stand in a column's title."""
    return chr(ord("A") + position) if position < 26 else f"P{position + 1}"


def _what(profile: Profile) -> str:
    return f"{profile.environment.device.name}, {profile.created_at}"


def _title(match: _Match) -> str:
    return f"{match.b.name} against {match.a.name}"


def _sentences(match: _Match) -> Iterator[str]:
    """How the choices changed in the mean, and what became of how many paths."""
    if not match.means:
        yield f"{match.b.name} and {match.a.name} have nothing measured in common."
        return
    what, (mean, count) = next(iter(match.means.items()))
    yield (
        f"{_title(match)}: the {what} are {faster(mean)} in the geometric mean over "
        f"{counted(count, 'workload' if what == 'choices' else 'row')}."
    )
    trends = [pair.step.trend for pair in match.pairs if pair.step and not pair.variant]
    if trends:
        counts = [f"{trends.count(trend)} {trend}" for trend in Trend if trend in trends]
        yield f"{_title(match)}: of {counted(len(trends), 'time')} in both, {listed(counts)}."
    without = [side.name for side in (match.a, match.b) if not _drawn(side.profile)]
    if len(without) == 1:
        yield (
            f"{_title(match)}: errors of the two are not of the same draws: {without[0]} has no "
            "bounds, and its errors are of whole outputs alone."
        )


def _drawn(profile: Profile) -> bool:
    """Whether any of its errors is of draws too."""
    return any(row.bounds for row in profile.measurements)


def _sections(match: _Match) -> Iterator[Section]:
    """What changed, the choices that differ, every shared workload, and the means."""
    yield _environment(match)
    yield from _choices(match)
    by_workload: dict[Workload, list[Pair]] = {}
    for pair in match.pairs:
        by_workload.setdefault(pair.workload, []).append(pair)
    alone: list[str] = []
    for workload, its in by_workload.items():
        in_a = any(measured_in(pair.a) for pair in its)
        in_b = any(measured_in(pair.b) for pair in its)
        if in_a and in_b:
            yield _workload(str(workload), its, match)
        elif in_a or in_b:
            alone.append(f"only in {(match.a if in_a else match.b).name}: {workload}")
    if alone:
        yield Section("workloads that only one has", notes=tuple(alone))
    rows = tuple(
        Row((what, str(n), faster(mean), _MEANS[what])) for what, (mean, n) in match.means.items()
    )
    if rows:
        columns = (Column("of"), Column("n", Align.RIGHT), Column("change"), Column("compares"))
        yield Section("geometric mean", columns, rows)


def _workload(heading: str, its: Sequence[Pair], match: _Match) -> Section:
    a, b = match.a.name, match.b.name
    return Section(
        heading,
        (
            Column("path"),
            Column(f"{a} p50 ms", Align.POINT),
            Column(f"{b} p50 ms", Align.POINT),
            Column("change"),
            Column(f"{a} rel_l2", Align.RIGHT, rank=1),
            Column(f"{b} rel_l2", Align.RIGHT, rank=1),
            Column("chosen in"),
        ),
        tuple(_row(pair, a, b) for pair in its if pair.measured),
        folded=True,
        summary=_became(its),
    )


def _became(its: Sequence[Pair]) -> str:
    """What became of the path that the first profile chose."""
    chosen = (pair for pair in its if pair.a and pair.a.verdict is Verdict.CHOSEN)
    return next((f"{pair.path} {pair.step}" for pair in chosen if pair.step), "")


def _row(pair: Pair, name_a: str, name_b: str) -> Row:
    sides = {name_a: pair.a, name_b: pair.b}
    times = (significant(side.measurement.p50_ms if side else None) for side in sides.values())
    errors = (str(side.held) if side else MISSING for side in sides.values())
    chosen = [name for name, side in sides.items() if side and side.verdict is Verdict.CHOSEN]
    cells = (pair.label, *times, pair.change(name_a, name_b), *errors, ", ".join(chosen))
    return Row(cells, marked=bool(chosen))


def _choices(match: _Match) -> Iterator[Section]:
    """The workloads that both profiles decided, and differently."""
    a, b = _paths(match.a.profile), _paths(match.b.profile)
    shared = [workload for workload in a if workload in b]
    if not shared:
        return
    rows = [Row((str(it), a[it], b[it])) for it in shared if a[it] != b[it]]
    yield Section(
        "choices that differ",
        (Column("workload"), Column(match.a.name), Column(match.b.name)),
        tuple(rows),
        () if rows else ("none: both choose the same path on every workload they share",),
    )


def _paths(profile: Profile) -> dict[Workload, str]:
    return {refusal.workload: "none within budget" for refusal in profile.refusals} | {
        choice.workload: choice.path for choice in profile.choices
    }


def _environment(match: _Match) -> Section:
    """What times and errors depend on beside the workload, where it differs."""
    a, b = _conditions(match.a.profile), _conditions(match.b.profile)
    rows = [
        Row((thing, a.get(thing, MISSING), b.get(thing, MISSING)))
        for thing in a | b
        if a.get(thing) != b.get(thing)
    ]
    return Section(
        "what changed",
        (Column("thing"), Column(match.a.name), Column(match.b.name)),
        tuple(rows),
        () if rows else ("nothing that the profiles record",),
    )


def _conditions(profile: Profile) -> dict[str, str]:
    it = profile.environment
    return {
        "device": it.device.name,
        "capability": f"{it.device.kind} {it.device.capability}",
        "memory GiB": f"{it.device.memory_gib:g}",
        "units": str(it.device.units),
        "driver": it.driver or MISSING,
        "CUDA": it.cuda or MISSING,
        "torch": it.torch,
        "triton": it.triton or "missing",
        "python": it.python,
        "autoprec": profile.autoprec_version,
        "kernels": it.kernels,
        **it.variables,
        "budget": str(Budget.parse(profile.budget)),
        "baselines allowed": "yes" if profile.allow_baselines else "no",
        "copy GB/s": significant(profile.ceilings.copy_gb_s),
        **{
            f"{dtype} matrix product TFLOP/s": significant(rate)
            for dtype, rate in profile.ceilings.gemm_tflops.items()
        },
    }
