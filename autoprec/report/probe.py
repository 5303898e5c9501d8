"""``autoprec probe``: the device, what it is doing, and the most it can do."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from autoprec.probe.nvml import DeviceState
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.facts import device, variables, versions
from autoprec.report.formats import write
from autoprec.report.numbers import significant
from autoprec.types import Ceilings, DotMode, Environment

_UNKNOWN = "not known"


def render(
    environment: Environment,
    state: DeviceState,
    ceilings: Ceilings,
    format: str = "table",
    *,
    fingerprint: Sequence[DotMode] = (),
    remarks: Sequence[str] = (),
) -> str:
    """What a machine is, does and can do; ends in a line feed.

    Args:
        environment: The device and the versions.
        state: What the device is doing at the moment.
        ceilings: The most it can do, measured.
        format: A name of ``formats.FORMATS``; csv and json have one record.
        fingerprint: What its matrix products were seen to do.
        remarks: Sentences on what of that could not be seen.

    Raises:
        InputError: There is no such format.
    """
    return write(document(environment, state, ceilings, fingerprint, remarks), format)


def document(
    environment: Environment,
    state: DeviceState,
    ceilings: Ceilings,
    fingerprint: Sequence[DotMode] = (),
    remarks: Sequence[str] = (),
) -> Document:
    """Names and values, a table of the ceilings, and one of the matrix products."""
    facts = [
        ("device", device(environment.device)),
        ("versions", versions(environment)),
        ("variables", variables(environment) or "none that changes results or times"),
        ("memory free", _quantity(state.memory_free_gib, "GiB")),
        *([] if environment.device.kind == "cpu" else _running(state)),
    ]
    rates = {"copy, read and written": (ceilings.copy_gb_s, "GB/s")} | {
        f"matrix product, {dtype}": (rate, "TFLOP/s")
        for dtype, rate in ceilings.gemm_tflops.items()
    }
    return Document(
        facts=tuple(facts),
        sentences=(),
        sections=(
            Section(
                "ceilings, measured",
                (Column("what"), Column("rate", Align.POINT), Column("unit")),
                tuple(Row((what, significant(rate), unit)) for what, (rate, unit) in rates.items()),
            ),
            *([_products(fingerprint)] if fingerprint else []),
        ),
        notes=(*([state.note] if state.note else []), *remarks),
        records=lambda: pd.DataFrame([_record(environment, state, ceilings, fingerprint)]),
    )


def _products(fingerprint: Sequence[DotMode]) -> Section:
    """What was seen of the products, a row for each mode and height of a tile."""
    return Section(
        "matrix products, as they were seen to round",
        (
            Column("operands"),
            Column("tile rows", Align.RIGHT),
            Column("bits kept", Align.RIGHT),
            Column("rounded"),
            Column("products"),
            Column("sums keep", Align.RIGHT),
            Column("rounded"),
            Column("guard bits", Align.RIGHT),
            Column("subnormals"),
        ),
        tuple(
            Row((
                it.mode, str(it.rows), str(it.operand_bits), it.operand_rounding,
                "exact" if it.products_exact else "rounded", str(it.accumulator_bits),
                it.accumulator_rounding, f"{it.guard_bits}{'+' * (it.guard_bits == 3)}",
                _subnormals(it),
            ))
            for it in fingerprint
        ),
    )  # fmt: skip


def _subnormals(mode: DotMode) -> str:
    kept = {"operands": mode.subnormal_operands, "sums": mode.subnormal_sums}
    lost = [what for what, is_kept in kept.items() if not is_kept]
    return f"lost in {' and '.join(lost)}" if lost else "kept"


def _running(state: DeviceState) -> list[tuple[str, str]]:
    """What only a GPU tells."""
    power = _quantity(state.power_w, "W")
    if state.power_cap_w is not None:
        power += f", at most {_quantity(state.power_cap_w, 'W')}"
    return [
        ("clocks", f"multiprocessors {_quantity(state.sm_clock_mhz, 'MHz')}, "
                   f"memory {_quantity(state.memory_clock_mhz, 'MHz')}"),
        ("temperature", _quantity(state.temperature_c, "C")),
        ("power", power),
        ("throttled by", _names(state.throttle_reasons, "nothing")),
        ("other processes", _names(state.other_processes, "none")),
    ]  # fmt: skip


def _quantity(value: float | None, unit: str) -> str:
    return _UNKNOWN if value is None else f"{value:.4g} {unit}"


def _names(names: tuple[str, ...] | None, nothing: str) -> str:
    return _UNKNOWN if names is None else ", ".join(names) or nothing


def _record(
    environment: Environment,
    state: DeviceState,
    ceilings: Ceilings,
    fingerprint: Sequence[DotMode],
) -> dict[str, object]:
    """One flat record; several names in one value stand with semicolons between them."""
    it = asdict(environment)
    doing = asdict(state)
    for name in ("throttle_reasons", "other_processes"):
        doing[name] = None if doing[name] is None else "; ".join(doing[name])
    return {
        **it.pop("device"),
        **it,
        "variables": variables(environment),
        **doing,
        "copy_gb_s": ceilings.copy_gb_s,
        **{f"gemm_{dtype}_tflops": rate for dtype, rate in ceilings.gemm_tflops.items()},
        "fingerprint": "; ".join(_sentence(mode) for mode in fingerprint),
    }


def _sentence(mode: DotMode) -> str:
    return (
        f"{mode.mode} rows {mode.rows}: operands {mode.operand_bits} bits "
        f"{mode.operand_rounding}, sums {mode.accumulator_bits} bits {mode.accumulator_rounding}"
    )
