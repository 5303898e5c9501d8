"""A plan against its peers: what it chose, PyTorch's backends and other libraries, side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoprec.budget import Budget
from autoprec.errors import AutoprecError, InputError
from autoprec.kernels.interface import Target
from autoprec.paths import PATHS
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Decision
from autoprec.probe import peers
from autoprec.probe.baselines import Baseline
from autoprec.probe.contender import Contender
from autoprec.probe.effort import EFFORTS
from autoprec.probe.events import Observe
from autoprec.probe.families import DEFAULT_FAMILIES, chosen
from autoprec.probe.lineup import of_baseline
from autoprec.probe.measure import measure
from autoprec.types import Conversion, Measurement, Profile, Role, Status, Workload

DEFAULT_TIME_LIMIT_S = 300.0


@dataclass(frozen=True)
class Benched:
    """What ``bench`` measured.

    Attributes:
        rows: For each workload what the plan runs, and then its peers.
        references: Rows of the path fp32, where the budget compares with it and the plan runs
            another.
        notes: By workload, what a person should know of the plan's choice; "" for nothing.
        versions: Of the other libraries, by name; one that is not here says so.
    """

    rows: list[Measurement]
    references: list[Measurement]
    notes: dict[Workload, str]
    versions: dict[str, str]


def bench(
    profile: Profile,
    workloads: Sequence[Workload],
    *,
    device: torch.device,
    families: Sequence[str] = DEFAULT_FAMILIES,
    others: Sequence[str] | None = None,
    effort: str = "normal",
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    observe: Observe = lambda event: None,
) -> Benched:
    """Time what a profile chose and its peers in turn, on the same inputs, output types and clock.

    All give the output alone, for no peer gives the log-sum-exp; a plan whose budget bounds the
    error of that gives it too.

    Nothing is searched: what a plan would run is taken, with its configuration; for a workload that
    was not measured that is the choice of the nearest one. A sample of each is taken before the
    next sample of any, so that a clock that drifts does so for all.

    Args:
        profile: Of this machine.
        workloads: What to compute.
        device: Where.
        families: On which errors are measured: names for ``families.chosen``.
        others: The peers, such as ``sdpa-cudnn``; what is not installed has a row that says so.
            None: all that are here.
        effort: ``quick``, ``normal`` or ``thorough``.
        time_limit_s: When to stop, in seconds from now.
        observe: Is told what is happening.

    Raises:
        InputError: There is no workload, or no such family or peer.
    """
    if not workloads:
        raise InputError("there is no workload to measure.")
    named = peers.named(others)
    notes: dict[Workload, str] = {}
    compared: set[tuple[Workload, str]] = set()

    def line_up(
        workload: Workload, target: Target, paths: tuple[str, ...], where: torch.device
    ) -> list[Contender]:
        ours, notes[workload] = _planned(profile, workload, target)
        references = _references(profile, workload, target, ours)
        compared.update((workload, it.path) for it in references)
        theirs = [_peer(row, path, workload, target, where) for path, row in named.items()]
        return [*ours, *references, *theirs]

    measured = measure(
        workloads,
        device=device,
        paths=(),
        effort=EFFORTS[effort],
        deadline=time.monotonic() + time_limit_s,
        observe=observe,
        families=chosen(families),
        line_up=line_up,
    )
    rows: list[Measurement] = []
    references: list[Measurement] = []
    for row in {row.key: row for row in measured}.values():  # some come again, with more draws
        (references if (row.workload, row.path) in compared else rows).append(row)
    return Benched(rows, references, notes, peers.versions(peers.PEERS))


def _peer(
    row: Baseline, path: str, workload: Workload, target: Target, device: torch.device
) -> Contender:
    peer = of_baseline(row, path, workload, target, device)
    if reason := peers.absent(row):
        peer.status, peer.reason = Status.UNSUPPORTED, reason
    return peer


def _planned(profile: Profile, workload: Workload, target: Target) -> tuple[list[Contender], str]:
    """What a plan runs for a workload, if anything, and a note on it; "" for none."""
    try:
        decision = Decider.of(profile, None).decide(workload, target)
    except AutoprecError as error:
        return [], f"the plan has nothing for it: {error.sentence}"
    if decision.path not in PATHS:
        return [], f"the plan's choice is the baseline {decision.path}"
    notes = filter(None, (decision.found.note, *decision.notes))
    return [_contender(decision, profile)], "; ".join(notes)


def _references(
    profile: Profile, workload: Workload, target: Target, ours: Sequence[Contender]
) -> list[Contender]:
    """The path fp32 as it was fastest, where the budget compares with it and it is not ours."""
    wanted = Budget.parse(profile.budget).of(workload.phase).references
    if "fp32" not in wanted or any(it.path == "fp32" for it in ours):
        return []
    try:
        decision = Decider.of(profile, None).only("fp32").decide(workload, target)
    except AutoprecError:  # nothing near was measured with it, or nothing runs it here
        return []
    return [_contender(decision, profile)]


def _contender(decision: Decision, profile: Profile) -> Contender:
    budget = Budget.parse(profile.budget).of(decision.workload.phase)
    converts = decision.kernel.converts(decision.path, decision.workload.input_dtype)
    return Contender(
        role=Role.CANDIDATE,
        path=decision.path,
        name=decision.kernel.name,
        workload=decision.workload,
        conversion=Conversion.INCLUDED if converts else Conversion.NONE,
        kernel=decision.kernel,
        configs=(decision.config,),
        with_lse=budget.bounds_lse,
    )
