"""How sure the bounds are on which a profile's choices rest."""

from autoprec.draws import all_heads, confidence_of, draws_needed, fewest, percent_sure
from autoprec.report.numbers import counted
from autoprec.types import Measurement, Profile, Status


def fact(profile: Profile) -> str:
    """How sure the bounds of all choices are; "" where there is no choice."""
    rows = chosen(profile)
    if not rows:
        return ""
    bounded = [row for row in rows if row.n_draws is not None]
    if not bounded:
        return "none: choices rest on the largest errors measured, without a bound"
    parts = []
    of_all = f"of {counted(len(rows), 'choice')}"
    drawn = [row for row in bounded if row.n_draws]
    if drawn:
        draws = min(row.n_draws or 0 for row in drawn)
        sure = _sure(confidence_of(draws))
        parts.append(
            f"of {counted(draws, 'draw')} or more: {sure} that 95 % of inputs keep to them"
        )
    if few := few_heads(profile):
        parts.append(f"of {all_heads(*few)}: {_sure(confidence_of(few[1]))}")
    if undrawn := len(bounded) - len(drawn):
        parts.append(f"none for {undrawn} {of_all}, for which no inputs were drawn")
    if short(profile) or few:
        parts.append(f"{_sure(profile.confidence)} takes {draws_needed(profile.confidence)} draws")
    if without := len(rows) - len(bounded):
        parts.append(f"{without} {of_all} have no bound")
    return "; ".join(parts)


def _sure(confidence: float) -> str:
    return f"{percent_sure(confidence)} % sure"


def short(profile: Profile) -> list[Measurement]:
    """Rows that were chosen with fewer draws than the confidence asked needs."""
    needed = draws_needed(profile.confidence)
    return [row for row in chosen(profile) if row.n_draws is not None and row.n_draws < needed]


def least(profile: Profile) -> float:
    """The confidence of the choice with the fewest draws."""
    draws = (row.n_draws for row in chosen(profile) if row.n_draws is not None)
    return confidence_of(min(draws, default=0))


def few_heads(profile: Profile) -> tuple[str, int] | None:
    """The captured family of choices that has the fewest heads, and how many.

    None where all have as many as the confidence asked needs.
    """
    return fewest((row.captured for row in chosen(profile)), draws_needed(profile.confidence))


def chosen(profile: Profile) -> list[Measurement]:
    """The rows on which the choices rest."""
    keys = {(c.workload, c.path, c.kernel, c.storage, repr(c.config)) for c in profile.choices}
    return [
        row
        for row in profile.measurements
        if row.status is Status.OK
        and not row.aside
        and (row.workload, row.path, row.kernel, row.storage, repr(row.config)) in keys
    ]
