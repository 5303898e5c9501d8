"""Choices among some of what was measured: without baselines, or with fp32's range alone."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoprec import registry
from autoprec.budget import Budget
from autoprec.errors import BudgetError, UnsupportedError
from autoprec.paths import PATHS
from autoprec.plan.realise import fits
from autoprec.policy.choose import choose
from autoprec.policy.lookup import Found, nearest
from autoprec.policy.standard import Standard, standard
from autoprec.types import Choice, Measurement, Profile, Refusal, Status, Storage, Workload


@dataclass(frozen=True)
class Alternatives:
    """A profile's measurements, to choose again among some of them, each way once.

    Attributes:
        budget: The error accepted.
        profile: What was measured.
        layer: The model's layer that the choices are for; None for one that no budget names.
    """

    budget: Budget
    profile: Profile
    layer: int | None

    def rows(self, workload: Workload) -> tuple[list[Measurement], Standard]:
        """The measurements of a workload, and what they are held to."""
        rows = [row for row in self.profile.measurements if row.workload == workload]
        return rows, standard(rows, self.budget, self.layer)

    def safe(self, workload: Workload, *, portable: bool = False) -> tuple[Found, list[str]]:
        """The choice among the paths with fp32's range, and what is to be said of it.

        Where none of those was measured within the budget, it is the most accurate that was
        measured, and where none was measured, ``fp32``.

        Args:
            workload: What is computed.
            portable: Whether it is a kernel of several chips where one will do.
        """
        for choices in [self._wide_portable, self._wide] if portable else [self._wide]:
            with contextlib.suppress(BudgetError, UnsupportedError):
                return nearest(workload, *choices), []
        return self._most_accurate(workload), ["no path with fp32's range is in budget"]

    def _most_accurate(self, workload: Workload) -> Found:
        """The path with fp32's range of the least error measured anywhere, else ``fp32``.

        Of its measurements it is one whose blocks fit the workload, where there is one.
        """
        rows = [
            row for row in self.profile.measurements
            if row.status is Status.OK and _is_wide(row) and not row.aside
            and workload.input_dtype in PATHS[row.path].inputs
            and workload.phase == row.workload.phase
        ]  # fmt: skip
        choice = Choice(
            workload=workload, path="fp32", kernel="", config={},
            storage=Storage(workload.input_dtype.value), margin=0.0, rejected={},
        )  # fmt: skip
        if rows:
            path = min(rows, key=_error).path
            row = min(
                (row for row in rows if row.path == path),
                key=lambda row: (not fits(row.workload, workload), _error(row)),
            )
            _, held_to = self.rows(row.workload)
            choice = Choice(
                workload=row.workload, path=path, kernel=row.kernel, config=row.config,
                storage=row.storage, margin=held_to.reading(row).margin, rejected={},
            )  # fmt: skip
        return Found(choice, exact=False, note="nothing measured within the budget")

    @functools.cached_property
    def _wide(self) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """Choices and refusals among the paths with fp32's range."""
        return self._choose_where(_is_wide)

    @functools.cached_property
    def _wide_portable(self) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """The same among the kernels of several chips."""
        several = {row.name for row in registry.kernels() if len(row.architectures) > 1}
        return self._choose_where(lambda row: _is_wide(row) and row.kernel in several)

    def _choose_where(
        self, keeps: Callable[[Measurement], bool]
    ) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """Choices and refusals among some of our own measurements; no baseline is chosen."""
        return choose(
            # baselines stay, to be compared with
            [row for row in self.profile.measurements if row.path not in PATHS or keeps(row)],
            self.budget,
            confidence=self.profile.confidence,
            layer=self.layer,
        )

    @functools.cached_property
    def without_baselines(self) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """Choices and refusals among all paths."""
        return self._choose_where(lambda row: True)


def _is_wide(row: Measurement) -> bool:
    """Whether a row is one of ours, and of a path with fp32's range."""
    return row.path in PATHS and PATHS[row.path].operand != "fp16"


def _error(row: Measurement) -> float:
    """The relative L2 error on the family where it is largest."""
    return max(numbers["rel_l2"] for numbers in row.errors.values())
