"""What ``autoprec explain`` does: which workloads, and what a plan would launch on this machine."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.commands.console import say, tell
from autoprec.commands.stored import stored
from autoprec.errors import UnsupportedError
from autoprec.paths import PATHS
from autoprec.policy.fit import Match, compare
from autoprec.report.explain import Launched, explained
from autoprec.report.explain_formats import render
from autoprec.sizes import Sizes
from autoprec.types import Profile, Workload
from autoprec.workloads import asked

if TYPE_CHECKING:
    from autoprec.kernels.interface import Target


def run(file: Path | None, sizes: Sizes, budget: str | None = None, format: str = "table") -> None:
    """Explain the choices of a profile, or what would be chosen for workloads it does not have.

    Args:
        file: The profile; None for this machine's.
        sizes: Which workloads, as typed.
        budget: What to choose again for, as typed; None: the choices saved.
        format: ``table``, ``markdown`` or ``json``.

    Raises:
        AutoprecError: A size or the budget is none, or the profile is not there or cannot be read.
    """
    wanted = None if budget is None else Budget.parse(budget)
    if file is None:
        from autoprec.commands.own_profile import own_profile  # here: it loads torch

        file = own_profile()
    profile = stored(file, wanted)
    if wanted is not None:
        tell(f"note: {profile.remarks[-1]}")
    launch = launches(profile)
    workloads = asked(sizes, profile)
    _tell_which(workloads, profile)
    say(render((explained(profile, workload, launch) for workload in workloads), format))


def _tell_which(workloads: list[Workload], profile: Profile) -> None:
    """Say how many of the profile's workloads are explained, where it is not all of them."""
    measured = {row.workload for row in profile.measurements}
    if measured.isdisjoint(workloads):
        tell(
            f"note: none of the profile's workloads ({len(measured)}) has these sizes; what is "
            f"explained ({len(workloads)}) was not measured."
        )
    elif len(workloads) < len(measured):
        tell(
            f"note: these sizes are those of {len(workloads)} of the profile's {len(measured)} "
            "workloads; without sizes, all are explained."
        )


def launches(profile: Profile) -> Callable[[Workload], Launched | None]:
    """Who says what a plan launches for a workload on the machine that the profile is for.

    Of another machine than this one it is None where that is not known: where a library's own was
    chosen, which may be there and not here, or a module of kernels cannot be imported here.

    The machine is looked at, and torch loaded, when the first workload is asked for.
    """
    machine = functools.cache(functools.partial(_machine, profile))

    def launch(workload: Workload) -> Launched | None:
        from autoprec import registry
        from autoprec.plan.decide import Decider

        target, here = machine()
        decider = Decider.of(profile, None)
        if not here:
            found, _ = decider.find(workload)
            if found.choice.path not in PATHS or registry.broken_modules():
                return None
        try:
            decision = decider.decide(workload, target)
        except UnsupportedError as error:
            running, _ = registry.candidates(workload, target)
            others = tuple(dict.fromkeys(path for _, path in running))
            return Launched("", {}, (error.sentence.removesuffix("."),), others)
        return Launched(decision.kernel.name, decision.config, decision.notes)

    return launch


def _machine(profile: Profile) -> "tuple[Target, bool]":
    """What kernels must know of the profile's machine, and whether it is this one."""
    from autoprec.kernels.interface import Target
    from autoprec.probe import device as devices

    its = profile.environment.device
    device = devices.resolve("cpu" if its.kind == "cpu" else "auto")
    if compare(profile, devices.environment(device)).match is not Match.OTHER:
        return devices.target(device), True
    arch = f"sm_{its.capability.replace('.', '')}" if its.kind == "cuda" else its.capability
    # no kernel looks at the shared memory to refuse a workload or to name its configurations
    return Target(kind=its.kind, arch=arch, shared_bytes=0, units=its.units), False
