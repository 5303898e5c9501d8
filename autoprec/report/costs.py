"""What a choice costs, for ``autoprec explain``: time, memory and rate, and the errors measured."""

from collections.abc import Iterator, Mapping

from autoprec.draws import beside, confidence_of, percent_sure
from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.numbers import error, percent, significant, times
from autoprec.report.outcomes import Judged, Outcome
from autoprec.report.rates import ceiling, rate_text, unit
from autoprec.types import Conversion, Measurement, Profile

_CONVERSIONS = {
    Conversion.INCLUDED: "brought into the path's form inside the measured time",
    Conversion.AMORTISED: "brought into the path's form once, outside the measured time",
    Conversion.NONE: "used as they are",
}
_UNITS = {"lse_abs": "lse_abs nats"}


def costs(profile: Profile, used: Outcome, row: Judged) -> Iterator[tuple[str, str]]:
    """Storage, time, memory, rate and speed-up of the row that was chosen."""
    it = row.measurement
    yield "storage", f"K and V in {it.storage}, {_CONVERSIONS[it.conversion]}"
    yield (
        "time",
        f"{significant(it.p50_ms)} ms (p20 {significant(it.p20_ms)}, "
        f"p80 {significant(it.p80_ms)}, n {it.n})",
    )
    if used.prepared:
        its = significant(used.prepared.p50_ms)
        yield "prepared", f"{its} ms with K and V prepared once (plan.prepare_kv)"
    if it.workspace_gib is not None:
        yield "workspace", f"{significant(it.workspace_gib)} GiB beyond inputs and outputs"
    most, what = ceiling(it, profile.ceilings)
    of = f", {percent(row.ceiling_share)} of {what} of {significant(most)}" if most else ""
    yield "rate", f"{rate_text(it)} {unit(used.workload.phase)}{of}"
    if used.baseline:
        which = "the fastest baseline within the budget"
        if not used.baseline_within:
            which = "the fastest baseline, none being within the budget"
        its = significant(used.baseline.p50_ms)
        yield "speedup", f"{times(row.speedup)} over {used.baseline.path} ({its} ms), {which}"


def errors(it: Measurement, whose: str) -> Iterator[Section]:
    """The errors of whole outputs, the bounds, and the errors on extreme families.

    Args:
        whose: What to add to headings where they are of another workload; "" where not.
    """
    yield _error_table(f"error against fp64 attention{whose}", it.errors)
    if it.n_draws is not None:
        sure = f"{percent_sure(confidence_of(it.n_draws))} % sure for 95 % of inputs"
        sure += f", from {it.n_draws} draws"
        sure += beside(it.n_draws, it.captured)
        yield _error_table(f"bound on the error of a head, {sure}{whose}", it.bounds)
    if it.extremes:
        heading = f"error on extreme inputs, which no budget holds{whose}"
        yield _error_table(heading, it.extremes)


def _error_table(heading: str, errors: Mapping[str, Mapping[str, float]]) -> Section:
    metrics = list(dict.fromkeys(metric for numbers in errors.values() for metric in numbers))
    columns = (Column(_UNITS.get(metric, metric), Align.RIGHT) for metric in metrics)
    return Section(
        heading,
        (Column("inputs"), *columns),
        tuple(
            Row((family, *(error(numbers.get(metric)) for metric in metrics)))
            for family, numbers in errors.items()
        ),
    )
