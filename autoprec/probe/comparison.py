"""What an output's comparison with exact attention gives, once the device has made it."""

import math
from dataclasses import dataclass
from typing import NoReturn

import torch

from autoprec.errors import AutoprecError
from autoprec.probe.truth import Truth


class NonFiniteError(AutoprecError):
    """The output or the LSE holds NaN or infinity where exact attention does not."""


@dataclass(frozen=True)
class Comparison:
    """An output against exact attention.

    Attributes:
        errors: Of all rows looked at: ``rel_l2``, ``row_rel_p999``, ``row_rel_max``, ``max_abs``
            and, with an LSE, ``lse_abs`` in natural units.
        by_head: The same errors of each pair of a request and a KV head looked at.
        typical_row: The relative error of the median row.
    """

    errors: dict[str, float]
    by_head: dict[str, list[float]]
    typical_row: float


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """A comparison that the device may still be at work on.

    Attributes:
        numbers: fp64: by name the numbers of each pair, where ``rel_l2`` is not divided by the
            exact norm yet; then the 99.9th percentile of all rows, and the median.
        names: In their order.
        norms: fp64 ``[pairs, group * rows]``, how far each row is off.
        lse_off: Likewise for its LSE; None where there is none.
        truth: What was compared with.
        family: The inputs' family, for sentences.
    """

    numbers: torch.Tensor
    names: tuple[str, ...]
    norms: torch.Tensor
    lse_off: torch.Tensor | None
    truth: Truth
    family: str

    def result(self) -> Comparison:
        """Wait for the device.

        Raises:
            NonFiniteError: A row is not finite though the exact one is.
        """
        return self.read(self.numbers.tolist())

    def read(self, numbers: list[float]) -> Comparison:
        """The same of the numbers, where somebody has waited for them.

        Raises:
            NonFiniteError: As said.
        """
        *every, p999, typical = numbers
        heads = len(self.norms)
        lists = (every[start : start + heads] for start in range(0, len(every), heads))
        by_head = dict(zip(self.names, lists, strict=True))
        if not all(map(math.isfinite, every)):
            self._refuse()
        off = by_head["rel_l2"]
        by_head["rel_l2"] = [x / norm for x, norm in zip(off, self.truth.head_norms, strict=True)]
        by_head.setdefault("row_rel_p999", by_head["row_rel_max"])
        errors = {name: max(values) for name, values in by_head.items()}
        errors |= {"rel_l2": math.hypot(*off) / self.truth.norm, "row_rel_p999": p999}
        return Comparison(errors, by_head, typical)

    def _refuse(self) -> NoReturn:
        bad = ~self.norms.isfinite()
        if self.lse_off is not None:
            bad |= ~self.lse_off.isfinite()
        left_out = self.truth.left_out
        judged = bad.numel() - (0 if left_out is None else int(left_out.sum()))
        raise NonFiniteError(
            f"NaN or infinity in {int(bad.sum())} of {judged} rows looked at, on {self.family}."
        )
