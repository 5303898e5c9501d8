"""Decisions on a CPU, by a profile of a decode of 1024 keys of which the choice is bf16."""

from collections.abc import Callable

import made_up
from exact import cpu_profile

from autoprec.kernels.interface import Target
from autoprec.plan.decide import Decider
from autoprec.types import Workload

TARGET = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
DECIDER = Decider.of(cpu_profile(), None)
Register = Callable[..., None]


def decode(**changes: object) -> Workload:
    return made_up.workload(**{"phase": "decode", "kv_len": 1024, "head_dim": 64} | changes)
