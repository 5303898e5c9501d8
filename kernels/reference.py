"""The oracle: attention in fp64, chunked over keys, against which every error is measured."""

import torch

_LOG2_E = 1.4426950408889634


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    diagonal: int | None,
    sm_scale: float,
    rows: torch.Tensor | None = None,
    block: int = 1024,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of tensors as they are, in fp64.

    A NaN or an infinity does what it does in a softmax written out: a NaN in a query or a key
    makes the rows that see it NaN, one in a value every row of its head that sees a key at all.
    A row that sees no key gives O = 0 and LSE = -inf.

    Args:
        q: ``[batch, q_heads, q_len, head_dim]``, any float dtype and strides, CPU or CUDA.
        k: ``[batch, kv_heads, kv_len, head_dim]``; kv_heads divides q_heads.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``.
        diagonal: Query i sees keys 0 to i + diagonal; None: it sees all.
        sm_scale: Factor on the logits.
        rows: int64 ``[R]``, the queries to compute; None: all of them.
        block: Keys taken at a time; memory is batch * q_heads * R * block * 8 bytes, a few times.

    Returns:
        The output, fp64 ``[batch, q_heads, R, head_dim_v]``, and log2 of the sum of exp of the
        scaled logits, fp64 ``[batch, q_heads, R]``.
    """
    batch, q_heads, q_len, _ = q.shape
    kv_heads, kv_len, head_dim_v = v.shape[1:]
    if rows is None:
        rows = torch.arange(q_len, device=q.device)
    else:
        q = q.index_select(2, rows)
    # The query heads that share a KV head become rows of one product.
    group, count = q_heads // kv_heads, rows.numel()
    x = q.double().reshape(batch, kv_heads, group * count, -1) * (sm_scale * _LOG2_E)
    last_seen = kv_len if diagonal is None else (rows + diagonal).repeat(group)[:, None]

    m = x.new_full((batch, kv_heads, group * count, 1), float("-inf"))
    total = torch.zeros_like(m)
    out = x.new_zeros(batch, kv_heads, group * count, head_dim_v)
    for start in range(0, kv_len, block):
        keys = torch.arange(start, min(start + block, kv_len), device=q.device)
        seen = keys <= last_seen
        s = x @ k[:, :, start : start + block].double().mT
        s = s.masked_fill(~seen, float("-inf"))
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        # While a row has met nothing above -inf, any reference will do but -inf itself.
        origin = m_new.masked_fill(m_new == float("-inf"), 0.0)
        p = torch.exp2(s - origin)
        shrink = torch.exp2(m - origin)
        total = total * shrink + p.sum(-1, keepdim=True)
        out = out * shrink + p @ v[:, :, start : start + block].double()
        m = m_new
    out, lse = out / total, (m + torch.log2(total)).squeeze(-1)
    if diagonal is not None:
        sees_none = (rows + diagonal < 0).repeat(group)
        out = out.masked_fill(sees_none[:, None], 0.0)
        lse = lse.masked_fill(sees_none, float("-inf"))
    return out.reshape(batch, q_heads, count, head_dim_v), lse.reshape(batch, q_heads, count)
