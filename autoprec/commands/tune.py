"""What ``autoprec tune`` does around tuning: what it is asked, and what it leaves."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO, cast

import torch
from rich.console import Console

from autoprec import profile as profiles
from autoprec import tune as tuning
from autoprec.budget import DEFAULT_BUDGET, Budget
from autoprec.commands import checks, destination, dry_run, requested
from autoprec.commands.chosen_again import tell_changes
from autoprec.commands.conclusion import conclude
from autoprec.commands.console import Stderr, raise_on_interrupt, say, tell
from autoprec.commands.destination import Destination
from autoprec.commands.progress import Display
from autoprec.errors import InputError
from autoprec.model_layers import Geometry
from autoprec.plan.load import no_consistent_mode
from autoprec.policy.apriori import refuse_out_of_reach
from autoprec.probe import captured
from autoprec.probe import device as devices
from autoprec.probe.captured import Captured
from autoprec.probe.effort import EFFORTS
from autoprec.report import formats, model, summary
from autoprec.report.document import Document
from autoprec.sizes import Sizes
from autoprec.types import Profile, Workload


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``autoprec tune``, as typed; None for what was not.

    Attributes:
        started: When the process began, on ``time.monotonic``'s clock: the time limit counts
            from there.
    """

    sizes: Sizes
    model: str | None
    workloads: Path | None
    inputs: Path | None
    per_layer: bool
    device: str
    budget: str | None
    paths: Sequence[str] | None
    allow_baselines: bool | None
    max_workspace_gib: float | None
    families: Sequence[str] | None
    confidence: float | None
    effort: str
    time_limit_s: float | None
    consistent: bool
    output: Path | None
    fresh: bool
    dry_run: bool
    format: str
    started: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request, read, with everything known that it left open."""

    workloads: list[Workload]
    model: Geometry | None
    inputs: Captured | None
    device: torch.device
    paths: tuple[str, ...]
    families: list[str]
    budget: Budget
    allow_baselines: bool
    confidence: float
    destination: Destination
    deadline: float


def run(request: Request) -> int:
    """Tune as asked.

    Returns:
        The exit code: 0, or 130 where Ctrl+C came; what was measured until then is saved.

    Raises:
        AutoprecError: What was asked cannot be done; or, once the profile is saved, a BudgetError
            where no path keeps to the budget.
    """
    job = _job(request)
    if request.dry_run:
        found = dry_run.document(job.workloads, job.device, job.paths)
        say(formats.write(found, request.format))
        return 0
    if job.destination.previous is not None:
        tell_changes(
            job.destination.previous,
            job.budget,
            job.confidence,
            allow_baselines=job.allow_baselines,
            effort=request.effort if request.confidence is None else None,
        )
    try:
        raise_on_interrupt()
        profile = _tune(job, request)
    except tuning.Interrupted as interrupted:
        _save(interrupted.profile, job, request.format)
        return 130
    except KeyboardInterrupt:
        tell("interrupted before anything was measured; nothing is saved")
        return 130
    saved = _save(profile, job, request.format)
    conclude(saved, job.destination.path, job.deadline - request.started)
    return 0


def _job(request: Request) -> _Job:
    """Read a request, and find the profile to add to, with what that says about what was left open.

    Raises:
        InputError: An option is none.
        BudgetError: No kernel can keep to the budget.
        ProfileError: The profile cannot be written, or what is there cannot be read.
    """
    if request.budget is not None:
        Budget.parse(request.budget)
    paths = checks.paths(request.paths)
    checks.time_limit(request.time_limit_s)
    checks.confidence(request.confidence)
    families = checks.families(request.families)
    checks.workspace(request.max_workspace_gib)
    device = devices.resolve(request.device)
    geometry = requested.model(request.model, request.workloads)
    inputs = _inputs(request)
    workloads = _workloads(request, geometry, inputs, device, paths)
    here = devices.describe(device)
    if request.device == "auto":
        tell(f"--device auto takes {device}: {here.name}")
    to = destination.find(request.output or profiles.default_path(here), fresh=request.fresh)
    before = to.previous
    budget = Budget.parse(request.budget or (before.budget if before else DEFAULT_BUDGET))
    refuse_out_of_reach(workloads, budget)
    return _Job(
        workloads=workloads,
        model=geometry,
        inputs=inputs,
        device=device,
        paths=paths,
        families=families,
        budget=budget,
        allow_baselines=(before is not None and before.allow_baselines)
        if request.allow_baselines is None
        else request.allow_baselines,
        confidence=EFFORTS[request.effort].confidence
        if request.confidence is None
        else request.confidence,
        destination=to,
        deadline=request.started + (request.time_limit_s or tuning.default_time_limit_s(device)),
    )


def _inputs(request: Request) -> Captured | None:
    """The captured tensors named.

    Raises:
        InputError: They cannot be read, or layers are asked for without any.
    """
    if request.inputs is not None:
        return captured.read(request.inputs)
    if request.per_layer:
        raise InputError(
            "--per-layer needs captured tensors.", "--per-layer --inputs captured.safetensors"
        )
    return None


def _workloads(
    request: Request,
    geometry: Geometry | None,
    inputs: Captured | None,
    device: torch.device,
    paths: tuple[str, ...],
) -> list[Workload]:
    """The workloads asked for: captured tensors say what is left open where no model does.

    Raises:
        InputError: A size is none, or they are not what was captured.
    """
    shape = inputs.geometry() if inputs and not geometry and not request.workloads else geometry
    kind = devices.describe(device).kind
    workloads = requested.workloads(request.sizes, shape, request.workloads, kind)
    if geometry is not None:
        workloads = requested.served(workloads, device, paths)
    if inputs is not None:
        inputs.check(workloads)
    return workloads


def _tune(job: _Job, request: Request) -> Profile:
    console = Console(file=cast(TextIO, Stderr()))
    shown = Display(
        job.budget,
        job.deadline,
        console,
        allow_baselines=job.allow_baselines,
        confidence=job.confidence,
    )
    paths = job.paths
    if "fp32" in job.budget.references and "fp32" not in paths:
        paths = (*paths, "fp32")
        tell("note: fp32 is measured too, for the budget compares with it")
    if request.consistent and (why := no_consistent_mode(job.device)):
        tell(f"note: --consistent measures nothing here: {why}")
    with shown:
        return tuning.tune(
            job.workloads,
            device=job.device,
            budget=job.budget,
            paths=paths,
            effort=request.effort,
            confidence=job.confidence,
            families=job.families,
            inputs=job.inputs,
            per_layer=request.per_layer,
            time_limit_s=job.deadline - time.monotonic(),
            allow_baselines=job.allow_baselines,
            max_workspace_gib=request.max_workspace_gib,
            consistent=request.consistent,
            previous=job.destination.previous,
            observe=shown,
            recorded_by=shlex.join(["autoprec", *sys.argv[1:]]),
        )


def _save(profile: Profile, job: _Job, format: str) -> Profile:
    """Save the profile; its report is printed even where it cannot be saved.

    Returns:
        What was saved.

    Raises:
        AutoprecError: It cannot be saved, or not be joined with what another saved meanwhile.
    """
    try:
        profile = destination.joined(profile, job.destination)
        profiles.write(profile, job.destination.path)
        tell(f"saved {job.destination.path}")
    finally:
        say(formats.write(_report(profile, job), format))
    return profile


def _report(profile: Profile, job: _Job) -> Document:
    """What was found, and what that means for the model asked for."""
    document = summary.document(profile, str(job.destination.path))
    if job.model is None:
        return document
    return replace(document, sections=(*document.sections, *model.sections(job.model, profile)))
