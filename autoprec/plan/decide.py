"""From a workload to the measured choice that stands for it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoprec.budget import Budget
from autoprec.errors import BudgetError, InputError
from autoprec.kernels.interface import Target
from autoprec.paths import PATHS
from autoprec.plan.alternatives import Alternatives
from autoprec.plan.decision import PLAIN, Asked, Decision
from autoprec.plan.realise import realised
from autoprec.policy.choose import choose_again
from autoprec.policy.lookup import Found, nearest
from autoprec.policy.storage import fastest, on_form
from autoprec.types import (
    Choice,
    Measurement,
    Phase,
    Profile,
    Refusal,
    Role,
    Status,
    Storage,
    Workload,
)

_TYPICAL_LEN = 8192  # what consistent mode looks every length up as


@dataclass(frozen=True)
class Decider:
    """The choices of a profile, for a budget.

    Attributes:
        budget: The error accepted.
        profile: What was measured.
        choices: One for every workload on which some path keeps to the budget.
        refusals: The other workloads.
        layer: The model's layer that they are for; None for one that the budget does not name.
    """

    budget: Budget
    profile: Profile
    choices: Sequence[Choice]
    refusals: Sequence[Refusal]
    layer: int | None = None

    @classmethod
    def of(cls, profile: Profile, budget: Budget | None, layer: int | None = None) -> "Decider":
        """The choices saved in a profile, or those for another budget or layer, without measuring.

        Raises:
            BudgetError: No path keeps to the budget on any workload measured, or none runs.
            InputError: The profile has neither choices nor refusals.
        """
        saved = budget is None and layer is None
        made = profile if saved else choose_again(profile, budget, layer=layer)
        choices, refusals = made.choices, made.refusals
        budget = Budget.parse(made.budget)
        if not choices and not refusals:
            raise InputError("the profile has no choices: nothing was measured.", "autoprec tune")
        if not choices:
            raise _nothing_to_choose(budget, profile, refusals)
        return cls(budget, profile, choices, refusals, layer)

    def decide(
        self,
        workload: Workload,
        target: Target,
        *,
        no_baseline: str = "",
        asked: Asked = PLAIN,
    ) -> Decision:
        """What runs for a workload on a device.

        Args:
            no_baseline: Why no baseline may run, as a clause; "" where one may.
            asked: What else it must be.

        Raises:
            BudgetError: On the nearest workload measured, no path keeps to the budget, or runs.
            UnsupportedError: Nothing near was measured, or no kernel runs what was chosen.
        """
        looked_up = _typical(workload) if asked.consistent else workload
        found, substituted = self.find(looked_up, no_baseline)
        return realised(self._on_form(found, asked), workload, target, substituted, asked)

    def _on_form(self, found: Found, asked: Asked) -> Found:
        """What was fastest on a cache in another form than the inputs', where that was measured."""
        own = found.choice.workload.input_dtype.value
        if asked.storage is None or asked.storage.value == own:
            return found
        rows, held_to = self._alternatives.rows(found.choice.workload)
        row = on_form(rows, held_to, asked.storage, asked.paths)
        if row is None:
            return found
        choice = replace(
            found.choice, path=row.path, kernel=row.kernel, config=row.config, storage=row.storage,
            margin=held_to.reading(row).margin,
        )  # fmt: skip
        return replace(found, choice=choice)

    def by_form(self, workload: Workload) -> dict[Storage, Measurement]:
        """By form of a cache, what was fastest on it for a workload measured; {} for nothing."""
        return fastest(*self._alternatives.rows(workload))

    def find(self, workload: Workload, no_baseline: str = "") -> tuple[Found, list[str]]:
        """The choice of the nearest workload measured, and what is not as chosen, in sentences.

        Raises:
            AutoprecError: As ``decide`` does.
        """
        found = nearest(workload, self.choices, self.refusals)
        if not no_baseline or found.choice.path in PATHS:
            return found, []
        baseline = found.choice.path
        found = nearest(workload, *self._alternatives.without_baselines)
        return found, [f"{baseline} was chosen but {no_baseline}, so {found.choice.path} runs"]

    def only(self, path: str) -> "Decider":
        """The same machine with one path alone, in the configurations that were fastest."""
        best: dict[Workload, tuple[float, Choice]] = {}
        for row in self.profile.measurements:
            if row.path != path or row.role is not Role.CANDIDATE or row.aside:
                continue
            if row.p50_ms is None or row.p50_ms >= best.get(row.workload, (math.inf,))[0]:
                continue
            choice = Choice(
                workload=row.workload, path=path, kernel=row.kernel, config=row.config,
                storage=row.storage, margin=0.0, rejected={},
            )  # fmt: skip
            best[row.workload] = (row.p50_ms, choice)
        return replace(self, choices=[choice for _, choice in best.values()], refusals=[])

    def decide_safe(
        self, workload: Workload, target: Target, *, asked: Asked = PLAIN, portable: bool = False
    ) -> Decision:
        """What runs for a workload on a device where fp16's range may be too narrow.

        Args:
            workload: What is computed.
            target: The device.
            asked: What else it must be.
            portable: Whether it is a kernel of several chips where one will do. A guard wants that:
                it launches this behind every call, hardly ever to do anything, and the launch of a
                kernel made for one chip costs more.

        Raises:
            UnsupportedError: No kernel runs what was chosen.
        """
        found, notes = self.find_safe(workload, portable=portable)
        return realised(found, workload, target, notes, asked)

    def find_safe(self, workload: Workload, *, portable: bool = False) -> tuple[Found, list[str]]:
        """See ``Alternatives.safe``."""
        return self._alternatives.safe(workload, portable=portable)

    @functools.cached_property
    def _alternatives(self) -> Alternatives:
        """Choices among some of what was measured."""
        return Alternatives(self.budget, self.profile, self.layer)


def _nothing_to_choose(
    budget: Budget, profile: Profile, refusals: Sequence[Refusal]
) -> BudgetError:
    """That nothing keeps to the budget, or runs, and how far the first workload came."""
    first = next((it for it in refusals if it.ran), None)
    if first is None:
        it = refusals[0]
        sentences = "; ".join(f"{path}: {why}" for path, why in it.rejected.items())
        return BudgetError(
            f"no path runs on any workload of the profile; on {it.workload}: {sentences}.",
            "autoprec paths, which says what runs",
        )
    measured = {
        row.path
        for row in profile.measurements
        if row.workload == first.workload and row.status is Status.OK
    }
    sentences = "; ".join(
        f"{path}: {why}" for path, why in first.rejected.items() if path in measured
    )
    return BudgetError(
        f"no path keeps to the budget of {budget} on any workload of the profile; "
        f"on {first.workload}: {sentences or 'none was measured'}.",
        "a looser budget",
    )


def _typical(workload: Workload) -> Workload:
    """The workload that stands for all batches and lengths: a decode, or for the rest a prefill."""
    if workload.phase is Phase.DECODE:
        return replace(workload, batch=1, q_len=1, kv_len=_TYPICAL_LEN)
    return replace(workload, phase=Phase.PREFILL, batch=1, q_len=_TYPICAL_LEN, kv_len=_TYPICAL_LEN)
