"""What ``autoprec tune`` does around tuning: what it is asked, where it saves, how it ends."""

import math
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
from autoprec.commands import dry_run, requested
from autoprec.commands.console import Stderr, raise_on_interrupt, say, tell
from autoprec.commands.progress import Display
from autoprec.errors import BudgetError, InputError
from autoprec.model_layers import Geometry
from autoprec.paths import PATHS
from autoprec.probe import captured
from autoprec.probe import device as devices
from autoprec.probe.captured import Captured
from autoprec.probe.effort import EFFORTS
from autoprec.probe.families import DEFAULT_FAMILIES, chosen
from autoprec.report import confidence, formats, model, summary
from autoprec.report.document import Document
from autoprec.report.numbers import counted
from autoprec.sizes import Sizes
from autoprec.types import Profile, Role, Status, Workload

_SUREST = 0.9999  # more would take hundreds of draws of every family


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
    """A request with everything known that it left open.

    Attributes:
        stamp: What told the target from any other file before it was read; None for no file.
    """

    workloads: list[Workload]
    model: Geometry | None
    device: torch.device
    budget: Budget
    allow_baselines: bool
    confidence: float
    target: Path
    previous: Profile | None
    stamp: tuple[int, ...] | None
    fresh: bool
    deadline: float


def run(request: Request) -> int:
    """Tune as asked.

    Returns:
        The exit code: 0, or 130 where Ctrl+C came; what was measured until then is saved.

    Raises:
        AutoprecError: What was asked cannot be done; or, once the profile is saved, a BudgetError
            where no path keeps to the budget.
    """
    if request.budget is not None:
        Budget.parse(request.budget)
    paths = _paths(request.paths)
    check_time_limit(request.time_limit_s)
    _check_confidence(request.confidence)
    chosen(_families(request.families))
    _check_workspace(request.max_workspace_gib)
    device = devices.resolve(request.device)
    asked = requested.model(request.model, request.workloads)
    inputs = _inputs(request)
    # captured tensors say what is left open where no model does
    shape = inputs.geometry() if inputs and not asked and not request.workloads else asked
    wanted = requested.workloads(
        request.sizes, shape, request.workloads, devices.describe(device).kind
    )
    workloads = requested.served(wanted, device, paths) if asked else wanted
    if inputs is not None:
        inputs.check(workloads)
    if request.device == "auto":
        tell(f"--device auto takes {device}: {devices.describe(device).name}")
    job = _job(request, workloads, asked, device)
    if request.dry_run:
        say(formats.write(dry_run.document(workloads, device, paths), request.format))
        return 0
    try:
        raise_on_interrupt()
        profile = _tune(job, paths, request, inputs)
    except tuning.Interrupted as interrupted:
        _save(interrupted.profile, job, request.format)
        return 130
    except KeyboardInterrupt:
        tell("interrupted before anything was measured; nothing is saved")
        return 130
    _conclude(_save(profile, job, request.format), job.target)
    return 0


def _paths(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The paths to try, each once.

    Raises:
        InputError: One is unknown.
    """
    names = [name.strip() for name in ",".join(asked).split(",")] if asked else list(PATHS)
    for name in names:
        if name not in PATHS:
            raise InputError(
                f"--paths must be among {', '.join(PATHS)}, got {name!r}.",
                "autoprec paths, which says what each is",
            )
    return tuple(dict.fromkeys(names))


def check_time_limit(seconds: float | None) -> None:
    """Refuse a time limit that is none.

    Raises:
        InputError: It is not above zero, or not finite.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(
            f"--time-limit must be a number of seconds above 0, got {seconds:g}.",
            "--time-limit 60",
        )


def _check_confidence(confidence: float | None) -> None:
    if confidence is not None and not 0 <= confidence <= _SUREST:
        raise InputError(
            f"--confidence must be from 0 to {_SUREST}, got {confidence:g}.", "--confidence 0.95"
        )


def _families(asked: Sequence[str] | None) -> list[str]:
    """The names of families as typed, each once."""
    names = [name.strip() for name in ",".join(asked).split(",")] if asked else DEFAULT_FAMILIES
    return list(dict.fromkeys(names))


def _check_workspace(gib: float | None) -> None:
    if gib is not None and not 0 <= gib < math.inf:
        raise InputError(
            f"--max-workspace-gib must be a number of GiB from 0 on, got {gib:g}.",
            "--max-workspace-gib 2",
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


def _job(
    request: Request, workloads: list[Workload], asked: Geometry | None, device: torch.device
) -> _Job:
    """Find the profile to add to, and what it says about what was left open.

    Raises:
        ProfileError: The profile cannot be written, or what is there cannot be read.
    """
    target = request.output or profiles.default_path(devices.describe(device))
    profiles.check_writable(target)
    stamp = _stamp(target)
    previous = profiles.read(target) if target.exists() and not request.fresh else None
    limit_s = request.time_limit_s or tuning.default_time_limit_s(device)
    before = previous.budget if previous else DEFAULT_BUDGET
    if request.allow_baselines is None:
        allow_baselines = previous is not None and previous.allow_baselines
    else:
        allow_baselines = request.allow_baselines
    return _Job(
        workloads=workloads,
        model=asked,
        device=device,
        budget=Budget.parse(before if request.budget is None else request.budget),
        allow_baselines=allow_baselines,
        confidence=EFFORTS[request.effort].confidence
        if request.confidence is None
        else request.confidence,
        target=target,
        previous=previous,
        stamp=stamp,
        fresh=request.fresh,
        deadline=request.started + limit_s,
    )


def _tune(job: _Job, paths: tuple[str, ...], request: Request, inputs: Captured | None) -> Profile:
    console = Console(file=cast(TextIO, Stderr()))
    shown = Display(
        job.budget,
        job.deadline,
        console,
        allow_baselines=job.allow_baselines,
        confidence=job.confidence,
    )
    if "fp32" in job.budget.references and "fp32" not in paths:
        paths = (*paths, "fp32")
        tell("note: fp32 is measured too, for the budget compares with it")
    with shown:
        return tuning.tune(
            job.workloads,
            device=job.device,
            budget=job.budget,
            paths=paths,
            effort=request.effort,
            confidence=job.confidence,
            families=_families(request.families),
            inputs=inputs,
            per_layer=request.per_layer,
            time_limit_s=job.deadline - time.monotonic(),
            allow_baselines=job.allow_baselines,
            max_workspace_gib=request.max_workspace_gib,
            consistent=request.consistent,
            previous=job.previous,
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
        profile = _joined(profile, job)
        profiles.write(profile, job.target)
        tell(f"saved {job.target}")
    finally:
        say(formats.write(_report(profile, job), format))
    return profile


def _report(profile: Profile, job: _Job) -> Document:
    """What was found, and what that means for the model asked for."""
    document = summary.document(profile, str(job.target))
    if job.model is None:
        return document
    return replace(document, sections=(*document.sections, *model.sections(job.model, profile)))


def _joined(profile: Profile, job: _Job) -> Profile:
    """The profile with what another tune has saved since the target was read.

    Raises:
        AutoprecError: What is there now is no profile, or another machine's.
    """
    stamp = _stamp(job.target)
    if job.fresh or stamp is None or stamp == job.stamp:
        return profile
    # Only what was measured now is newer than what the other has saved.
    before = {row.key: row for row in job.previous.measurements} if job.previous else {}
    rows = [row for row in profile.measurements if before.get(row.key) != row]
    merged = profiles.merge(profiles.read(job.target), replace(profile, measurements=rows))
    return tuning.with_choices(merged)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes whenever the file does; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _conclude(profile: Profile, target: Path) -> None:
    """Say what is missing.

    Raises:
        BudgetError: No path keeps to the budget on some workload, or none runs.
    """
    missing = tuning.skipped(profile)
    if missing:
        workloads = len({row.workload for row in missing})
        tell(
            f"note: there was no time for {counted(len(missing), 'measurement')} on "
            f"{counted(workloads, 'workload')}; try a longer --time-limit, or fewer workloads"
        )
    short = confidence.short(profile)
    if short:
        tell(
            f"note: {counted(len(short), 'choice')} had fewer draws than "
            f"{profile.confidence:.0%} confidence takes, and {confidence.least(profile):.0%} is "
            "what the least sure has; a longer --time-limit completes them"
        )
    unmet = tuning.unmet(profile)
    if unmet:
        ran = {
            row.workload
            for row in profile.measurements
            if row.status is Status.OK and (row.role is Role.CANDIDATE or profile.allow_baselines)
        }
        over = sum(refusal.workload in ran for refusal in unmet)
        total = counted(len(profile.choices) + len(unmet), "workload")
        said = [f"no path tried keeps to {profile.budget} on {over} of {total}"] if over else []
        if over < len(unmet):
            said.append(f"no path tried runs on {len(unmet) - over} of {total}")
        raise BudgetError(
            f"{'; '.join(said)}.",
            "a larger --budget, or --out-dtype fp32 where the output's rounding is what costs"
            if over
            else f"autoprec explain {target}, which says why",
        )
