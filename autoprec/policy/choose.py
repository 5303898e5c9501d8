"""Measurements and a budget → what each workload should use, and why not each other path."""

from collections.abc import Sequence
from dataclasses import replace

from autoprec.budget import Budget
from autoprec.policy import contest, reasons
from autoprec.types import DEFAULT_CONFIDENCE, Choice, Measurement, Profile, Refusal, by_workload


def choose(
    measurements: Sequence[Measurement],
    budget: Budget,
    *,
    allow_baselines: bool = False,
    confidence: float = DEFAULT_CONFIDENCE,
    layer: int | None = None,
) -> tuple[list[Choice], list[Refusal]]:
    """Choose for every workload measured: the fastest path that keeps to the budget.

    Where the ranges of times meet, the more accurate (``contest.py`` has the rule). Every other
    path measured, or not measured for a reason, gets a sentence. A workload of which no candidate
    was measured and some were skipped is left out: there was no time to know.

    Args:
        measurements: Rows of any number of workloads; their order decides nothing but the order
            of what is returned.
        budget: The error accepted.
        allow_baselines: Whether a baseline may be chosen.
        confidence: Wanted of a bound; rows with fewer draws are taken only where no other will do.
        layer: The layer that is chosen for; None for one that the budget does not name.

    Returns:
        The choices, and the workloads for which no path keeps to the budget.
    """
    choices: list[Choice] = []
    refusals: list[Refusal] = []
    for workload, rows in by_workload(measurements).items():
        held = contest.hold(
            rows, budget, allow_baselines=allow_baselines, confidence=confidence, layer=layer
        )
        rejected = reasons.rejected(held)
        if held.winner is None:
            if not held.undecided:
                refusals.append(Refusal(workload=workload, rejected=rejected, ran=held.ran))
            continue
        row = held.winner.row
        choices.append(
            Choice(
                workload=workload,
                path=row.path,
                kernel=row.kernel,
                config=row.config,
                storage=row.storage,
                margin=held.winner.reading.margin,
                rejected=rejected,
            )
        )
    return choices, refusals


def choose_again(
    profile: Profile, budget: Budget | None = None, *, layer: int | None = None
) -> Profile:
    """The profile with the choices of its measurements, made as it says; nothing is measured.

    Args:
        profile: Whose confidence holds, and whether baselines may be chosen.
        budget: The error accepted, which the profile then has; None: its own.
        layer: The layer that is chosen for; None for one that the budget does not name.
    """
    choices, refusals = choose(
        profile.measurements,
        Budget.parse(profile.budget) if budget is None else budget,
        allow_baselines=profile.allow_baselines,
        confidence=profile.confidence,
        layer=layer,
    )
    wanted = profile.budget if budget is None else str(budget)
    return replace(profile, budget=wanted, choices=choices, refusals=refusals)
