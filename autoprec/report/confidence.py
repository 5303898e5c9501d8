"""How sure the bounds are on which a profile's choices rest."""

from autoprec.draws import draws_needed
from autoprec.types import Measurement, Profile, Status


def fact(profile: Profile) -> str:
    """How sure the bounds of all choices are; "" where there is no choice."""
    rows = chosen(profile)
    if not rows:
        return ""
    draws = [row.n_draws for row in rows if row.n_draws is not None]
    if not draws:
        return "none: choices rest on the largest errors measured, without a bound"
    without = len(rows) - len(draws)
    said = f"{least(profile):.0%} or more that 95 % of inputs keep to it ({min(draws)} draws)"
    if short(profile):
        said += f"; {profile.confidence:.0%} takes {draws_needed(profile.confidence)}"
    return f"{said}; {without} of {len(rows)} choices have no bound" if without else said


def short(profile: Profile) -> list[Measurement]:
    """Rows that were chosen with fewer draws than the confidence asked needs."""
    needed = draws_needed(profile.confidence)
    return [row for row in chosen(profile) if row.n_draws is not None and row.n_draws < needed]


def least(profile: Profile) -> float:
    """The confidence of the choice that is least sure."""
    return min((row.confidence for row in chosen(profile) if row.n_draws is not None), default=0.0)


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
