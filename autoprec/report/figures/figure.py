"""Every picture of a profile: numbers and names, before anything is drawn."""

from collections.abc import Sequence

from autoprec.report.figures.heat import Heat, heat
from autoprec.report.figures.pareto import Kind, Pareto, measured, pareto
from autoprec.report.figures.speed import Speed, speed
from autoprec.report.numbers import counted
from autoprec.report.outcomes import Outcome
from autoprec.types import Phase, Profile, Workload

Figure = Pareto | Speed | Heat

KINDS = {"pareto": Pareto, "speed": Speed, "errors": Heat}
"""What ``--plot`` takes."""


def figures(profile: Profile, found: Sequence[Outcome]) -> tuple[Figure, ...]:
    """Every picture of a profile: speeds, phase by phase, and then errors.

    Args:
        profile: What was measured.
        found: Its outcomes.
    """
    speeds: list[Figure] = []
    errors: list[Figure] = []
    for phase in Phase:
        ours = [it for it in found if it.workload.phase is phase and any(measured(it))]
        groups: dict[str, list[Outcome]] = {}
        for outcome in ours:
            groups.setdefault(_types(outcome.workload), []).append(outcome)
        for dtypes, group in groups.items():
            title = f"{phase.value.capitalize()}, {dtypes.replace('>', ' to ')}"
            by_error = pareto(title, group)
            speeds.extend([by_error] if by_error.marks else [])
            speeds.append(speed(title, group, profile.ceilings))
            errors.extend([heat(title, group)] if by_error.marks else [])
    return (*speeds, *errors)


def told(figure: Figure) -> str:
    """What a picture shows, in words, for who cannot see it."""
    match figure:
        case Pareto():
            chosen = [mark.label for mark in figure.marks if mark.kind is Kind.CHOSEN]
            return (
                f"{figure.title}: speed against {figure.metric} of "
                f"{counted(len(figure.marks), 'path')} and baselines over "
                f"{counted(figure.workloads, 'workload')}{_budget(figure)}; "
                f"{'; '.join(chosen) or 'nothing chosen'}"
            )
        case Speed():
            return f"{figure.title}: {figure.unit} against the number of keys, with the roofline"
        case Heat():
            return f"{figure.title}: the largest {figure.metric} of each path"


def _budget(figure: Pareto) -> str:
    return "" if figure.bound is None else f", the budget at {figure.bound:g}"


def _types(it: Workload) -> str:
    """The types of a workload: ``bf16``, or ``bf16>fp32`` where the output has another."""
    if it.input_dtype == it.out_dtype:
        return it.input_dtype.value
    return f"{it.input_dtype}>{it.out_dtype}"
