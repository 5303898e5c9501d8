"""Exact results as errors are measured against them: which rows are judged, and beside what."""

import math
from dataclasses import dataclass
from typing import Self

import torch

_LN2 = math.log(2.0)

# A row whose norm is below this share of the typical row's is measured against the typical row:
# where values cancel, an error relative to nothing says nothing.
_SMALLEST_ROW = 1e-3


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Exact attention of the rows looked at, and what errors are measured in.

    Attributes:
        out: fp64 ``[pairs, group, rows, head_dim_v]``, zero in rows that are left out.
        lse: fp64 ``[pairs, group, rows]``.
        lse_is_finite: Whether all of it is.
        left_out: bool ``[pairs, group * rows]``: inputs may hold NaN, and rows that must be NaN
            are not judged. None where all are.
        floor: fp64 ``[pairs, group * rows]``, what the error of each row is divided by.
        head_norms: What the error of each pair is divided by.
        norm: What the error of all of it is divided by.
    """

    out: torch.Tensor
    lse: torch.Tensor
    lse_is_finite: bool
    left_out: torch.Tensor | None
    floor: torch.Tensor
    head_norms: list[float]
    norm: float

    @classmethod
    def of(cls, out: torch.Tensor, lse: torch.Tensor) -> Self:
        """Take exact results, fp64 ``[pairs, group, rows, head_dim_v]`` and without it."""
        norms = out.norm(dim=-1).flatten(1)
        nan = ~norms.isfinite()
        norms = norms.masked_fill(nan, 0.0)
        typical = norms.square().sum().div((~nan).sum()).sqrt()
        heads = norms.norm(dim=1)
        smallest = heads.square().mean().sqrt() * _SMALLEST_ROW
        of_all = torch.stack((nan.any(), lse.isfinite().all(), heads.norm()))
        some, finite, norm, *head_norms = torch.cat(
            (of_all, heads.clamp_min(smallest).clamp_min(1e-300))
        ).tolist()  # one wait for the device
        return cls(
            out=out.masked_fill(nan.view(lse.shape)[..., None], 0.0) if some else out,
            lse=lse,
            lse_is_finite=bool(finite),
            left_out=nan if some else None,
            floor=norms.clamp_min(typical * _SMALLEST_ROW).clamp_min(1e-300),
            head_norms=head_norms,
            norm=max(norm, 1e-300),
        )

    def lse_off(self, lse: torch.Tensor) -> torch.Tensor:
        """How far an LSE is off, in natural units.

        Args:
            lse: fp64 ``[pairs, group, rows]``, base 2.

        Returns:
            fp64 ``[pairs, group * rows]``.
        """
        off = (lse - self.lse).abs() * _LN2
        if not self.lse_is_finite:  # rows that see no key have -inf on both sides
            off = off.masked_fill(lse == self.lse, 0.0)
        off = off.flatten(1)
        return off if self.left_out is None else off.masked_fill(self.left_out, 0.0)
