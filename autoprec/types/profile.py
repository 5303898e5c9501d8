"""The profile: all that was measured on a machine, and what was chosen."""

from dataclasses import dataclass, field

from autoprec.types.kinds import STRICT, Config, Storage
from autoprec.types.machine import Ceilings, DotMode, Environment
from autoprec.types.measurement import Measurement
from autoprec.types.workload import Workload

SCHEMA_VERSION = 1

DEFAULT_CONFIDENCE = 0.95
"""How sure a bound is to be, unless asked otherwise."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a workload should use, and why each other path was not taken.

    Attributes:
        path: A precision path, or a baseline where those were allowed.
        margin: The budget's bound over the error, for the clause that is nearest to it: 2 means
            that the error is half of what was allowed.
        rejected: A sentence for every other path and baseline measured.
    """

    __pydantic_config__ = STRICT

    workload: Workload
    path: str
    kernel: str
    config: Config
    storage: Storage
    margin: float
    rejected: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A workload for which no path keeps to the budget, with a sentence for every path.

    Attributes:
        ran: Whether any path ran that might have been taken, or was left out for its error alone:
            where none did, no budget helps. A profile from before does not say.
    """

    __pydantic_config__ = STRICT

    workload: Workload
    rejected: dict[str, str]
    ran: bool = True


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What ``autoprec tune`` saves.

    Attributes:
        created_at: UTC time of the last change, ISO 8601.
        recorded_by: The command that made it.
        fingerprint: What the device's matrix products were seen to do; [] where nobody looked.
        budget: The budget, in the grammar of ``grammar.py``.
        confidence: Asked of the bounds on which choices rest.
        allow_baselines: Whether a baseline may be chosen.
        remarks: Sentences on what happened while measuring: throttling, other processes, what
            there was no time for.
    """

    __pydantic_config__ = STRICT

    schema_version: int = SCHEMA_VERSION
    created_at: str
    autoprec_version: str
    recorded_by: str = ""
    environment: Environment
    ceilings: Ceilings
    fingerprint: list[DotMode] = field(default_factory=list)
    budget: str
    confidence: float = DEFAULT_CONFIDENCE
    allow_baselines: bool = False
    measurements: list[Measurement]
    choices: list[Choice]
    refusals: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
