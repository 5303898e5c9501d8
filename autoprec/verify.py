"""Whether a profile's choices still hold on this machine: fresh draws, and the time."""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from autoprec import registry
from autoprec.budget import Budget, Reading
from autoprec.draws import draws_needed
from autoprec.errors import InputError, MachineError, ProfileError
from autoprec.policy.apriori import certified_for, expected_for
from autoprec.policy.fit import Fit, Match, compare
from autoprec.policy.standard import reference_of, standard
from autoprec.probe import device as probe_device
from autoprec.probe import peers
from autoprec.probe.baselines import BASELINES
from autoprec.probe.contender import Contender
from autoprec.probe.effort import EFFORTS
from autoprec.probe.events import Observe
from autoprec.probe.families import FAMILIES, Family, Group
from autoprec.probe.judge import Judge
from autoprec.probe.measure import measure
from autoprec.types import Choice, Measurement, Profile, Status

ALLOWED_OVER = 0.05
"""The part of all draws that may be over the budget: a bound is of their 95th percentile."""

FAR_OVER = 2.0
"""No draw may be this many times over the budget."""

SLOWER = 1.1
"""A time is slower where its 20th percentile is this many times the profile's 80th."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What came of one choice.

    Attributes:
        row: The measurement that the choice rests on.
        now: What was measured now.
        draws: Fresh draws of all families together.
        over: How many of them are over the budget.
        worst: The draw nearest to the budget, or furthest over it; None where none was taken.
    """

    choice: Choice
    row: Measurement
    now: Measurement
    draws: int
    over: int
    worst: Reading | None

    @property
    def slower(self) -> bool:
        """Whether it takes longer than noise explains."""
        then, now = self.row.p80_ms, self.now.p20_ms
        return then is not None and now is not None and now > SLOWER * then

    @property
    def far_over(self) -> bool:
        """Whether a draw is at more than twice the budget."""
        return self.worst is not None and self.worst.margin < 1 / FAR_OVER

    @property
    def trouble(self) -> str:
        """What is wrong with this choice alone; "" where nothing is."""
        if self.now.status is Status.SKIPPED:
            return "not checked: " + self.now.reason
        if self.now.status is not Status.OK:
            return self.now.reason
        if self.far_over:
            return f"more than {FAR_OVER:g} times the budget: {self.worst}"
        if self.slower:
            return f"slower: {self.now.p50_ms:.4g} ms, and {self.row.p50_ms:.4g} ms in the profile"
        return ""


@dataclass(frozen=True)
class Verified:
    """What came of a profile.

    Attributes:
        fit: How far the profile speaks for this machine.
        seed: Of the draws.
        checks: For each choice.
        unknown: Families of the profile that cannot be drawn here.
    """

    fit: Fit
    seed: int
    checks: Sequence[Check]
    unknown: Sequence[str] = field(default_factory=tuple)

    @property
    def draws(self) -> int:
        """Of all choices."""
        return sum(check.draws for check in self.checks)

    @property
    def over(self) -> int:
        """Draws over the budget."""
        return sum(check.over for check in self.checks)

    @property
    def holds(self) -> bool:
        """Whether everything was checked, and is as the profile says."""
        if any(check.trouble for check in self.checks):
            return False
        return self.over <= ALLOWED_OVER * self.draws


def verify(
    profile: Profile,
    *,
    device: torch.device,
    seed: int | None = None,
    families: Mapping[str, Family] | None = None,
    time_limit_s: float,
    observe: Observe = lambda event: None,
) -> Verified:
    """Check a profile's choices on fresh draws of the families that they were made on.

    Args:
        profile: Of this machine.
        device: Where.
        seed: Of the draws; None for one that nobody has seen.
        families: On which to draw beside gauss, by name; None: those that the choices were made on.
        time_limit_s: When to stop, in seconds from now; what is missing then is not checked.
        observe: Is told what is happening.

    Raises:
        MachineError: The profile is stale, or another machine's.
        InputError: It has no choices.
    """
    deadline = time.monotonic() + time_limit_s
    fit = compare(profile, probe_device.environment(device))
    if fit.match in (Match.STALE, Match.OTHER):
        what = "stale" if fit.match is Match.STALE else "another machine's"
        raise MachineError(
            f"the profile is {what}: {' '.join(fit.sentences)}", "autoprec tune --fresh"
        )
    if not profile.choices:
        raise InputError("the profile has no choices to verify.", "autoprec tune")
    seed = secrets.randbelow(1 << 31) + 1 if seed is None else seed
    rows = {choice.workload: _row(choice, profile.measurements) for choice in profile.choices}
    names = dict.fromkeys(name for row in rows.values() for name in row.errors)
    known = FAMILIES if families is None else families
    budget = Budget.parse(profile.budget)
    lines = {
        workload: [_contender(row), *_references(row, profile.measurements, budget)]
        for workload, row in rows.items()
    }
    for _ in measure(
        list(lines),
        device=device,
        paths=(),
        effort=EFFORTS["normal"],
        deadline=deadline,
        observe=observe,
        seed=seed,
        families=_typical(names if families is None else families, known),
        judge=Judge(
            needed=draws_needed(profile.confidence), shortlist=lambda rows: rows,
            certified=certified_for, expected=expected_for,
        ),
        line_up=lambda workload, *_: lines[workload],
    ):  # fmt: skip
        pass
    checks = [
        _check(choice, rows[choice.workload], lines[choice.workload], budget)
        for choice in profile.choices
    ]
    return Verified(fit, seed, checks, [name for name in names if name not in known])


def _row(choice: Choice, rows: Sequence[Measurement]) -> Measurement:
    """The measurement that a choice rests on: there is one, or the profile was refused."""
    return next(
        row
        for row in rows
        if row.status is Status.OK
        and not row.aside
        and (row.workload, row.path, row.kernel, row.storage, row.config)
        == (choice.workload, choice.path, choice.kernel, choice.storage, choice.config)
    )


def _contender(row: Measurement) -> Contender:
    """What ran a row, to be run again; another library that is gone says so.

    Raises:
        ProfileError: There is no such kernel any more.
    """
    baselines = {baseline.name: baseline for baseline in BASELINES}
    peer = next((it for it in peers.PEERS if it.name == row.kernel), None)
    reason = peers.absent(peer) if peer else ""
    try:
        kernel = peer or baselines.get(row.kernel) or registry.kernel(row.kernel)
    except InputError as error:
        raise ProfileError(error.sentence, "autoprec tune --fresh") from None
    return Contender(
        role=row.role,
        path=row.path,
        name=row.kernel,
        workload=row.workload,
        conversion=row.conversion,
        kernel=kernel,
        configs=(row.config,),
        status=Status.UNSUPPORTED if reason else Status.OK,
        reason=reason,
    )


def _references(
    row: Measurement, rows: Sequence[Measurement], budget: Budget
) -> Iterator[Contender]:
    """What the budget compares a row with, where that is not the row itself."""
    wanted = budget.of(row.workload.phase).references
    for other in rows:
        if other.workload != row.workload or other.status is not Status.OK or other is row:
            continue
        if reference_of(other) in wanted:
            yield _contender(other)


def _typical(names: Iterable[str], known: Mapping[str, Family]) -> dict[str, Family]:
    """Those of the names that can be drawn, and gauss, all as typical ones."""
    found = {"gauss": FAMILIES["gauss"]} | {name: known[name] for name in names if name in known}
    return {name: replace(family, group=Group.TYPICAL) for name, family in found.items()}


def _check(
    choice: Choice, row: Measurement, contenders: Sequence[Contender], budget: Budget
) -> Check:
    own = contenders[0]
    held_to = standard([it.measurement() for it in contenders], budget)
    readings = [
        held_to.budget.nearest({family: dict(zip(drawn, values, strict=True))}, held_to.references)
        for family, drawn in own.by_head.items()
        for values in zip(*drawn.values(), strict=True)
    ]
    return Check(
        choice=choice,
        row=row,
        now=own.measurement(),
        draws=len(readings),
        over=sum(not reading.within for reading in readings),
        worst=min(readings, key=lambda reading: reading.margin, default=None),
    )
