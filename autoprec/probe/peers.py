"""Who is measured beside a plan: PyTorch, and FlashInfer, flash-attn, xFormers where installed."""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence

from autoprec.errors import InputError
from autoprec.probe import peer_flash_attn, peer_flashinfer, peer_xformers
from autoprec.probe.baselines import BASELINES, Baseline

PEERS: tuple[Baseline, ...] = (
    *peer_flashinfer.BASELINES, *peer_flash_attn.BASELINES, *peer_xformers.BASELINES,
)  # fmt: skip
"""Rows of all of them, installed or not; a row imports its library when it is bound."""

_MODULES = {"flashinfer-python": "flashinfer", "flash-attn": "flash_attn", "xformers": "xformers"}


def installed() -> tuple[Baseline, ...]:
    """The peers whose library is here."""
    return tuple(row for row in PEERS if not absent(row))


def named(names: Sequence[str] | None) -> dict[str, Baseline]:
    """Peers by name and their rows, PyTorch's backends among them, in the order of the tables.

    Args:
        names: Those asked for, installed or not; None: all that are here.

    Raises:
        InputError: There is no such peer.
    """
    rows = (*BASELINES, *(installed() if names is None else PEERS))
    known = {path: row for row in rows for path in row.paths}
    if names is None:
        return known
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"--peers must be among {', '.join(known)}, got {unknown[0]!r}.",
            "--peers sdpa-flash,sdpa-cudnn",
        )
    return {path: row for path, row in known.items() if path in names}


def absent(row: Baseline) -> str:
    """A sentence where a peer's library is not here; else ""."""
    return "" if not row.library or version(row.library) else f"{row.library} is not installed"


def unbuilt(row: Baseline) -> str:
    """A sentence where a peer would compile for minutes before it runs; else ""."""
    if row.library != "flashinfer-python" or importlib.util.find_spec("flashinfer_jit_cache"):
        return ""
    return (
        "flashinfer would compile its kernels first: flashinfer-jit-cache has them, and "
        "autoprec bench waits for them"
    )


@functools.cache
def version(library: str) -> str | None:
    """The version of a library that can be imported; None where there is none."""
    if importlib.util.find_spec(_MODULES[library]) is None:
        return None
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def versions(rows: Iterable[Baseline]) -> dict[str, str]:
    """The libraries of some peers with their versions; those that are not here say so."""
    libraries = dict.fromkeys(row.library for row in rows if row.library)
    return {name: version(name) or "not installed" for name in libraries}
