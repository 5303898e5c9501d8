"""What single options say, read; what is none of theirs is refused in a sentence."""

import math
from collections.abc import Sequence

from autoprec.errors import InputError
from autoprec.paths import PATHS
from autoprec.probe import peers as known_peers
from autoprec.probe.families import DEFAULT_FAMILIES, chosen

_SUREST = 0.9999  # more would take hundreds of draws of every family


def paths(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The paths to try, each once.

    Raises:
        InputError: One is unknown.
    """
    names = _names(asked) or list(PATHS)
    for name in names:
        if name not in PATHS:
            raise InputError(
                f"--paths must be among {', '.join(PATHS)}, got {name!r}.",
                "autoprec paths, which says what each is",
            )
    return tuple(names)


def families(asked: Sequence[str] | None) -> list[str]:
    """The names of input families and of groups of them, each once.

    Raises:
        InputError: One is unknown.
    """
    names = _names(asked) or list(DEFAULT_FAMILIES)
    chosen(names)
    return names


def peers(asked: Sequence[str] | None) -> list[str] | None:
    """The names of peers, each once; None for all that are here.

    Raises:
        InputError: One is unknown.
    """
    names = _names(asked) or None
    known_peers.named(names)
    return names


def time_limit(seconds: float | None) -> None:
    """Refuse a time limit that is none.

    Raises:
        InputError: It is not above zero, or not finite.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(
            f"--time-limit must be a number of seconds above 0, got {seconds:g}.",
            "--time-limit 60",
        )


def confidence(wanted: float | None) -> None:
    """Refuse a confidence that is none, or would take far too many draws.

    Raises:
        InputError: It is one of these.
    """
    if wanted is not None and not 0 <= wanted <= _SUREST:
        raise InputError(
            f"--confidence must be from 0 to {_SUREST}, got {wanted:g}.", "--confidence 0.95"
        )


def workspace(gib: float | None) -> None:
    """Refuse a size of the workspace that is none.

    Raises:
        InputError: It is below zero, or not finite.
    """
    if gib is not None and not 0 <= gib < math.inf:
        raise InputError(
            f"--max-workspace-gib must be a number of GiB from 0 on, got {gib:g}.",
            "--max-workspace-gib 2",
        )


def _names(asked: Sequence[str] | None) -> list[str]:
    """Lists of names with commas, as one, each name once."""
    if not asked:
        return []
    return list(dict.fromkeys(name.strip() for name in ",".join(asked).split(",")))
