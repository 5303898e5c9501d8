"""Workloads from a JSON file, in the form in which a profile holds them."""

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from autoprec.errors import InputError
from autoprec.jsonfile import read_json
from autoprec.types import Dtype, Layout, Mask, Phase, Workload

MAX_BYTES = 1 << 20
_REQUIRED = ("phase", "kv_len", "q_heads", "kv_heads", "head_dim", "input_dtype")
_ENUMS: dict[str, type[StrEnum]] = {
    "phase": Phase,
    "mask": Mask,
    "layout": Layout,
    "input_dtype": Dtype,
    "out_dtype": Dtype,
}
_HINT = "a JSON list of workloads, as they stand in a profile"


def read_workloads(path: Path) -> list[Workload]:
    """The workloads of a JSON file: a list of objects with the fields of a Workload.

    phase, kv_len, q_heads, kv_heads, head_dim and input_dtype must be there; the others default
    to batch 1, a q_len of 1 for decode and of kv_len for prefill, values as wide as keys, the
    causal mask, no window, no soft cap, no sinks, contiguous keys, and the output in the input's
    type.

    Raises:
        InputError: The file cannot be read, or an entry is no workload; the sentence says which.
    """
    entries = read_json(path, "the workloads file", MAX_BYTES, _HINT)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"the workloads file {path} is no list of workloads.", _HINT)
    workloads = []
    for number, entry in enumerate(entries, start=1):
        try:
            workloads.append(_from_entry(entry))
        except InputError as error:
            raise InputError(f"{path}, workload {number}: {error.sentence}", _HINT) from None
    return list(dict.fromkeys(workloads))


def _from_entry(entry: object) -> Workload:
    """One object of a workloads file.

    Raises:
        InputError: A field is missing, unknown, or of the wrong kind.
    """
    if not isinstance(entry, dict):
        raise InputError("it is no object.")
    entry = dict(entry)
    if entry.pop("custom_mask", False) is not False:
        raise InputError("custom masks are not measured.")
    known = {field.name for field in fields(Workload)}
    if unknown := sorted(entry.keys() - known):
        raise InputError(f"there is no field {unknown[0]!r}.")
    if missing := [name for name in _REQUIRED if name not in entry]:
        raise InputError(f"the field {missing[0]!r} is missing.")
    values: dict[str, Any] = {
        "batch": 1,
        "q_len": 1 if entry["phase"] == Phase.DECODE else entry["kv_len"],
        "head_dim_v": entry["head_dim"],
        "mask": Mask.CAUSAL,
        "out_dtype": entry["input_dtype"],
        **entry,
    }
    return Workload(**{name: _field(name, value) for name, value in values.items()})


def _field(name: str, value: Any) -> Any:
    """A JSON value as the type of a workload's field.

    Raises:
        InputError: It is none.
    """
    if name in _ENUMS:
        if value not in list(_ENUMS[name]):
            raise InputError(f"{name} must be one of {', '.join(_ENUMS[name])}, got {value!r}.")
        return _ENUMS[name](value)
    if name in ("window", "soft_cap", "page_size") and value is None:
        return None
    if name == "sinks":
        if not isinstance(value, bool):
            raise InputError(f"sinks must be true or false, got {value!r}.")
        return value
    if name == "soft_cap":
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise InputError(f"soft_cap must be a number above 0, got {value!r}.")
        return float(value)
    if type(value) is not int or not 0 < value < 10**9:
        raise InputError(f"{name} must be a whole number from 1 to 999999999, got {value!r}.")
    return value
