"""What ``autoprec explain`` does: which workloads, and what a plan would launch on this machine."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autoprec.commands.console import say
from autoprec.errors import AutoprecError
from autoprec.policy.fit import Match, compare
from autoprec.profile import read
from autoprec.report.explain import Launched, explain
from autoprec.sizes import Sizes
from autoprec.types import Profile, Workload
from autoprec.workloads import asked

if TYPE_CHECKING:
    from autoprec.kernels.interface import Target


def run(file: Path | None, sizes: Sizes) -> None:
    """Explain the choices of a profile, or what would be chosen for workloads it does not have.

    Args:
        file: The profile; None for this machine's.
        sizes: Which workloads, as typed.

    Raises:
        AutoprecError: A size is none, or the profile is not there or cannot be read.
    """
    if file is None:
        from autoprec.commands.own_profile import own_profile  # here: it loads torch

        file = own_profile()
    profile = read(file)
    launch = launches(profile)
    workloads = asked(sizes, profile)
    say("\n".join(explain(profile, workload, launch=launch) for workload in workloads))


def launches(profile: Profile) -> Callable[[Workload], Launched | None]:
    """Who says what a plan launches for a workload: None where the profile is another machine's.

    The machine is looked at, and torch loaded, when the first workload is asked for.
    """
    target = functools.cache(functools.partial(_target, profile))

    def launch(workload: Workload) -> Launched | None:
        here = target()
        if here is None:
            return None
        from autoprec.plan.decide import Decider

        try:
            decision = Decider.of(profile, None).decide(workload, here)
        except AutoprecError as error:
            return Launched("", {}, (error.sentence.removesuffix("."),))
        return Launched(decision.kernel.name, decision.config, decision.notes)

    return launch


def _target(profile: Profile) -> "Target | None":
    """What kernels must know of this machine; None where the profile is another machine's."""
    from autoprec.probe import device as devices

    kind = profile.environment.device.kind
    device = devices.resolve("cpu" if kind == "cpu" else "auto")
    if compare(profile, devices.environment(device)).match is Match.OTHER:
        return None
    return devices.target(device)
