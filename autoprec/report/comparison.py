"""Profiles side by side: each against the first."""

from collections.abc import Iterator, Sequence

import pandas as pd

from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.facts import ceilings, device, variables
from autoprec.report.frames import compared
from autoprec.report.numbers import MISSING, counted, error, significant
from autoprec.report.outcomes import Verdict
from autoprec.report.pairs import Pair, faster, geometric_means, pairs
from autoprec.types import Profile, Workload

_MEANS = {
    "choices": "what each profile chose, whatever the path",
    "candidates": "the same path in both",
    "baselines": "the same baseline in both: what the machine alone changed",
}


def document(profiles: Sequence[tuple[str, Profile]]) -> Document:
    """Every profile against the first, path by path; the geometric means come last.

    Args:
        profiles: At least two, each with its label.
    """
    names = [_letter(position) for position in range(len(profiles))]
    others = list(zip(names, profiles, strict=True))[1:]
    first = profiles[0][1]
    return Document(
        facts=tuple(
            (name, f"{label}: {_what(profile)}")
            for name, (label, profile) in zip(names, profiles, strict=True)
        ),
        sentences=tuple(_verdict(first, profile, names[0], name) for name, (_, profile) in others),
        sections=tuple(
            section
            for name, (_, profile) in others
            for section in _against(
                first, profile, names[0], name, f"{name} against {names[0]}: " * (len(others) > 1)
            )
        ),
        notes=("no clear difference: the ranges from the 20th to the 80th percentile meet",),
        frame=pd.concat(
            [compared(first, profile, profiles[0][0], label) for _, (label, profile) in others],
            ignore_index=True,
        ),
    )


def _verdict(a: Profile, b: Profile, name_a: str, name_b: str) -> str:
    means = geometric_means(a, b)
    if not means:
        return f"{name_b} and {name_a} have nothing measured in common."
    what, (mean, count) = next(iter(means.items()))
    return (
        f"{name_b} against {name_a}: the {what} are {faster(mean)} in the geometric mean over "
        f"{counted(count, 'workload' if what == 'choices' else 'row')}."
    )


def _letter(position: int) -> str:
    """A, B, … Z, then P27 and on: short, so that it can stand in a column's title."""
    return chr(ord("A") + position) if position < 26 else f"P{position + 1}"


def _what(profile: Profile) -> str:
    return f"{profile.environment.device.name}, {profile.created_at}"


def _against(a: Profile, b: Profile, name_a: str, name_b: str, title: str) -> Iterator[Section]:
    """The sections that compare two profiles, their headings with a title before them."""
    both = (Column(name_a), Column(name_b))
    changed = tuple(
        Row((thing, *values)) for thing, *values in _environment(a, b) if len(set(values)) > 1
    )
    nothing = () if changed else ("nothing changed that the profiles record",)
    yield Section(f"{title}environment", (Column("changed"), *both), changed, nothing)
    differ = tuple(
        Row((str(workload), *paths))
        for workload, paths in _chosen(a, b).items()
        if len(set(paths)) > 1
    )
    nothing = () if differ else ("every workload of both has the same path chosen",)
    yield Section(f"{title}choices that differ", (Column("workload"), *both), differ, nothing)
    by_workload: dict[Workload, list[Pair]] = {}
    for pair in pairs(a, b):
        by_workload.setdefault(pair.workload, []).append(pair)
    for workload, its in by_workload.items():
        yield _section(f"{title}{workload}", its, name_a, name_b)
    yield Section(
        f"{title}geometric mean",
        (Column("of"), Column("n", Align.RIGHT), Column("change"), Column("compares")),
        tuple(
            Row((what, str(n), faster(mean), _MEANS[what]))
            for what, (mean, n) in geometric_means(a, b).items()
        ),
    )


def _section(heading: str, its: Sequence[Pair], name_a: str, name_b: str) -> Section:
    return Section(
        heading,
        (
            Column("path"),
            Column(f"{name_a} p50 ms", Align.POINT),
            Column(f"{name_b} p50 ms", Align.POINT),
            Column("change"),
            Column(f"{name_a} rel_l2", Align.RIGHT, rank=1),
            Column(f"{name_b} rel_l2", Align.RIGHT, rank=1),
            Column("chosen in"),
        ),
        tuple(_row(pair, name_a, name_b) for pair in its),
    )


def _row(pair: Pair, name_a: str, name_b: str) -> Row:
    sides = {name_a: pair.a, name_b: pair.b}
    times = (significant(side.measurement.p50_ms if side else None) for side in sides.values())
    errors = (error(side.worst("rel_l2") if side else None) for side in sides.values())
    chosen = [name for name, side in sides.items() if side and side.verdict is Verdict.CHOSEN]
    cells = (pair.path, *times, pair.change(name_a, name_b), *errors, ", ".join(chosen))
    return Row(cells, marked=bool(chosen))


def _chosen(a: Profile, b: Profile) -> dict[Workload, tuple[str, str]]:
    """The paths chosen for the workloads that both profiles know."""
    paths_a, paths_b = _paths(a), _paths(b)
    return {it: (path, paths_b[it]) for it, path in paths_a.items() if it in paths_b}


def _paths(profile: Profile) -> dict[Workload, str]:
    return {refusal.workload: "none within budget" for refusal in profile.refusals} | {
        choice.workload: choice.path for choice in profile.choices
    }


def _environment(a: Profile, b: Profile) -> list[tuple[str, str, str]]:
    """Everything beside the workload that times and errors depend on, in both profiles."""
    one, other = _conditions(a), _conditions(b)
    return [(thing, one[thing], other[thing]) for thing in one]


def _conditions(profile: Profile) -> dict[str, str]:
    it = profile.environment
    return {
        "device": device(it.device),
        "torch": it.torch,
        "triton": it.triton or "missing",
        "driver": it.driver or MISSING,
        "CUDA": it.cuda or MISSING,
        "python": it.python,
        "kernels": it.kernels,
        "variables": variables(it) or MISSING,
        "autoprec": profile.autoprec_version,
        "ceilings": ceilings(profile.ceilings),
        "budget": profile.budget,
        "baselines allowed": "yes" if profile.allow_baselines else "no",
    }
