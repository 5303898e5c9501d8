"""Find the profile that fits this machine, and make a plan of it."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from autoprec import profile as profiles
from autoprec import registry
from autoprec.budget import Budget
from autoprec.errors import (
    AutoprecWarning,
    InputError,
    MachineError,
    ProfileError,
    UnsupportedError,
)
from autoprec.plan.plan import Plan
from autoprec.policy.fit import Fit, Match, compare
from autoprec.probe import device as devices
from autoprec.types import Device, Environment, Profile

VARIABLE = "AUTOPREC_PROFILE"
_NAMED = f" (named by {VARIABLE})"


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
        consistent: Whether a request's output must have the same bits alone and in any batch;
            kernels of GPUs have such a mode.

    Raises:
        UnsupportedError: No kernel of the device has a consistent mode, and it is asked for.
        MachineError: The profile given is another machine's.
        BudgetError: No path keeps to the budget on any workload measured.
        InputError: There is no profile for this machine, or an argument is none of the above.
        ProfileError: The file given cannot be read.
    """
    place = devices.resolve("auto" if device is None else str(device))
    if consistent and (why := no_consistent_mode(place)):
        raise UnsupportedError(f"consistent is asked for, but {why}.", "consistent=False")
    asked = None if budget is None else Budget.parse(budget)
    environment = devices.environment(place)
    if isinstance(profile, Profile):
        found, origin = profile, "the profile given"
    elif profile:
        found, origin = profiles.read(profile), str(profile)
    else:
        say = partial(warnings.warn, category=AutoprecWarning, stacklevel=3)
        found, file = find(environment, say)
        origin = f"{file}{_NAMED}" if os.environ.get(VARIABLE) else str(file)
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


def no_consistent_mode(device: torch.device) -> str:
    """Why no call on a device can be consistent, as a clause; "" where some can."""
    target = devices.target(device)
    here = [row for row in registry.kernels() if not row.device_refusals(target)]
    if any(row.consistent is not None for row in here):
        return ""
    causes = [f"no kernel has a consistent mode on {devices.describe(device).name}"]
    return "; ".join([*causes, *registry.broken_modules().values()])


def find(environment: Environment, say: Callable[[str], None]) -> tuple[Profile, Path]:
    """This machine's profile and its file.

    It is what ``AUTOPREC_PROFILE`` names, whatever it fits. Else it is the first, in the user's
    folder and then among those that come with autoprec, that was made here just so, else a
    compatible one, else a stale one.

    Args:
        environment: This machine.
        say: Called with a sentence on each file that is passed over, for it cannot be read.

    Raises:
        InputError: There is none.
        ProfileError: The file that the variable names cannot be read.
    """
    if named := os.environ.get(VARIABLE):
        try:
            return profiles.read(named), Path(named)
        except ProfileError as error:
            raise ProfileError(f"{error.sentence.rstrip('.')}{_NAMED}.", error.hint) from None
    second: dict[Match, tuple[Profile, Path]] = {}
    for path in _places(environment.device):
        try:
            found = profiles.read(path)
        except ProfileError as error:
            say(f"passed over: {error.sentence}")
            continue
        match = compare(found, environment).match
        if match is Match.EXACT:
            return found, path
        second.setdefault(match, (found, path))
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
