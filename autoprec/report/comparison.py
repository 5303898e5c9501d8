"""Profiles side by side: each against the first."""

from collections.abc import Iterator, Sequence

import pandas as pd

from autoprec.budget import Budget
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.frames import compared
from autoprec.report.numbers import MISSING, counted, error, significant
from autoprec.report.outcomes import Verdict
from autoprec.report.pairs import Pair, faster, geometric_means, measured_in, pairs
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
    yield _environment(a, b, name_a, name_b, title)
    chosen = _chosen(a, b)
    if chosen:
        yield _choices(chosen, name_a, name_b, title)
    by_workload: dict[Workload, list[Pair]] = {}
    for pair in pairs(a, b):
        by_workload.setdefault(pair.workload, []).append(pair)
    alone: list[str] = []
    for workload, its in by_workload.items():
        in_a = any(measured_in(pair.a) for pair in its)
        in_b = any(measured_in(pair.b) for pair in its)
        if in_a and in_b:
            yield _section(f"{title}{workload}", its, name_a, name_b)
        elif in_a or in_b:
            alone.append(f"only in {name_a if in_a else name_b}: {workload}")
    if alone:
        yield Section(f"{title}workloads that only one has", notes=tuple(alone))
    means = geometric_means(a, b)
    if means:
        yield Section(
            f"{title}geometric mean",
            (Column("of"), Column("n", Align.RIGHT), Column("change"), Column("compares")),
            tuple(
                Row((what, str(n), faster(mean), _MEANS[what])) for what, (mean, n) in means.items()
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
        tuple(_row(pair, name_a, name_b) for pair in its if pair.measured),
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


def _choices(
    chosen: dict[Workload, tuple[str, str]], name_a: str, name_b: str, title: str
) -> Section:
    rows = [Row((str(workload), *both)) for workload, both in chosen.items() if both[0] != both[1]]
    return Section(
        f"{title}choices that differ",
        (Column("workload"), Column(name_a), Column(name_b)),
        tuple(rows),
        () if rows else ("none: both choose the same path on every workload they share",),
    )


def _environment(a: Profile, b: Profile, name_a: str, name_b: str, title: str) -> Section:
    """What times and errors depend on beside the workload, where it differs."""
    one, other = _conditions(a), _conditions(b)
    rows = [
        Row((thing, one.get(thing, MISSING), other.get(thing, MISSING)))
        for thing in one | other
        if one.get(thing) != other.get(thing)
    ]
    return Section(
        f"{title}what changed",
        (Column("thing"), Column(name_a), Column(name_b)),
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
