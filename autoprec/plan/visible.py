"""What a mask leaves of a call: the tokens of one request, under a causal mask or none."""

from typing import NamedTuple

import torch
from torch import Tensor


class Unusable(NamedTuple):
    """A call that cannot be recorded, and what of it."""

    reason: str


class Part(NamedTuple):
    """One request of a call, without what its mask hides.

    Attributes:
        queries: int64, which ones see anything.
        keys: int64, which ones are seen.
        causal: Whether of these the i-th query from the end sees all keys but the last i.
    """

    queries: Tensor
    keys: Tensor
    causal: bool


def part(
    mask: Tensor | None, causal: bool, request: int, requests: int, q_len: int, kv_len: int
) -> Part | Unusable:
    """The part of a request that attention without a mask, or a causal one, computes.

    Args:
        mask: Bool, True where a query sees a key, or what is added to the logits; it broadcasts to
            ``[requests, heads, q_len, kv_len]``. None: ``causal`` says all.
        causal: Whether query i sees keys up to i + kv_len - q_len, where there is no mask.
        request: Which one.
        requests: Of the call.
        q_len: Queries.
        kv_len: Keys.
    """
    if mask is None:
        return Part(torch.arange(q_len), torch.arange(kv_len), causal and q_len > 1)
    seen = _seen(mask, request, requests, q_len, kv_len)
    if isinstance(seen, Unusable):
        return seen
    queries, keys = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    if not len(queries):
        return Unusable("a mask that hides every key")
    seen = seen[queries][:, keys]
    if seen.all():
        return Part(queries, keys, False)
    if len(queries) > len(keys) and seen[len(keys) :].all():  # padded behind: these are no tokens
        queries, seen = queries[: len(keys)], seen[: len(keys)]
    last = torch.arange(len(queries))[:, None] + len(keys) - len(queries)
    if torch.equal(seen, torch.arange(len(keys))[None, :] <= last):
        return Part(queries, keys, True)
    return Unusable("a mask that is neither causal nor one of padding")


def _seen(mask: Tensor, request: int, requests: int, q_len: int, kv_len: int) -> Tensor | Unusable:
    """Which keys the queries of a request see, bool ``[q_len, kv_len]``, on the CPU."""
    try:
        whole = mask.expand(requests, *mask.shape[-3:]) if mask.dim() >= 3 else mask
        whole = whole[request] if whole.dim() >= 4 else whole
        whole = whole.detach().cpu().expand(-1 if whole.dim() == 3 else 1, q_len, kv_len)
    except RuntimeError:
        return Unusable(f"a mask of the shape {tuple(mask.shape)}")
    if whole.dtype == torch.bool:
        seen = whole
    else:
        seen = whole == 0
        hidden = whole <= torch.finfo(whole.dtype).min / 2
        if not (seen | hidden).all():
            return Unusable("a bias that is added to the logits")
    if not (seen == seen[:1]).all():
        return Unusable("a mask that is not the same for all heads")
    return seen[0]
