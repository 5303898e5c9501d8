"""How ``autoprec tune`` ends: what is missing, as notes, or as the error that exits with 1."""

import shlex
from pathlib import Path

from autoprec import tune as tuning
from autoprec.commands.console import tell
from autoprec.draws import all_heads, confidence_of, draws_needed, percent_sure
from autoprec.errors import BudgetError
from autoprec.report import confidence
from autoprec.report.numbers import counted
from autoprec.types import Profile


def conclude(profile: Profile, file: Path, limit_s: float) -> None:
    """Say what is missing from a profile that was saved.

    Args:
        profile: What was saved.
        file: Where.
        limit_s: The time limit that it was measured under, in seconds.

    Raises:
        BudgetError: No path keeps to the budget on some workload, or none runs.
    """
    _tell_untimed(profile)
    _tell_unsure(profile)
    _tell_empty(profile, file, limit_s)
    _refuse_unmet(profile, file)


def _tell_untimed(profile: Profile) -> None:
    """Say what there was no time for, and for how many workloads nothing is chosen for that."""
    missing = tuning.skipped(profile)
    if not missing:
        return
    workloads = {row.workload for row in profile.measurements}
    chosen = {choice.workload for choice in profile.choices}
    tried = {refusal.workload for refusal in tuning.unmet(profile)}
    undecided = len(workloads - chosen - tried)
    nothing = f"nothing is chosen for {undecided} of {counted(len(workloads), 'workload')}: "
    tell(
        f"note: {nothing if undecided else ''}there was no time for "
        f"{counted(len(missing), 'measurement')} on "
        f"{counted(len({row.workload for row in missing}), 'workload')}; "
        "try a longer --time-limit, or fewer workloads"
    )


def _tell_unsure(profile: Profile) -> None:
    """Say which choices had too few draws, and whether too few heads were captured for more."""
    asked, short = percent_sure(profile.confidence), confidence.short(profile)
    if short:
        tell(
            f"note: {counted(len(short), 'choice')} had fewer draws than "
            f"{asked} % confidence takes, and {percent_sure(confidence.least(profile))} % is "
            "what the least sure has; a longer --time-limit completes them"
        )
    few = confidence.few_heads(profile)
    if few:
        tell(
            f"note: {asked} % confidence takes {draws_needed(profile.confidence)} heads, and "
            f"{percent_sure(confidence_of(few[1]))} % is what {all_heads(*few)} can give; capture "
            "more, of other texts"
        )


def _tell_empty(profile: Profile, file: Path, limit_s: float) -> None:
    """Say that no plan can be made of the profile, where nothing was decided, and what goes on."""
    if not profile.choices and not profile.refusals:
        tell(
            f"note: no plan can be loaded from {file} yet; this goes on: "
            f"{_longer(profile.recorded_by, 2 * limit_s)}"
        )


def _longer(command: str, limit_s: float) -> str:
    """A command line with another time limit."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word == "--time-limit":
            next(words, None)
        elif not word.startswith("--time-limit="):
            kept.append(word)
    return shlex.join([*kept, "--time-limit", f"{limit_s:g}"])


def _refuse_unmet(profile: Profile, file: Path) -> None:
    """Refuse a profile with workloads for which everything was tried and nothing can be chosen.

    Raises:
        BudgetError: There are such.
    """
    unmet = tuning.unmet(profile)
    if not unmet:
        return
    over = sum(refusal.ran for refusal in unmet)
    total = counted(len(profile.choices) + len(unmet), "workload")
    said = [f"no path tried keeps to {profile.budget} on {over} of {total}"] if over else []
    if over < len(unmet):
        said.append(f"no path tried runs on {len(unmet) - over} of {total}")
    raise BudgetError(
        f"{'; '.join(said)}.",
        "a larger --budget, or --out-dtype fp32 where the output's rounding is what costs"
        if over
        else f"autoprec explain {file}, which says why",
    )
