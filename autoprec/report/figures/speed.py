"""Speed against the number of keys, below the roofline of the measured ceilings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from autoprec.paths import PATHS
from autoprec.report.labels import distinct
from autoprec.report.numbers import significant
from autoprec.report.outcomes import Outcome
from autoprec.report.rates import rate, unit
from autoprec.report.roofline import roof
from autoprec.types import Ceilings, Measurement, Phase, Workload

_MOST_LINES = 6  # more on one plot cannot be told apart


@dataclass(frozen=True)
class Line:
    """Rates by kv_len: of what was chosen, and of the fastest baseline within the budget."""

    label: str
    chosen: tuple[tuple[int, float], ...]
    baseline: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Roof:
    """The most that the measured ceilings allow, by kv_len."""

    label: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Speed:
    """Speed against kv_len, of one phase and one pair of types.

    Attributes:
        unit: Of the rates.
        left_out: Lines for which there was no room.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    roofs: tuple[Roof, ...]
    left_out: int


def speed(title: str, group: Sequence[Outcome], ceilings: Ceilings) -> Speed:
    """Some workloads of one phase and one pair of types: a line for each length of the others."""
    series: dict[Workload, list[Outcome]] = {}
    for outcome in group:
        series.setdefault(_at(outcome.workload, 2), []).append(outcome)
    longest = sorted(series, key=lambda key: -len(series[key]))
    kept = [key for key in series if key in longest[:_MOST_LINES]]
    lines = tuple(
        Line(
            label=name,
            chosen=_points(series[key], lambda it: it.chosen.measurement if it.chosen else None),
            baseline=_points(series[key], lambda it: it.baseline if it.baseline_within else None),
        )
        for key, name in zip(kept, distinct(kept), strict=True)
    )
    phase = group[0].workload.phase
    return Speed(
        title=title,
        unit=unit(phase),
        lines=lines,
        roofs=tuple(_roofs(series[longest[0]], group, ceilings)),
        left_out=len(series) - len(kept),
    )


def _at(workload: Workload, kv_len: int) -> Workload:
    """The workload with another length; an append keeps its new tokens."""
    if workload.phase is Phase.APPEND:
        return replace(workload, kv_len=max(kv_len, workload.q_len + 1))
    q_len = kv_len if workload.phase is Phase.PREFILL else workload.q_len
    return replace(workload, kv_len=kv_len, q_len=q_len)


def _points(
    group: Iterable[Outcome], which: Callable[[Outcome], Measurement | None]
) -> tuple[tuple[int, float], ...]:
    found = ((outcome.workload.kv_len, which(outcome)) for outcome in group)
    return tuple(sorted((kv_len, rate(it) or 0.0) for kv_len, it in found if it is not None))


def _roofs(
    series: Sequence[Outcome], group: Sequence[Outcome], ceilings: Ceilings
) -> Iterator[Roof]:
    """The roofline of the types that were chosen, over all lengths of the group."""
    workload = series[0].workload
    chosen = [outcome.chosen.measurement.path for outcome in group if outcome.chosen]
    operands = dict.fromkeys(
        PATHS[path].operand if path in PATHS else workload.input_dtype.value for path in chosen
    )
    lengths = [outcome.workload.kv_len for outcome in group]
    steps = _steps(max(1, round(min(lengths) / 1.2)), round(max(lengths) * 1.2) + 1)
    seen: dict[tuple[float, ...], str] = {}
    for operand in operands:
        rates = [roof(_at(workload, kv_len), ceilings, operand) for kv_len in steps]
        known = tuple(value for value in rates if value is not None)
        if len(known) == len(steps):
            seen.setdefault(known, operand)
    for known, operand in seen.items():
        label = f"{operand} products, {significant(ceilings.gemm_tflops[operand])}"
        if workload.phase is Phase.DECODE:
            label = f"copy bandwidth, {significant(ceilings.copy_gb_s)}"
        yield Roof(label, tuple(zip(steps, known, strict=True)))


def _steps(low: int, high: int) -> list[int]:
    """Lengths from one to another, each a quarter of an octave on."""
    count = max(1, round(4 * (high.bit_length() - low.bit_length())))
    return sorted({round(low * (high / low) ** (i / count)) for i in range(count + 1)})
