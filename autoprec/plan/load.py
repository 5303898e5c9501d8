"""Find the profile that fits this machine, and make a plan of it."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from autoprec import profile as profiles
from autoprec.budget import Budget
from autoprec.errors import AutoprecWarning, InputError, MachineError, ProfileError
from autoprec.plan.plan import Plan
from autoprec.policy.fit import Fit, Match, compare
from autoprec.probe import device as devices
from autoprec.types import Device, Environment, Profile

VARIABLE = "AUTOPREC_PROFILE"


def load_plan(
    profile: Profile | str | os.PathLike[str] | None = None,
    budget: Budget | str | float | None = None,
    device: torch.device | str | None = None,
    *,
    layer: int | None = None,
    guard: str = "off",
    consistent: bool = False,
) -> Plan:
    """The plan for a device of this machine.

    Args:
        profile: A profile or its file. None: the file that ``AUTOPREC_PROFILE`` names, else the
            best match in the user's folder, else the best one that comes with autoprec.
        budget: The error accepted, such as ``1e-3``: the choice is made again among the profile's
            measurements. None: the profile's own.
        device: None: a GPU where there is one, else the CPU.
        layer: The model's layer that the plan is for, where the budget has clauses for layers,
            such as ``1e-3,layer0-1:1e-5``. None: one that no clause names.
        guard: ``off``, ``sample`` or ``always``: see ``Plan.guard``.
        consistent: Whether a request's output must have the same bits alone and in any batch.

    Raises:
        MachineError: The profile given is another machine's.
        BudgetError: No path keeps to the budget on any workload measured.
        InputError: There is no profile for this machine, or an argument is none of the above.
        ProfileError: The file given cannot be read.
    """
    place = devices.resolve("auto" if device is None else str(device))
    asked = None if budget is None else Budget.parse(budget)
    environment = devices.environment(place)
    given = profile if profile is not None else os.environ.get(VARIABLE)
    if isinstance(given, Profile):
        found, origin = given, "the profile given"
    elif given:
        found, origin = profiles.read(given), str(given)
        if profile is None:
            origin += f" (named by {VARIABLE})"
    else:
        found, origin = _search(environment)
    fit = compare(found, environment)
    if fit.match is Match.OTHER:
        raise MachineError(f"{origin} is for another machine: {_joined(fit)}.", "autoprec tune")
    remarks = [f"{origin}, made {found.created_at}"]
    if fit.match is Match.STALE:
        stale = f"{origin} is stale: {_joined(fit)}; autoprec tune --fresh measures again."
        remarks.append(stale)
        warnings.warn(stale, AutoprecWarning, stacklevel=2)
    if fit.match is Match.COMPATIBLE:
        remarks.append(f"{origin} is compatible: {_joined(fit)}")
    return Plan(
        found, place, budget=asked, layer=layer, remarks=remarks, consistent=consistent, guard=guard
    )


def _search(environment: Environment) -> tuple[Profile, str]:
    """The first profile that was made here just so, else a compatible one, else a stale one.

    Raises:
        InputError: There is neither.
    """
    second: dict[Match, tuple[Profile, str]] = {}
    for path in _places(environment.device):
        try:
            found = profiles.read(path)
        except ProfileError as error:
            warnings.warn(f"passed over: {error.sentence}", AutoprecWarning, stacklevel=3)
            continue
        match = compare(found, environment).match
        if match is Match.EXACT:
            return found, str(path)
        second.setdefault(match, (found, str(path)))
    for match in (Match.COMPATIBLE, Match.STALE):
        if match in second:
            return second[match]
    raise InputError(f"there is no profile for {environment.device.name} yet.", "autoprec tune")


def _places(device: Device) -> Iterator[Path]:
    """Files that may hold the profile, the likeliest first, each once."""
    own = profiles.default_path(device)
    if own.exists():
        yield own
    yield from sorted(path for path in profiles.user_dir().glob("*.json") if path != own)
    yield from profiles.bundled()


def _joined(fit: Fit) -> str:
    return "; ".join(sentence.removesuffix(".") for sentence in fit.sentences)
