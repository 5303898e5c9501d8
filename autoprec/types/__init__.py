"""The nouns of autoprec, as frozen records that need the standard library alone.

The profile's JSON is these records and nothing else, so field names are the file's keys. Everything
imports them from here.
"""

from autoprec.types.kinds import (
    Config,
    Conversion,
    Dtype,
    Layout,
    Mask,
    Phase,
    Role,
    Status,
    Storage,
)
from autoprec.types.machine import Ceilings, Device, DotMode, Environment
from autoprec.types.measurement import CAPTURED, ERROR_METRICS, Measurement, by_workload
from autoprec.types.profile import DEFAULT_CONFIDENCE, SCHEMA_VERSION, Choice, Profile, Refusal
from autoprec.types.workload import MAX_DECODE_Q_LEN, MAX_SIZE, Workload

__all__ = [
    "CAPTURED",
    "Ceilings",
    "Choice",
    "Config",
    "Conversion",
    "DEFAULT_CONFIDENCE",
    "Device",
    "DotMode",
    "Dtype",
    "ERROR_METRICS",
    "Environment",
    "Layout",
    "MAX_DECODE_Q_LEN",
    "MAX_SIZE",
    "Mask",
    "Measurement",
    "Phase",
    "Profile",
    "Refusal",
    "Role",
    "SCHEMA_VERSION",
    "Status",
    "Storage",
    "Workload",
    "by_workload",
]
