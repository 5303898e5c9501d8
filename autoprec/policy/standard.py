"""What the rows of one workload are held to: the budget there, and what it compares with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoprec.budget import REFERENCES, Budget, Errors, Reading
from autoprec.types import CAPTURED, Measurement, Role, Status

PYTORCH = "sdpa-"
"""How the names of PyTorch's own baselines begin."""


@dataclass(frozen=True)
class Standard:
    """A workload's budget.

    Attributes:
        budget: The clauses that hold for its phase.
        references: Errors of what they compare with: ``fp32``, ``torch``.
        layer: The layer that is chosen for; None for all of them.
    """

    budget: Budget
    references: Mapping[str, Errors]
    layer: int | None = None

    def reading(self, row: Measurement) -> Reading:
        """The clause of an ok row that is nearest to its bound, or furthest over it."""
        return self.budget.nearest(judged(row, self.layer), self.references)

    def violation(self, row: Measurement) -> Reading | None:
        """The worst clause that an ok row breaks; None where it keeps to the budget."""
        reading = self.reading(row)
        return None if reading.within else reading

    def keeps(self, row: Measurement) -> bool | None:
        """Whether an ok row keeps to the budget; None where what that compares with is missing."""
        readings = self.budget.readings(judged(row, self.layer), self.references)
        broken = [reading for reading in readings if not reading.within]
        if any(not it.clause.reference or it.reference is not None for it in broken):
            return False
        return None if broken else True


def standard(rows: Sequence[Measurement], budget: Budget, layer: int | None = None) -> Standard:
    """What the rows of a workload are held to.

    Args:
        rows: All of one workload's.
        budget: Of all workloads.
        layer: The layer that is chosen for; None for one that no clause names.
    """
    if not rows:
        return Standard(budget, {})
    ok = [row for row in rows if row.status is Status.OK]
    references = {
        name: _least(judged(row, layer) for row in ok if reference_of(row) == name)
        for name in REFERENCES.values()
    }
    return Standard(budget.of(rows[0].workload.phase, layer), references, layer)


def reference_of(row: Measurement) -> str:
    """What clauses that compare may compare with it as: ``fp32``, ``torch``; "" for nothing.

    Other libraries' attention is a baseline as well, but no reference: ``torch`` is PyTorch.
    """
    if row.aside:
        return ""
    if row.role is Role.BASELINE:
        return "torch" if row.path.startswith(PYTORCH) else ""
    return "fp32" if row.path == "fp32" else ""


def judged(row: Measurement, layer: int | None = None) -> Errors:
    """A row's errors as a budget sees them: the largest of all draws, of whole outputs and heads.

    A row of a profile without bounds is judged by the errors measured. For a layer, what was
    captured of others does not count.
    """
    others = () if layer is None else _of_others(row.errors, layer)
    return {
        family: {
            metric: max(value, row.bounds.get(family, {}).get(metric, value))
            for metric, value in numbers.items()
        }
        for family, numbers in row.errors.items()
        if family not in others
    }


def _of_others(families: Iterable[str], layer: int) -> tuple[str, ...]:
    """The families captured of other layers, where there is one of this layer."""
    captured = [family for family in families if family.startswith(f"{CAPTURED}/")]
    own = f"{CAPTURED}/{layer}"
    return tuple(it for it in captured if it != own) if own in captured else ()


def _least(several: Iterable[Errors]) -> dict[str, dict[str, float]]:
    """The smallest errors of several rows, by family and metric."""
    least: dict[str, dict[str, float]] = {}
    for errors in several:
        for family, numbers in errors.items():
            so_far = least.setdefault(family, dict(numbers))
            least[family] = {m: min(v, so_far.get(m, v)) for m, v in numbers.items()}
    return least
