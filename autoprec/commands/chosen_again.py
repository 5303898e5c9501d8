"""What a tune changes of the choices that were there: they are made again for what it is asked."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from autoprec.budget import Budget
from autoprec.commands.console import tell
from autoprec.policy.choose import choose_again
from autoprec.report.numbers import counted, listed
from autoprec.types import Choice, Profile, Workload

_NOTHING = "nothing"


def tell_changes(
    previous: Profile,
    budget: Budget,
    confidence: float,
    *,
    allow_baselines: bool,
    effort: str | None,
) -> None:
    """Say that what was there is chosen again, where that was for something else, and the effect.

    What is measured anew may change further choices; the report has those.

    Args:
        previous: What was there.
        budget: The error accepted now.
        confidence: Wanted of a bound now.
        allow_baselines: Whether a baseline may be chosen now.
        effort: Whose confidence that is; None where it was given itself.
    """
    reasons = []
    if Budget.parse(previous.budget) != budget:
        reasons.append(f"the budget is now {budget} (it was {previous.budget})")
    if previous.confidence != confidence:
        whose = f", that of --effort {effort}" if effort else ""
        was = f"(it was {_percent(previous.confidence)})"
        reasons.append(f"the confidence is now {_percent(confidence)}{whose} {was}")
    if previous.allow_baselines != allow_baselines:
        reasons.append(f"baselines may {'now' if allow_baselines else 'no longer'} be chosen")
    if not reasons:
        return
    asked = replace(previous, allow_baselines=allow_baselines, confidence=confidence)
    there = counted(len({row.workload for row in previous.measurements}), "workload")
    were = "that was there is" if there == "1 workload" else "that were there are"
    changes = list(_changes(previous.choices, choose_again(asked, budget).choices))
    tell(
        f"note: the {there} {were} chosen again, since {listed(reasons)}: "
        f"{listed(changes) if changes else 'no choice changes'}"
    )


def _percent(share: float) -> str:
    """Such as ``95%`` and ``99.99%``: a confidence is never rounded to certainty."""
    return f"{100 * share:.6g}%"


def _changes(before: Sequence[Choice], after: Sequence[Choice]) -> Iterator[str]:
    """Such as ``fp16 in place of bf16 on 2 workloads``."""
    was, now = _by_workload(before), _by_workload(after)
    pairs = Counter(
        _named(was.get(workload), now.get(workload)) for workload in dict.fromkeys([*was, *now])
    )
    for (old, new), count in pairs.items():
        if old != new:
            yield f"{new} in place of {old} on {counted(count, 'workload')}"


def _by_workload(choices: Sequence[Choice]) -> dict[Workload, Choice]:
    return {choice.workload: choice for choice in choices}


def _named(old: Choice | None, new: Choice | None) -> tuple[str, str]:
    """Both by path; by kernel too where that is all that differs."""
    if old and new and old.path == new.path and old.kernel != new.kernel:
        return f"{old.path} of {old.kernel}", f"{new.path} of {new.kernel}"
    return old.path if old else _NOTHING, new.path if new else _NOTHING
