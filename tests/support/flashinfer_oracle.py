"""What FlashInfer's attention means, in fp64 and one request at a time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    custom_mask: Tensor | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one request.

    Args:
        q: ``[q_len, q_heads, head_dim]``.
        k: ``[kv_len, kv_heads, head_dim]``.
        v: ``[kv_len, kv_heads, head_dim_v]``.
        causal: Query i sees keys j with j ≤ kv_len - q_len + i; a custom mask overrides it.
        window_left: Query i sees keys j with j + q_len + window_left ≥ kv_len + i; below 0: all.
        custom_mask: bool ``[q_len, kv_len]``, True: seen.
        sinks: ``[q_heads]``, logits in natural units that join the sum alone.

    Returns:
        ``[q_len, q_heads, head_dim_v]`` and the base-2 LSE ``[q_len, q_heads]``, in fp64; 0 and
        -inf for a query that sees no key (and has no sink).
    """
    q_len, q_heads, head_dim = q.shape
    kv_len, kv_heads = k.shape[:2]
    scale = 1 / math.sqrt(head_dim) if sm_scale is None else sm_scale
    k, v = (x.double().repeat_interleave(q_heads // kv_heads, 1) for x in (k, v))
    s = torch.einsum("ihd,jhd->hij", q.double(), k) * scale
    if logits_soft_cap is not None and logits_soft_cap > 0:
        s = logits_soft_cap * torch.tanh(s / logits_soft_cap)
    i = torch.arange(q_len, device=q.device)[:, None]
    j = torch.arange(kv_len, device=q.device)[None]
    seen = torch.ones(q_len, kv_len, dtype=torch.bool, device=q.device)
    if custom_mask is not None:
        seen = custom_mask.bool()
    elif causal:
        seen = j <= kv_len - q_len + i
    if window_left >= 0:
        seen = seen & (j + q_len + window_left >= kv_len + i)
    s = s.masked_fill(~seen, -math.inf)
    if sinks is not None:
        own = sinks.double()[:, None, None].expand(-1, q_len, 1)
        lse = torch.logsumexp(torch.cat((s, own), 2), 2)
    else:
        lse = torch.logsumexp(s, 2)
    p = torch.exp(s - lse.masked_fill(lse == -math.inf, 0.0)[..., None])
    p = p.masked_fill(~seen, 0.0)
    return torch.einsum("hij,jhd->ihd", p, v), lse.T / math.log(2)


def batch(
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    q_lens: Sequence[int],
    masks: Sequence[Tensor] | None = None,
    **meaning: object,
) -> tuple[Tensor, Tensor]:
    """Attention of requests one after another, q ``[sum(q_lens), q_heads, head_dim]``."""
    outs, lses, first = [], [], 0
    for b, n in enumerate(q_lens):
        mask = None if masks is None else masks[b]
        out, lse = attend(
            q[first : first + n], keys[b], values[b], custom_mask=mask, **meaning  # type: ignore[arg-type]
        )  # fmt: skip
        outs.append(out)
        lses.append(lse)
        first += n
    if not outs:
        return q.double(), q.new_zeros(q.shape[:2], dtype=torch.float64)
    return torch.cat(outs), torch.cat(lses)
