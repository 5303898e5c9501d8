"""Probe, policy, profile: measure workloads, choose for each, and make the profile of it."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

import autoprec
from autoprec import profile as profiles
from autoprec.budget import Budget
from autoprec.draws import draws_needed
from autoprec.errors import InputError, MachineError
from autoprec.paths import PATHS
from autoprec.policy.apriori import certified_for, expected_for, hopeless, refuse_out_of_reach
from autoprec.policy.choose import choose_again
from autoprec.policy.confidence import shortlist
from autoprec.policy.fit import compare
from autoprec.probe import ceilings as probe_ceilings
from autoprec.probe import device as probe_device
from autoprec.probe import fingerprint as probe_fingerprint
from autoprec.probe.captured import Captured
from autoprec.probe.compile import CompilePool
from autoprec.probe.consistent import line_up as in_mode
from autoprec.probe.effort import EFFORTS
from autoprec.probe.events import Event, Observe, Remark
from autoprec.probe.families import DEFAULT_FAMILIES, FAMILIES, chosen
from autoprec.probe.judge import LENIENT, Judge
from autoprec.probe.lineup import line_up
from autoprec.probe.measure import measure
from autoprec.types import (
    Ceilings,
    Choice,
    Environment,
    Measurement,
    Profile,
    Refusal,
    Role,
    Status,
    Workload,
)

# Of the time, what is kept for consistent mode, where it is asked for.
_FOR_CONSISTENT = 0.15

_INTERRUPTED = "Measuring was interrupted."


class Interrupted(KeyboardInterrupt):
    """Ctrl+C while measuring, with what was measured until then.

    Attributes:
        profile: As ``tune`` would have returned it.
    """

    def __init__(self, profile: Profile) -> None:
        """Keep what was measured."""
        super().__init__()
        self.profile = profile


def default_time_limit_s(device: torch.device) -> float:
    """Seconds after which measuring stops, where nobody said."""
    return 50.0 if device.type == "cpu" else 110.0


def tune(
    workloads: Sequence[Workload],
    *,
    device: torch.device,
    budget: Budget,
    paths: Sequence[str] = tuple(PATHS),
    effort: str = "normal",
    confidence: float | None = None,
    families: Sequence[str] = DEFAULT_FAMILIES,
    inputs: Captured | None = None,
    per_layer: bool = False,
    time_limit_s: float | None = None,
    allow_baselines: bool = False,
    max_workspace_gib: float | None = None,
    consistent: bool = False,
    previous: Profile | None = None,
    observe: Observe = lambda event: None,
    recorded_by: str = "",
) -> Profile:
    """Measure workloads, choose for each the fastest path within the budget.

    Args:
        workloads: What to measure.
        device: Where.
        budget: The error accepted.
        paths: Names of ``paths.PATHS`` to try.
        effort: ``quick``, ``normal`` or ``thorough``.
        confidence: That the largest error of any draw bounds 95 % of all draws, from 0 to below 1.
            None: the effort's.
        families: Names of input families, ``typical``, ``extreme`` or ``all``; see
            ``probe.families.chosen``.
        inputs: Captured tensors, on which the budget holds as well.
        per_layer: Whether those of each layer are a family of their own, so that a plan for a
            layer is held to its own alone.
        time_limit_s: When to stop, in seconds from now; what is missing then has the status
            skipped. None: 50 on a CPU, 110 on a GPU.
        allow_baselines: Whether the attention of PyTorch and other libraries may be chosen.
        max_workspace_gib: What a kernel may take beyond inputs and outputs, where that is known
            before it runs: on a GPU. None for anything.
        consistent: Whether what is chosen is measured in consistent mode as well, in the last part
            of the time.
        previous: A profile of this machine to add to. Its choices are made anew for the budget.
        observe: Is told what is happening.
        recorded_by: How this was called, for the profile.

    Returns:
        The profile, not yet saved.

    Raises:
        InputError: A path or the effort is unknown, or there is no workload.
        BudgetError: No kernel can keep to the budget on any workload, whatever it computes.
        MachineError: The previous profile is of another machine, or this one has changed since.
        Interrupted: Ctrl+C, once something was measured.
    """
    limit_s = default_time_limit_s(device) if time_limit_s is None else time_limit_s
    deadline = time.monotonic() + limit_s
    _refuse_unknown(workloads, paths, effort)
    refuse_out_of_reach(workloads, budget)
    drawn = chosen(families)
    if inputs is not None:
        inputs.check(workloads)
        drawn |= inputs.families(per_layer=per_layer)
    sure = EFFORTS[effort].confidence if confidence is None else confidence
    environment = probe_device.environment(device)
    if previous is not None:
        _refuse_other_machine(previous, environment)
    remarks: list[str] = []
    rows: dict[object, Measurement] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Remark):
            remarks.append(event.sentence)
        observe(event)

    def finished(ceilings: Ceilings) -> Profile:
        new = Profile(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            autoprec_version=autoprec.__version__,
            recorded_by=recorded_by,
            environment=environment,
            ceilings=ceilings,
            budget=str(budget),
            confidence=sure,
            allow_baselines=allow_baselines,
            measurements=list(rows.values()),
            choices=[],
            fingerprint=fingerprint,
            remarks=remarks,
        )
        return choose_again(new if previous is None else _added(previous, new))

    if inputs is not None and inputs.left_out:
        listen(
            Remark(f"{inputs.left_out} heads of {inputs.path} were left out, since it is large.")
        )
    with _compilers(device) as pool:
        fingerprint, unknown = probe_fingerprint.take(device)
        for sentence in unknown:
            listen(Remark(sentence))
        ceilings = probe_ceilings.measure(device)

        def measured() -> Iterator[Measurement]:
            yield from measure(
                workloads,
                device=device,
                paths=tuple(paths),
                effort=EFFORTS[effort],
                deadline=deadline - (_FOR_CONSISTENT * limit_s if consistent else 0.0),
                observe=listen,
                families=drawn,
                judge=judge(
                    budget, sure, allow_baselines=allow_baselines, prunes=EFFORTS[effort].prunes
                ),
                line_up=functools.partial(line_up, fingerprint=fingerprint),
                max_workspace_gib=max_workspace_gib,
                pool=pool,
            )
            if consistent:
                own = [it for it in finished(ceilings).choices if it.workload in set(workloads)]
                yield from _in_consistent_mode(own, device, effort, deadline, listen, pool)

        try:
            for row in measured():
                rows[row.key] = row
        except KeyboardInterrupt:
            if not rows:
                raise
            remarks.append(_INTERRUPTED)
            raise Interrupted(finished(ceilings)) from None
    return finished(ceilings)


@contextlib.contextmanager
def _compilers(device: torch.device) -> Iterator[CompilePool | None]:
    """Processes that compile for a GPU, which get ready while it is looked at; None on a CPU."""
    target = probe_device.target(device)
    if target.kind == "cpu":
        yield None
    else:
        with CompilePool(target).start() as pool:
            yield pool


def _in_consistent_mode(
    choices: Sequence[Choice],
    device: torch.device,
    effort: str,
    deadline: float,
    observe: Observe,
    pool: CompilePool | None,
) -> Iterator[Measurement]:
    """What was chosen, measured in consistent mode on gauss; baselines have none."""
    ours = {it.workload: it for it in choices if it.path in PATHS}
    if not ours:
        return
    yield from measure(
        list(ours),
        device=device,
        paths=(),
        effort=EFFORTS[effort],
        deadline=deadline,
        observe=observe,
        families={"gauss": FAMILIES["gauss"]},
        line_up=lambda workload, target, *_: [in_mode(ours[workload], target)],
        pool=pool,
    )


def judge(budget: Budget, confidence: float, *, allow_baselines: bool, prunes: bool) -> Judge:
    """What measuring asks of the policy.

    Args:
        budget: The error accepted.
        confidence: Wanted of the bounds.
        allow_baselines: Whether a baseline may be chosen.
        prunes: Whether paths are left out that are far over the budget.
    """
    return Judge(
        needed=draws_needed(confidence),
        shortlist=functools.partial(shortlist, budget=budget, allow_baselines=allow_baselines),
        certified=certified_for,
        expected=expected_for,
        hopeless=functools.partial(hopeless, budget=budget) if prunes else LENIENT.hopeless,
    )


def unmet(profile: Profile) -> list[Refusal]:
    """The workloads for which every path was tried and none keeps to the budget."""
    untried = {
        row.workload for row in skipped(profile) if row.role is Role.CANDIDATE and not row.aside
    }
    return [refusal for refusal in profile.refusals if refusal.workload not in untried]


def skipped(profile: Profile) -> list[Measurement]:
    """What there was no time for."""
    return [row for row in profile.measurements if row.status is Status.SKIPPED]


def _refuse_unknown(workloads: Sequence[Workload], paths: Sequence[str], effort: str) -> None:
    if not workloads:
        raise InputError("there is no workload to measure.")
    for path in paths:
        if path not in PATHS:
            raise InputError(f"the path {path!r} is not one of {', '.join(PATHS)}.")
    if effort not in EFFORTS:
        raise InputError(f"the effort {effort!r} is not one of {', '.join(EFFORTS)}.")


def _refuse_other_machine(previous: Profile, environment: Environment) -> None:
    fit = compare(previous, environment)
    if fit.sentences:
        raise MachineError(
            f"the profile cannot be added to: {' '.join(fit.sentences)}",
            "--fresh to replace it, or -o with another file",
        )


def _added(previous: Profile, new: Profile) -> Profile:
    """The rows of both; that measuring was once interrupted is of no interest any more."""
    remarks = [remark for remark in previous.remarks if remark != _INTERRUPTED]
    return profiles.merge(replace(previous, remarks=remarks), new)
