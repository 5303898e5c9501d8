"""What a command line asks to measure: workloads, of a model or of sizes or from a file."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from autoprec import registry
from autoprec.commands.console import tell
from autoprec.commands.workload_file import read_workloads
from autoprec.errors import InputError
from autoprec.geometry import load
from autoprec.model_layers import Geometry
from autoprec.probe import device as devices
from autoprec.report.numbers import listed
from autoprec.sizes import Sizes
from autoprec.types import Workload
from autoprec.workloads import expand, of_model


def model(name: str | None, file: Path | None) -> Geometry | None:
    """The model asked for; None for none.

    Raises:
        InputError: There is no such model, or a file of workloads is asked for too.
    """
    if name is None:
        return None
    if file is not None:
        raise _joined("--model")
    return load(name)


def workloads(sizes: Sizes, asked: Geometry | None, file: Path | None, kind: str) -> list[Workload]:
    """The workloads asked for.

    Args:
        sizes: As typed.
        asked: The model; None for none.
        file: A file of workloads; None for none.
        kind: Of device: ``cuda``, ``hip`` or ``cpu``.

    Raises:
        InputError: A size or the file cannot be used, a file is joined by sizes, or the model has
            no such phase.
    """
    if file is None:
        if asked is None:
            return expand(sizes, kind=kind)
        if asked.unknown:
            tell(f"note: {asked.name}: {asked.unknown}")
        if asked.sinks:
            tell(f"note: {asked.name} has sinks: tuned as if it had none")
        found = of_model(sizes, asked, kind=kind)
        if not found:
            raise InputError(
                f"{asked.name} is an encoder: it has no such phase.", "--phase prefill"
            )
        return found
    for name, value in asdict(sizes).items():
        if value is not None:
            raise _joined(f"--{name.replace('_', '-')}")
    return read_workloads(file)


def _joined(option: str) -> InputError:
    return InputError(
        f"--workloads says every size, so {option} cannot join it.", f"one without {option}"
    )


def served(
    workloads: list[Workload], device: torch.device, paths: tuple[str, ...]
) -> list[Workload]:
    """The workloads, without the window and the soft cap where no kernel here has them.

    Args:
        workloads: As asked for.
        device: Where.
        paths: Names of ``paths.PATHS``.
    """
    target = devices.target(device)
    found, lost = [], set()
    for workload in workloads:
        plain = replace(workload, window=None, soft_cap=None)
        if workload != plain and not registry.candidates(workload, target, paths)[0]:
            lost |= {"a window" * (workload.window is not None),
                     "a soft cap" * (workload.soft_cap is not None)}  # fmt: skip
            workload = plain
        found.append(workload)
    if lost - {""}:
        tell(f"note: no kernel here has {listed(sorted(lost - {''}))}: tuned as if there was none")
    return list(dict.fromkeys(found))
