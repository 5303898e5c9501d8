"""For tests of the probe: measuring on a CPU, quickly."""

import time

import torch
from fake_kernels import workload

from autoprec.probe.effort import Effort
from autoprec.probe.events import Event
from autoprec.probe.families import chosen
from autoprec.probe.judge import LENIENT, Judge
from autoprec.probe.lineup import line_up
from autoprec.probe.measure import LineUp, measure
from autoprec.types import Measurement, Workload

CPU = torch.device("cpu")
SMALL_EFFORT = Effort(rounds=(1, 1), samples=4, rows=8, groups=2)
DECODE = workload()


def run(
    *workloads: Workload,
    paths: tuple[str, ...] = ("fp32", "bf16"),
    effort: Effort = SMALL_EFFORT,
    seconds: float = 60.0,
    events: list[Event] | None = None,
    max_workspace_gib: float | None = None,
    families: tuple[str, ...] = ("outlier",),
    judge: Judge = LENIENT,
    line_up: LineUp = line_up,
) -> list[Measurement]:
    return list(
        measure(
            workloads or (DECODE,),
            device=CPU,
            paths=paths,
            effort=effort,
            deadline=time.monotonic() + seconds,
            observe=(events if events is not None else []).append,
            max_workspace_gib=max_workspace_gib,
            families=chosen(families),
            judge=judge,
            line_up=line_up,
        )
    )


def by_path(rows: list[Measurement]) -> dict[str, Measurement]:
    return {row.path: row for row in rows}
