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
    lost: Tensor | None = None,
) -> None:
    """What a launch of ``kernels.kv_cache.append`` does, for caches without planes.

    Args:
        k: ``[batch, kv_heads, tokens, head_dim]``, or with q_starts ``[1, kv_heads, total,
            head_dim]``; fp32, bf16 or fp16.
        v: Likewise, ``head_dim_v`` wide.
        k_cache: ``[batch, kv_heads, capacity, head_dim]``, or with pages ``[pages, kv_heads,
            page_size, head_dim]``; written.
        v_cache: Likewise.
        requests: Lengths with the new tokens, which are the last of each request.
        lost: int32 ``[1]``: tokens of a head are added of which an element became zero or infinite.
    """
    lengths = requests.kv_lens.long()
    starts = requests.q_starts
    if starts is None:
        counts = torch.full_like(lengths, k.shape[2])
        first = torch.arange(len(lengths)) * k.shape[2]
    else:
        counts, first = starts.diff().long(), starts[:-1].long()
    owner = torch.arange(len(lengths)).repeat_interleave(counts)
    within = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    token = first[owner] + within  # among those given
    position = lengths[owner] - counts[owner] + within
    inside = (position >= 0) & (position < requests.max_kv_len)
    owner, token, position = owner[inside], token[inside], position[inside]
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


def _is_some(x: Tensor) -> Tensor:
    """Whether elements are neither zero nor infinite nor NaN."""
    return x.isfinite() & (x != 0)
