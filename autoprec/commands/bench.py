"""What ``autoprec bench`` does around timing: which profile, which workloads, and the table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from autoprec import bench as benches
from autoprec.budget import Budget
from autoprec.commands import checks, requested
from autoprec.commands.console import Stderr, raise_on_interrupt, say, tell
from autoprec.commands.own_profile import own_profile
from autoprec.commands.progress import Display
from autoprec.commands.stored import stored
from autoprec.errors import MachineError
from autoprec.policy.fit import Match, compare
from autoprec.probe import device as devices
from autoprec.report import bench as table
from autoprec.report.formats import write
from autoprec.sizes import Sizes
from autoprec.types import Profile, Workload
from autoprec.workloads import asked


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``autoprec bench``, as typed; None for what was not."""

    profile: Path | None
    device: str
    model: str | None
    sizes: Sizes
    workloads: Path | None
    budget: str | None
    families: Sequence[str] | None
    peers: Sequence[str] | None
    effort: str
    time_limit_s: float | None
    format: str


def run(request: Request) -> int:
    """Time the plan and its peers as asked.

    Returns:
        The exit code: 0, or 130 where Ctrl+C came.

    Raises:
        AutoprecError: What was asked cannot be done, or the profile is another machine's.
    """
    checks.time_limit(request.time_limit_s)
    families = checks.families(request.families)
    others = checks.peers(request.peers)
    wanted = None if request.budget is None else Budget.parse(request.budget)
    file = request.profile or own_profile(request.device)
    device = devices.resolve(request.device)
    profile = stored(file, wanted)
    environment = devices.environment(device)
    fit = compare(profile, environment)
    if fit.match is Match.OTHER:
        raise MachineError(
            f"{file} is for another machine: {' '.join(fit.sentences)}", "autoprec tune"
        )
    if fit.sentences:
        tell(f"note: {file} is {fit.match}: {' '.join(fit.sentences)}")
    workloads = _workloads(request, profile, environment.device.kind)
    budget = Budget.parse(profile.budget)
    limit_s = request.time_limit_s or benches.DEFAULT_TIME_LIMIT_S
    raise_on_interrupt()
    try:
        console = Console(file=cast(TextIO, Stderr()))
        deadline = time.monotonic() + limit_s
        with Display(budget, deadline, console, allow_baselines=True) as shown:
            found = benches.bench(
                profile, workloads, device=device, families=families, others=others,
                effort=request.effort, time_limit_s=limit_s, observe=shown,
            )  # fmt: skip
    except KeyboardInterrupt:
        tell("interrupted; bench saves nothing")
        return 130
    document = table.document(
        environment, found.versions, budget, found.rows, found.notes, str(file),
        found.references,
    )  # fmt: skip
    say(write(document, request.format))
    return 0


def _workloads(request: Request, profile: Profile, kind: str) -> list[Workload]:
    """Those of the profile that fit the sizes, of a model, or of a file."""
    model = requested.model(request.model, request.workloads)
    if model is None and request.workloads is None:
        return asked(request.sizes, profile)
    return requested.workloads(request.sizes, model, request.workloads, kind)
