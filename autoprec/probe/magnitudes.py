"""How large the terms are that a row's output is made of: what certified bounds are relative to."""

import functools
from dataclasses import dataclass
from typing import Self

import torch

from autoprec.probe.judge import Allowance


@dataclass(frozen=True)
class Magnitudes:
    """Of some pairs of a request and a KV head, fp64; w is the softmax of a row.

    Attributes:
        logits: ``[pairs]``, the largest |scale| Σ|q||k| of any row and key that it sees.
        widest: ``[pairs]``, the largest |scale| (max|q| Σ|k| + max|k| Σ|q|), max|k| over the head.
        values: ``[pairs, rows, head_dim_v]``, Σ w|v|.
        floors: ``[pairs, rows, head_dim_v]``, max(w) Σ|v|.
        v_max: ``[pairs]``, max|v| over the head.
    """

    logits: torch.Tensor
    widest: torch.Tensor
    values: torch.Tensor
    floors: torch.Tensor
    v_max: torch.Tensor

    @classmethod
    def of(
        cls,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        seen: torch.Tensor | None,
        sm_scale: float,
    ) -> Self:
        """Compute them.

        Args:
            q: ``[pairs, rows, head_dim]``, the rows of all query heads of a pair.
            k: ``[pairs, kv_len, head_dim]``.
            v: ``[pairs, kv_len, head_dim_v]``.
            seen: ``[rows, kv_len]``, whether a row sees a key; None: it sees all.
            sm_scale: Factor on the logits.
        """
        q, k, v = (x.double() for x in (q, k, v))
        absolute, s = q.abs() @ k.abs().mT, q @ k.mT
        if seen is not None:
            absolute.masked_fill_(~seen, 0.0)
            s.masked_fill_(~seen, float("-inf"))
        # rows that see no key have no weights
        w = torch.softmax(s.mul_(sm_scale), -1).nan_to_num_(0.0)
        sums = v.abs().sum(1, keepdim=True) if seen is None else seen.double() @ v.abs()
        widest = q.abs().amax((1, 2)) * k.abs().sum(-1).amax(-1)
        widest += k.abs().amax((1, 2)) * q.abs().sum(-1).amax(-1)
        return cls(
            logits=abs(sm_scale) * absolute.amax((1, 2)),
            widest=abs(sm_scale) * widest,
            values=w @ v.abs(),
            floors=w.amax(-1, keepdim=True) * sums,
            v_max=v.abs().amax((1, 2)),
        )

    @functools.cached_property
    def scales(self) -> list[tuple[float, float]]:
        """``logits`` and ``widest`` of each pair."""
        return list(zip(self.logits.tolist(), self.widest.tolist(), strict=True))

    def share(
        self, off: torch.Tensor, allowances: list[Allowance], output_floor: float
    ) -> torch.Tensor:
        """The largest error over what is allowed, one number on the device; above 1 is a bug.

        Args:
            off: ``[pairs, rows, head_dim_v]``, absolute errors.
            allowances: For each pair.
            output_floor: What rounding to the output's smallest numbers may cost.
        """

        names = ("relative", "p_floor", "v_floor")
        table = [[getattr(one, name) for one in allowances] for name in names]
        columns = torch.tensor(table, dtype=off.dtype).to(off.device, non_blocking=True)
        relative, p_floor, v_floor = columns[..., None, None]
        allowed = relative * self.values + p_floor * self.floors
        allowed += v_floor * self.v_max[:, None, None] + output_floor
        allowed = allowed.nan_to_num(nan=float("inf"), posinf=float("inf"))  # 0 * inf
        shares: torch.Tensor = off / allowed.clamp_min(1e-300)
        return shares.max()
