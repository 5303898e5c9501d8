"""Whether what was measured on one machine speaks for another."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from autoprec.types import Environment, Profile


class Match(StrEnum):
    """How far a profile speaks for a machine."""

    EXACT = "exact"
    COMPATIBLE = "compatible"  # patches and drivers: choices serve, and times compare
    STALE = "stale"  # same device, other software: choices still serve, times do not compare
    OTHER = "other"  # another device


@dataclass(frozen=True)
class Fit:
    """Whether a profile fits a machine, with a sentence for every difference."""

    match: Match
    sentences: tuple[str, ...]


_SOFTWARE = {"torch": "torch", "triton": "triton", "driver": "driver", "cuda": "CUDA"}
# Digests of kernels' sources, and of earlier ones that compile to the same code as they are timed,
# which .ci/same_code.py finds out. There are some after a change of what is not timed.
_SAME_CODE: dict[str, tuple[str, ...]] = {"a8d633410cc7d522": ("f95391d91289e4c7",)}
_MINOR = re.compile(r"\d+\.\d+")  # of a version: what the compiler and its kernels hang on
_MEMORY_TOLERANCE = 0.1  # drivers reserve more or less of it


def compare(profile: Profile, environment: Environment) -> Fit:
    """Compare the machine a profile was made on with another.

    Python's version moves neither times nor errors and is not compared. A CPU with another number
    of cores at hand is the same CPU, but stale; a GPU of other units or memory is another one, for
    several are sold under one name, and parts of one are lent under it.

    Args:
        profile: The profile.
        environment: This machine.
    """
    device, here = profile.environment.device, environment.device
    if (device.kind, device.name, device.capability) != (here.kind, here.name, here.capability):
        return _other(f"{device.name} ({device.capability})", f"{here.name} ({here.capability})")
    if device.kind != "cpu":
        if device.units != here.units:
            return _other(*(f"{d.name} with {d.units} units" for d in (device, here)))
        if abs(device.memory_gib - here.memory_gib) > _MEMORY_TOLERANCE * device.memory_gib:
            return _other(*(f"{d.name} with {d.memory_gib:.0f} GiB" for d in (device, here)))
    changes = list(_changes(profile.environment, environment))
    match = max((level for level, _ in changes), key=list(Match).index, default=Match.EXACT)
    return Fit(match, tuple(sentence for _, sentence in changes))


def _other(there: str, here: str) -> Fit:
    return Fit(Match.OTHER, (f"the profile is for {there}, and this is {here}.",))


def _changes(old: Environment, new: Environment) -> Iterator[tuple[Match, str]]:
    """What changed on one device, a sentence each, and how much that is."""
    measured = "the profile was measured"
    if old.device.units != new.device.units:
        yield (
            Match.STALE,
            f"{measured} on {old.device.units} cores, and {new.device.units} are at hand.",
        )
    for field, name in _SOFTWARE.items():
        there, here = getattr(old, field), getattr(new, field)
        if there != here:
            yield (
                _level(field, there, here),
                f"{measured} {_with(name, there)}, and here it runs {_with(name, here)}.",
            )
    if old.kernels in _SAME_CODE.get(new.kernels, ()):
        yield (
            Match.COMPATIBLE,
            f"autoprec's kernels changed since {measured}, but not the code that was timed.",
        )
    elif old.kernels != new.kernels:
        yield Match.STALE, f"autoprec's kernels changed since {measured}."
    for name in sorted({*old.variables, *new.variables}):
        was, is_now = old.variables.get(name), new.variables.get(name)
        if was != is_now:
            yield (
                Match.STALE,
                f"{measured} with {name} {_value(was)}, and here it is {_value(is_now)}.",
            )


def _level(field: str, there: str | None, here: str | None) -> Match:
    """Another driver, or another patch of the same release, is compatible."""
    if field == "driver" and there and here:
        return Match.COMPATIBLE
    releases = [_MINOR.match(version or "") for version in (there, here)]
    if all(releases) and len({found[0] for found in releases if found}) == 1:
        return Match.COMPATIBLE
    return Match.STALE


def _with(name: str, version: str | None) -> str:
    return f"without {name}" if version is None else f"with {name} {version}"


def _value(text: str | None) -> str:
    return "unset" if text is None else f"set to {text!r}"
