"""Whether what profiles chose is slower than in the first of them: a check for CI."""

from collections.abc import Iterator, Mapping, Sequence

from autoprec.errors import CheckError, InputError
from autoprec.report.change import change
from autoprec.report.numbers import counted, significant
from autoprec.report.outcomes import Outcome, outcomes
from autoprec.types import Profile, Workload

_EXAMPLE = "--fail-if-slower 5%"


def parse(text: str) -> float:
    """A part such as 0.05, from ``5%`` or ``5``.

    Raises:
        InputError: It is no percentage from 0 on.
    """
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 1e6:
        raise InputError(f"--fail-if-slower must be a percentage, got {text!r}.", _EXAMPLE)
    return percent / 100


def refuse_one(count: int) -> None:
    """Refuse to compare a profile with nothing.

    Args:
        count: How many profiles there are.

    Raises:
        InputError: There is only one.
    """
    if count < 2:
        raise InputError(
            "--fail-if-slower compares profiles, and there is one.",
            f"autoprec report BEFORE.json AFTER.json {_EXAMPLE}",
        )


def check(profiles: Sequence[tuple[str, Profile]], limit: float) -> None:
    """Refuse profiles that chose what is surely slower than the first one's choice.

    What counts is what a user gets: on each workload that both have, the time of whatever path
    each chose. A workload that has lost its path counts too.

    Args:
        profiles: At least two, each with its label.
        limit: How much slower is accepted, as a part.

    Raises:
        CheckError: Something is slower, or there is nothing to compare.
        InputError: There is only one profile.
    """
    refuse_one(len(profiles))
    (_, first), *others = profiles
    before = {it.workload: it for it in outcomes(first) if it.chosen}
    for label, profile in others:
        after = [it for it in outcomes(profile) if it.workload in before]
        after = [it for it in after if it.chosen or it.refusal]
        if not after:
            raise CheckError(
                f"{label} and the first profile have decided no workload in common.",
                "autoprec tune with the same workloads",
            )
        found = list(_slower(before, after, limit))
        if found:
            raise CheckError(
                f"{label} is more than {100 * limit:g}% slower on {counted(len(found), 'workload')}"
                f" of {len(after)}: {'; '.join(found)}."
            )


def _slower(
    before: Mapping[Workload, Outcome], after: Sequence[Outcome], limit: float
) -> Iterator[str]:
    for outcome in after:
        was, now = before[outcome.workload].chosen, outcome.chosen
        if was is None:
            continue
        if now is None:
            yield f"{outcome.workload} has no path within the budget any more"
            continue
        step = change(was.measurement, now.measurement)
        if step.slower_than(limit):
            a, b = (significant(it.measurement.p50_ms) for it in (was, now))
            path = was.measurement.path
            if now.measurement.path != path:
                path += f", now {now.measurement.path}"
            yield f"{outcome.workload} ({path}) {step}, {a} to {b} ms"
