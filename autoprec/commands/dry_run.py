"""What a tune would measure, for ``--dry-run``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from autoprec.probe import device as devices
from autoprec.probe.contender import Contender
from autoprec.probe.lineup import line_up
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.numbers import counted, listed, significant
from autoprec.types import Status, Workload

if TYPE_CHECKING:
    import pandas as pd

_MIB = 1 << 20


def document(workloads: Sequence[Workload], device: torch.device, paths: Sequence[str]) -> Document:
    """The workloads with what would run on them, and the paths and baselines with where.

    Args:
        workloads: What would be measured.
        device: Where.
        paths: Names of ``paths.PATHS``.
    """
    target = devices.target(device)
    contenders = [
        contender
        for workload in workloads
        for contender in line_up(workload, target, tuple(paths), device)
    ]
    running = [contender for contender in contenders if contender.status is Status.OK]
    total = sum(len(contender.configs) for contender in running)
    return Document(
        facts=(),
        sentences=(
            f"{counted(len(workloads), 'workload')}, {counted(len(running), 'measurement')}, "
            f"{counted(total, 'configuration')} to try; nothing is measured yet.",
        ),
        sections=(_by_workload(workloads, running), _by_path(contenders)),
        notes=("tensors: q, k, v and the output; measuring needs about three times as much",),
        records=lambda: _frame(contenders),
    )


def _tensors_mib(it: Workload) -> float:
    """MiB of q, k, v and the output."""
    rows = it.new_tokens * it.q_heads
    queries = rows * it.head_dim * it.input_dtype.nbytes
    return (queries + rows * it.head_dim_v * it.out_dtype.nbytes + it.kv_bytes) / _MIB


def _frame(contenders: Sequence[Contender]) -> "pd.DataFrame":
    import pandas as pd  # not before it is wanted: it takes long to load

    return pd.DataFrame([_record(contender) for contender in contenders])


def _by_workload(workloads: Sequence[Workload], running: Sequence[Contender]) -> Section:
    rows = []
    for workload in workloads:
        ours = [contender for contender in running if contender.workload == workload]
        configurations = sum(len(contender.configs) for contender in ours)
        cells = (
            str(workload), str(len(ours)), str(configurations), significant(_tensors_mib(workload)),
        )  # fmt: skip
        rows.append(Row(cells))
    return Section(
        "workloads",
        (
            Column("workload"),
            Column("measurements", Align.RIGHT),
            Column("configurations", Align.RIGHT),
            Column("tensors MiB", Align.POINT),
        ),
        tuple(rows),
    )


def _by_path(contenders: Sequence[Contender]) -> Section:
    """One row for each path and kernel that runs on any of the workloads."""
    groups: dict[tuple[str, str], list[Contender]] = {}
    for contender in contenders:
        if contender.status is Status.OK and contender.included is None:
            groups.setdefault((contender.path, contender.name), []).append(contender)
    rows = tuple(
        Row((path, kernel, str(len(group)), str(sum(len(it.configs) for it in group))))
        for (path, kernel), group in groups.items()
    )
    here = {path for path, _ in groups}
    absent = dict.fromkeys(it.path for it in contenders if it.path not in here)
    return Section(
        "paths and baselines",
        (
            Column("path"),
            Column("kernel"),
            Column("workloads", Align.RIGHT),
            Column("configurations", Align.RIGHT),
        ),
        rows,
        (f"not on these workloads here: {listed(absent)}",) if absent else (),
    )


def _record(contender: Contender) -> dict[str, object]:
    runs = contender.status is Status.OK
    return {
        "workload": str(contender.workload),
        "role": contender.role.value,
        "path": contender.path,
        "kernel": contender.name,
        "conversion": contender.conversion.value,
        "configurations": len(contender.configs) if runs else 0,
        "tensors_mib": round(_tensors_mib(contender.workload), 3),
        "reason": contender.reason,
    }
