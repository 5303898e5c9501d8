"""Errors against fp64 attention of the inputs as given."""

import math

import torch

from autoprec.errors import AutoprecError
from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention

_LN2 = math.log(2.0)

# A row whose norm is below this share of the typical row's is measured against the typical row:
# where values cancel, an error relative to nothing says nothing.
_SMALLEST_ROW = 1e-3

# Memory that exact attention may take at a time, about.
_PIECE_BYTES = 1 << 29


class NonFiniteError(AutoprecError):
    """The output or the LSE holds NaN or infinity where exact attention does not."""


class Oracle:
    """Exact attention for a sample of a call's rows, and the errors of outputs against it."""

    def __init__(self, call: Call, family: str, *, rows: int, groups: int, seed: int) -> None:
        """Compute it; only the results are kept.

        Args:
            call: The inputs, the mask and the scale, without ``requests``; outputs are not looked
                at.
            family: The inputs' family, for sentences.
            rows: Query rows looked at in each head: all of them, or the first, the last, the
                middle and random ones.
            groups: Pairs of a request and a KV head looked at, with all their query heads: all
                of them, or the first, the last, the middle and random ones.
            seed: Of the random choices.
        """
        batch, kv_heads = call.k.shape[:2]
        generator = torch.Generator().manual_seed(seed)
        device = call.q.device
        pairs = _sample(batch * kv_heads, groups, generator).to(device)
        self.family = family
        self._pairs = (pairs // kv_heads, pairs % kv_heads)
        self._group = call.q.shape[1] // kv_heads
        self._rows = _sample(call.q.shape[2], rows, generator).to(device)
        # A few pairs at a time: slices of K and V are copies, and exact scores take room.
        scores_bytes = 4 * 8 * 1024 * self._group * len(self._rows)
        pair_bytes = call.k[0, 0].nbytes + call.v[0, 0].nbytes + scores_bytes
        pieces = math.ceil(len(pairs) * pair_bytes / _PIECE_BYTES)
        parts = [
            self._exact(call, part)
            for part in zip(*(x.chunk(pieces) for x in self._pairs), strict=True)
        ]
        self._out, self._lse = (torch.cat(x) for x in zip(*parts, strict=True))
        norms = self._out.norm(dim=-1)
        typical = norms[norms.isfinite()].square().mean().sqrt()
        self._floor = (norms.clamp_min(typical * _SMALLEST_ROW)).clamp_min(1e-300)

    def _exact(
        self, call: Call, pairs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Exact output and LSE of pairs, ``[pairs, group, rows, head_dim_v]`` and without it."""
        sinks = call.sinks
        if sinks is not None:
            sinks = self._grouped(sinks.expand(call.k.shape[0], -1), pairs)
        return attention(
            self._grouped(call.q, pairs),
            call.k[pairs][:, None],
            call.v[pairs][:, None],
            diagonal=call.diagonal,
            sm_scale=call.sm_scale,
            window_left=call.window_left,
            soft_cap=call.soft_cap,
            sinks=sinks,
            rows=self._rows,
        )

    def errors(self, out: torch.Tensor, lse: torch.Tensor | None) -> dict[str, float]:
        """The errors of an output.

        Args:
            out: ``[batch, q_heads, q_len, head_dim_v]``, on the call's device.
            lse: ``[batch, q_heads, q_len]``, base 2, or None.

        Returns:
            ``rel_l2``, ``row_rel_p999``, ``row_rel_max``, ``max_abs`` and, with an LSE,
            ``lse_abs`` in natural units.

        Raises:
            NonFiniteError: A row is not finite though the exact one is.
        """
        got = self._grouped(out, self._pairs).index_select(2, self._rows).double()
        judged = self._out.isfinite().all(-1)  # inputs may hold NaN: rows that must be NaN
        bad = judged & ~got.isfinite().all(-1)
        numbers = self._numbers(got, judged)
        if lse is not None:
            ours = self._grouped(lse, self._pairs).index_select(2, self._rows).double()
            # rows that see no key have -inf on both sides
            off = torch.where(ours == self._lse, 0.0, (ours - self._lse).abs() * _LN2)
            bad |= judged & ~off.isfinite()
            numbers["lse_abs"] = off[judged].max()
        numbers |= {"bad": bad.sum().double(), "rows": judged.sum().double()}
        values = dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))
        broken, looked_at = int(values.pop("bad")), int(values.pop("rows"))
        if broken:
            raise NonFiniteError(
                f"NaN or infinity in {broken} of {looked_at} rows looked at, on {self.family}."
            )
        return values

    def _numbers(self, got: torch.Tensor, judged: torch.Tensor) -> dict[str, torch.Tensor]:
        off = (got - self._out)[judged]
        rows = off.norm(dim=-1) / self._floor[judged]
        return {
            "rel_l2": off.norm() / self._out[judged].norm().clamp_min(1e-300),
            "row_rel_p999": _p999(rows),
            "row_rel_max": rows.max(),
            "max_abs": off.abs().max(),
        }

    def _grouped(self, x: torch.Tensor, pairs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The query heads of pairs, ``[pairs, group, ...]``."""
        request, kv_head = pairs
        heads = kv_head[:, None] * self._group + torch.arange(self._group, device=x.device)
        return x[request[:, None], heads]


def _sample(count: int, most: int, generator: torch.Generator) -> torch.Tensor:
    """Up to ``most`` ascending numbers below ``count``: first, last, middle, then random ones."""
    if count <= most:
        return torch.arange(count)
    fixed = torch.tensor([0, count - 1, count // 2])[:most]
    shuffled = torch.randperm(count, generator=generator)
    others = shuffled[~torch.isin(shuffled, fixed)]
    return torch.cat((fixed, others[: most - len(fixed)])).sort().values


def _p999(rows: torch.Tensor) -> torch.Tensor:
    """The 99.9th percentile: the smallest value that 99.9 % of the rows do not exceed."""
    return rows.kthvalue(math.ceil(0.999 * rows.numel())).values
