"""What measuring asks of whoever decides: how many draws, for whom, and what a path may be off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoprec.types import Measurement, Workload


class Allowance(Protocol):
    """A bound on each element: relative * Σ w|v| + p_floor * max(w) Σ|v| + v_floor * max|v|."""

    @property
    def relative(self) -> float:
        """As said."""

    @property
    def p_floor(self) -> float:
        """As said."""

    @property
    def v_floor(self) -> float:
        """As said."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Decisions that are made elsewhere, on measurements that are under way.

    Attributes:
        needed: Draws of each typical family for what is worth them.
        shortlist: Rows of a workload so far → those that are worth them.
        certified: ``(path, workload, largest_logit, widest_logit, exp_error)`` → what no right
            kernel exceeds on a row.
        expected: ``(path, workload)`` → rel_l2 to expect on gauss.
        hopeless: ``(path, workload)`` → why the path need not be tried, or "".
    """

    needed: int = 0
    shortlist: Callable[[Sequence[Measurement]], Sequence[Measurement]] = lambda rows: ()
    certified: Callable[[str, Workload, float, float, float], Allowance] | None = None
    expected: Callable[[str, Workload], float] | None = None
    hopeless: Callable[[str, Workload], str] = lambda path, workload: ""


LENIENT = Judge()
"""Nothing is worth more than a first look, and no error is too large."""
