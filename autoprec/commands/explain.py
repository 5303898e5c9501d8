"""What ``autoprec explain`` does around the text: what a plan would launch on this machine."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from autoprec.errors import AutoprecError
from autoprec.policy.fit import Match, compare
from autoprec.report.explain import Launched
from autoprec.types import Profile, Workload

if TYPE_CHECKING:
    from autoprec.kernels.interface import Target


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
