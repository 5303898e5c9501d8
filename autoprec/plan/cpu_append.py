"""New tokens put into a cache on a CPU, where no kernel is compiled for it."""

import torch
from torch import Tensor

from autoprec.kernels.interface import Requests


def append(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    requests: Requests,
    *,
    owners: Tensor | None = None,
    positions: Tensor | None = None,
    lost: Tensor | None = None,
) -> None:
    """What a launch of ``kernels.kv_cache.append`` does, for caches without planes.

    Args:
        k: ``[batch, kv_heads, tokens, head_dim]``, or with q_starts or owners ``[1, kv_heads,
            total, head_dim]``; fp32, bf16 or fp16.
        v: Likewise, ``head_dim_v`` wide.
        k_cache: ``[batch, kv_heads, capacity, head_dim]``, or with pages ``[pages, kv_heads,
            page_size, head_dim]``; written.
        v_cache: Likewise.
        requests: Lengths with the new tokens, which are the last of each request.
        owners: int32 ``[total]``, the request of each token, below zero for none; then the lengths
            say nothing.
        positions: int32 ``[total]``, where in its request each token comes; with owners.
        lost: int32 ``[1]``: tokens of a head are added of which an element became zero or infinite.
    """
    if owners is None or positions is None:
        token, owner, position = _last(k.shape[2], requests)
    else:
        token = torch.arange(len(owners), device=k.device)
        owner, position = owners.long(), positions.long()
    inside = (owner >= 0) & (position >= 0) & (position < requests.max_kv_len)
    token, owner, position = token[inside], owner[inside], position[inside]
    if requests.pages is not None:
        assert requests.kv_starts is not None
        page_size = k_cache.shape[2]
        pages = requests.pages.long()
        owner = pages[requests.kv_starts.long()[owner] + position // page_size]
        position = position % page_size
    for new, cache in ((k, k_cache), (v, v_cache)):
        given = new.transpose(1, 2).flatten(0, 1)[token]  # [tokens, kv_heads, dim]
        stored = given.to(cache.dtype)
        cache[owner, :, position] = stored
        if lost is not None:
            gone = _is_some(given) & ~_is_some(stored)
            lost += gone.any(-1).sum().to(lost.dtype)


def _last(tokens: int, requests: Requests) -> tuple[Tensor, Tensor, Tensor]:
    """Each new token among those given, its request, and its place there: at the end.

    Args:
        tokens: New ones of each request, where all have as many.
        requests: Lengths with the new tokens.
    """
    lengths, starts = requests.kv_lens.long(), requests.q_starts
    if starts is None:
        counts = torch.full_like(lengths, tokens)
        first = torch.arange(len(lengths), device=lengths.device) * tokens
    else:
        counts, first = starts.diff().long(), starts[:-1].long()
    owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(counts)
    within = torch.arange(len(owner), device=lengths.device) - (counts.cumsum(0) - counts)[owner]
    return first[owner] + within, owner, lengths[owner] - counts[owner] + within


def _is_some(x: Tensor) -> Tensor:
    """Whether elements are neither zero nor infinite nor NaN."""
    return x.isfinite() & (x != 0)
