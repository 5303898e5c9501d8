"""What it would gain to prepare K and V once and not in every call."""

from collections.abc import Iterable

from autoprec.report.numbers import significant
from autoprec.report.outcomes import Outcome

LEGEND = "(prepared): K and V brought into the path's form once, outside the time; never chosen"
"""What the label of a row means."""

_NOTABLE = 1.05


def sentence(outcome: Outcome) -> str:
    """Says that the choice is notably faster with K and V prepared; "" where it is not."""
    without, chosen = outcome.prepared, outcome.chosen
    if without is None or chosen is None:
        return ""
    its, mine = without.median_ms, chosen.measurement.median_ms
    if mine <= _NOTABLE * its:
        return ""
    return (
        f"K and V prepared once (plan.prepare_kv): {significant(its)} against "
        f"{significant(mine)} ms"
    )


def legend(found: Iterable[Outcome]) -> tuple[str, ...]:
    """The meaning of the label, where a row has it."""
    rows = (row.measurement for outcome in found for row in outcome.rows)
    return (LEGEND,) if any(it.prepared and it.p50_ms for it in rows) else ()
