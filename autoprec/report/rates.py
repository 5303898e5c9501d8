"""How fast a measurement is, in its phase's unit, and as a part of what the machine can do."""

from autoprec.paths import PATHS
from autoprec.report.numbers import significant
from autoprec.types import Ceilings, Measurement, Phase


def unit(phase: Phase) -> str:
    """The unit of a phase's rate: decode reads, the others compute."""
    return "GB/s" if phase is Phase.DECODE else "TFLOP/s"


def rate(measurement: Measurement) -> float | None:
    """The rate of a measurement in its phase's unit; None where it was not measured."""
    return measurement.gb_s if _decodes(measurement) else measurement.tflops


def rate_text(measurement: Measurement) -> str:
    """The same for people, without the unit."""
    return significant(rate(measurement))


def ceiling(measurement: Measurement, ceilings: Ceilings) -> tuple[float, str]:
    """What the machine can do at most of what a measurement does, as it was measured.

    Prefill and append compute: against the rate of a large matrix product whose operands have the
    type of the path's (of a baseline, the input's). fp32 holds every number of the other types, so
    its rate is the ceiling where it is the faster one, as on CPUs without units for fp16 or tf32.
    Operations are counted once, so that a path of three products reaches a third at most.

    Decode reads: its rate of K and V against the rate of a copy. A copy's figure counts bytes read
    and bytes written, and memory that only reads moves as many bytes as both together; so all of
    it is the denominator. K and V that stay in a cache can be above 100 %.

    Returns:
        The rate, 0 where it was not measured, and what it is of.
    """
    if _decodes(measurement):
        return ceilings.copy_gb_s, "the copy bandwidth"
    path = PATHS.get(measurement.path)
    operand = path.operand if path else measurement.workload.input_dtype.value
    rates = {name: ceilings.gemm_tflops.get(name, 0.0) for name in (operand, "fp32")}
    fastest = max(rates, key=lambda name: rates[name])
    return rates[fastest], f"the {fastest} matrix-product rate"


def share(measurement: Measurement, ceilings: Ceilings) -> float | None:
    """The rate over the ceiling; None where one of them was not measured."""
    most, reached = ceiling(measurement, ceilings)[0], rate(measurement)
    return reached / most if reached is not None and most > 0 else None


def tokens_s(measurement: Measurement) -> float | None:
    """New tokens of all requests per second; None where it was not measured."""
    it = measurement.workload
    return it.new_tokens / measurement.p50_ms * 1e3 if measurement.p50_ms else None


def _decodes(measurement: Measurement) -> bool:
    return measurement.workload.phase is Phase.DECODE
