"""What measuring tells whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass

from autoprec.types import Measurement, Workload


@dataclass(frozen=True)
class Planned:
    """How many measurements there will be; said once, first."""

    rows: int


@dataclass(frozen=True)
class Working:
    """What is being done for a workload, such as ``timing 6 paths``."""

    workload: Workload
    sentence: str


@dataclass(frozen=True)
class Measured:
    """A measurement ended, whichever way."""

    measurement: Measurement


@dataclass(frozen=True)
class Remark:
    """Something a person should know: throttling, a busy GPU, a configuration left out."""

    sentence: str


Event = Planned | Working | Measured | Remark
Observe = Callable[[Event], None]
