"""Every KERNELS row of every kernel module, by path, phase and device; refusals as sentences."""

import functools
import importlib
from collections.abc import Iterable
from dataclasses import dataclass

from autoprec.errors import InputError
from autoprec.kernels.interface import Kernel, Target
from autoprec.paths import PATHS
from autoprec.types import Storage, Workload

_MODULES = ("prefill", "prefill_hopper", "decode", "cpu", "cpu_flash")


@dataclass(frozen=True)
class Unavailable:
    """A kernel that cannot run a path, and why, in one sentence."""

    kernel: str
    path: str
    reason: str


@dataclass(frozen=True)
class Offered:
    """A kernel and a path it has, and whether it runs on a device.

    Attributes:
        kernel: Its name, or that of a module that could not be imported.
        path: A path's name, or "" for such a module.
        phases: The phases the kernel serves.
        reason: Why it does not run, in one sentence; "" where it does.
    """

    kernel: str
    path: str
    phases: tuple[str, ...]
    reason: str


@functools.cache
def _load() -> tuple[tuple[Kernel, ...], dict[str, str]]:
    rows: list[Kernel] = []
    broken: dict[str, str] = {}
    for name in _MODULES:
        try:
            module = importlib.import_module(f"autoprec.kernels.{name}")
        except ImportError as error:
            broken[name] = f"autoprec.kernels.{name} cannot be imported: {error}"
        else:
            rows.extend(module.KERNELS)
    return tuple(rows), broken


def kernels() -> tuple[Kernel, ...]:
    """Every kernel whose module could be imported."""
    return _load()[0]


def broken_modules() -> dict[str, str]:
    """Kernel modules that could not be imported, and the sentence why."""
    return dict(_load()[1])


def kernel(name: str) -> Kernel:
    """The kernel of a name.

    Raises:
        InputError: There is none, or its module could not be imported.
    """
    for row in kernels():
        if row.name == name:
            return row
    causes = "; ".join(broken_modules().values())
    raise InputError(
        f"there is no kernel {name!r} here{': ' + causes if causes else ''}.", "autoprec paths"
    )


def candidates(
    workload: Workload,
    target: Target,
    paths: tuple[str, ...] = tuple(PATHS),
    *,
    storage: Storage | None = None,
    lengths: bool = False,
    consistent: bool = False,
) -> tuple[list[tuple[Kernel, str]], list[Unavailable]]:
    """Sort every kernel and path into those that run a workload here and those that do not.

    Args:
        workload: What is to be computed.
        target: The device.
        paths: The paths asked for.
        storage: The form of K and V; None: that of the inputs.
        lengths: Whether requests have lengths of their own.
        consistent: Whether only kernels that have a consistent mode will do.

    Returns:
        The (kernel, path) pairs that run, and for each path that no kernel runs, why not.
    """
    running: list[tuple[Kernel, str]] = []
    refused: list[Unavailable] = []
    for path in paths:
        reasons: list[Unavailable] = []
        for row in kernels():
            if path not in row.paths:
                continue
            sentences = row.refusals(path, workload, target, storage=storage, lengths=lengths)
            if consistent and row.consistent is None:
                sentences.append(f"{row.name} has no consistent mode")
            if sentences:
                reasons.append(Unavailable(row.name, path, "; ".join(sentences)))
            else:
                running.append((row, path))
        reasons += [Unavailable(name, path, reason) for name, reason in broken_modules().items()]
        if not any(have == path for _, have in running):
            refused += reasons or [Unavailable("", path, f"no kernel runs the path {path}")]
    return running, refused


def said_once(reasons: Iterable[str]) -> str:
    """Reasons of several kernels in one sentence, each clause of them once."""
    return "; ".join(dict.fromkeys(it for reason in reasons for it in reason.split("; ")))


def overview(target: Target) -> list[Offered]:
    """Every kernel with every path it has, and whether a device runs them."""
    offers = [
        Offered(row.name, path, row.phases, "; ".join(row.device_refusals(target)))
        for row in kernels()
        for path in row.paths
    ]
    broken = [
        Offered(f"autoprec.kernels.{name}", "", (), reason)
        for name, reason in broken_modules().items()
    ]
    return offers + broken
