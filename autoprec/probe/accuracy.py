"""Errors against fp64 attention of the inputs as given."""

import math
from collections.abc import Callable
from dataclasses import fields

import torch

from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention
from autoprec.probe.comparison import Comparing, Comparison
from autoprec.probe.judge import Allowance
from autoprec.probe.magnitudes import Magnitudes
from autoprec.probe.truth import Truth

# Pairs of a request and a KV head that are held to certified bounds: a bug shows on any.
_CERTIFIED = 4

# Memory that exact attention may take at a time, about.
_PIECE_BYTES = 1 << 29


class Oracle:
    """Exact attention for a sample of a call's rows, and the errors of outputs against it.

    Attributes:
        call: The inputs.
        family: Theirs.
        whole: Whether all rows of all heads are looked at.
        magnitudes: What certified bounds are made of; None where nobody asked.
    """

    def __init__(
        self,
        call: Call,
        family: str,
        *,
        rows: int,
        groups: int,
        seed: int,
        magnitudes: bool = False,
    ) -> None:
        """Compute it.

        Args:
            call: The inputs, the mask and the scale, without ``requests``; outputs are not looked
                at.
            family: The inputs' family, for sentences.
            rows: Query rows looked at in each head: all of them, or the first, the last, the
                middle and random ones.
            groups: Pairs of a request and a KV head looked at, with all their query heads: all
                of them, or the first, the last, the middle and random ones.
            seed: Of the random choices.
            magnitudes: Whether to be ready for ``share_of``.
        """
        self.call = call
        batch, kv_heads = call.k.shape[:2]
        generator = torch.Generator().manual_seed(seed)
        device = call.q.device
        pairs = sample(batch * kv_heads, groups, generator)
        chosen = sample(call.q.shape[2], rows, generator)
        self.whole = len(pairs) == batch * kv_heads and len(chosen) == call.q.shape[2]
        pairs, self._rows = pairs.to(device), chosen.to(device)
        self.family = family
        self._pairs = (pairs // kv_heads, pairs % kv_heads)
        self._group = call.q.shape[1] // kv_heads
        request, heads = (x[..., None] for x in self._heads(self._pairs))
        self._places = (request, heads, self._rows)
        # A few pairs at a time: slices of K and V are copies, and exact scores take room.
        scores_bytes = 4 * 8 * 1024 * self._group * len(self._rows)
        pair_bytes = call.k[0, 0].nbytes + call.v[0, 0].nbytes + scores_bytes
        pieces = math.ceil(len(pairs) * pair_bytes / _PIECE_BYTES)
        parts = [
            self._exact(call, part)
            for part in zip(*(x.chunk(pieces) for x in self._pairs), strict=True)
        ]
        self._truth = Truth.of(*(torch.cat(x) for x in zip(*parts, strict=True)))
        self.magnitudes = self._magnitudes(call) if magnitudes else None

    def _magnitudes(self, call: Call) -> Magnitudes:
        kv_len = call.k.shape[2]
        seen = None
        if call.diagonal is not None:
            keys = torch.arange(kv_len, device=call.k.device)
            seen = (keys <= (self._rows + call.diagonal)[:, None]).repeat(self._group, 1)
        room = _PIECE_BYTES // (4 * 8 * self._group * len(self._rows) * kv_len)
        parts = [
            Magnitudes.of(
                self._grouped(call.q, part).index_select(2, self._rows).flatten(1, 2),
                call.k[part],
                call.v[part],
                seen=seen,
                sm_scale=call.sm_scale,
            )
            for part in zip(
                *(torch.split(x[:_CERTIFIED], max(1, room)) for x in self._pairs), strict=True
            )
        ]
        return Magnitudes(
            *(torch.cat([getattr(part, it.name) for part in parts]) for it in fields(Magnitudes))
        )

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

    def around(self, place: tuple[int, ...]) -> tuple[Call, tuple[int, int, int], int]:
        """Where a row of an output, a request, a head and a query, comes from.

        Returns:
            A call without ``requests``, the row's place in it, and which request that is.
        """
        request, head, row = place
        return self.call, (request, head, row), request

    def errors(self, out: torch.Tensor, lse: torch.Tensor | None) -> dict[str, float]:
        """The errors of an output; see ``compare``."""
        return self.compare(out, lse).errors

    def compare(self, out: torch.Tensor, lse: torch.Tensor | None) -> Comparison:
        """The errors of an output, of all of it and of each head.

        Args:
            out: ``[batch, q_heads, q_len, head_dim_v]``, on the call's device.
            lse: ``[batch, q_heads, q_len]``, base 2, or None.

        Raises:
            NonFiniteError: A row is not finite though the exact one is.
        """
        return self.start(out, lse).result()

    def start(self, out: torch.Tensor, lse: torch.Tensor | None) -> Comparing:
        """Compare, without waiting for the device; see ``compare``."""
        truth = self._truth
        off = (self._looked_at(out).double() - truth.out).flatten(1, 2)  # [pairs, rows, head_dim_v]
        lse_off = None if lse is None else truth.lse_off(self._looked_at(lse).double())
        if truth.left_out is not None:
            off = off.masked_fill(truth.left_out[..., None], 0.0)
        norms = off.norm(dim=-1)
        rows = norms / truth.floor
        most = math.ceil(0.999 * rows.shape[1])
        by_head = {
            "rel_l2": norms.norm(dim=1),
            "row_rel_max": rows.amax(1),
            "max_abs": torch.linalg.vector_norm(off, math.inf, dim=(1, 2)),
        }
        if most < rows.shape[1]:
            by_head["row_rel_p999"] = rows.kthvalue(most, dim=1).values
        if lse_off is not None:
            by_head["lse_abs"] = lse_off.amax(1)
        judged = rows.flatten() if truth.left_out is None else rows[~truth.left_out]
        of_all = torch.stack((_p999(judged), judged.median()))
        return Comparing(
            numbers=torch.cat([*by_head.values(), of_all]),
            names=tuple(by_head),
            norms=norms,
            lse_off=lse_off,
            truth=truth,
            family=self.family,
        )

    def share_of(
        self, out: torch.Tensor, allowance: Callable[[float, float], Allowance], floor: float
    ) -> torch.Tensor:
        """The largest error of an element over what is allowed; above 1 is a bug.

        Args:
            out: As for ``compare``; the oracle was made with ``magnitudes``.
            allowance: ``(largest_logit, widest_logit)`` → the bound on a row.
            floor: What rounding to the output's smallest numbers may cost.

        Returns:
            One number in fp64, on the device.
        """
        assert self.magnitudes is not None
        few = tuple(x[:_CERTIFIED] for x in self._pairs)
        got = self._grouped(out, few).index_select(2, self._rows).double()
        off = (got - self._truth.out[:_CERTIFIED]).abs().flatten(1, 2)
        if self._truth.left_out is not None:
            off = off.masked_fill(self._truth.left_out[:_CERTIFIED, :, None], 0.0)
        allowances = [allowance(*both) for both in self.magnitudes.scales]
        return self.magnitudes.share(off, allowances, floor)

    def _looked_at(self, x: torch.Tensor) -> torch.Tensor:
        """The sampled rows of a tensor, ``[pairs, group, rows, ...]``."""
        if self.whole:
            return x.reshape(-1, self._group, *x.shape[2:])
        return x[self._places]

    def _grouped(self, x: torch.Tensor, pairs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The query heads of pairs, ``[pairs, group, ...]``."""
        return x[self._heads(pairs)]

    def _heads(self, pairs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Where query heads of pairs lie: requests ``[pairs, 1]``, heads ``[pairs, group]``."""
        request, kv_head = pairs
        of_a_group = torch.arange(self._group, device=kv_head.device)
        return request[:, None], kv_head[:, None] * self._group + of_a_group


def sample(count: int, most: int, generator: torch.Generator) -> torch.Tensor:
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
