"""Exact attention of requests of unequal lengths, whose queries lie one after another."""

import torch

from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention, singles
from autoprec.probe.accuracy import Oracle, sample
from autoprec.probe.truth import Truth


class RequestOracle(Oracle):
    """As ``Oracle``, of a call whose ``requests`` say where the queries of each begin."""

    def __init__(self, call: Call, family: str, *, rows: int, groups: int, seed: int) -> None:
        """Compute it.

        Args:
            call: The inputs, with ``requests`` that have q_starts; lengths are read back.
            family: The inputs' family, for sentences.
            rows: Query rows looked at in each head, no more than the shortest request has.
            groups: Pairs of a request and a KV head looked at.
            seed: Of the random choices.
        """
        assert call.requests is not None
        assert call.requests.q_starts is not None
        self.call, self.family = call, family
        self.whole, self.magnitudes = False, None
        self._starts = call.requests.q_starts.tolist()
        self._requests = singles(call)
        kv_heads = call.k.shape[1]
        self._group = call.q.shape[1] // kv_heads
        generator, device = torch.Generator().manual_seed(seed), call.q.device
        count = min(rows, *(it.q.shape[2] for it in self._requests))
        heads, places, exact = [], [], []
        for pair in sample(len(self._requests) * kv_heads, groups, generator).tolist():
            request, head = divmod(pair, kv_heads)
            it = self._requests[request]
            queries = sample(it.q.shape[2], count, generator).to(device)
            of_a_group = torch.arange(self._group, device=device) + head * self._group
            heads.append(of_a_group)
            places.append(queries + self._starts[request])
            exact.append(
                attention(
                    it.q[:, of_a_group],
                    it.k[:, head : head + 1],
                    it.v[:, head : head + 1],
                    diagonal=it.diagonal,
                    sm_scale=it.sm_scale,
                    window_left=it.window_left,
                    soft_cap=it.soft_cap,
                    sinks=None if it.sinks is None else it.sinks[of_a_group],
                    rows=queries,
                )
            )
        self._places = (
            torch.zeros(1, 1, 1, dtype=torch.int64, device=device),
            torch.stack(heads)[..., None],
            torch.stack(places)[:, None],
        )
        self._truth = Truth.of(*(torch.cat(x) for x in zip(*exact, strict=True)))

    def around(self, place: tuple[int, ...]) -> tuple[Call, tuple[int, int, int], int]:
        """The request that a row is of; see ``Oracle``."""
        _, head, row = place
        request = sum(start <= row for start in self._starts[1:])
        return self._requests[request], (0, head, row - self._starts[request]), request
