"""The oracle: attention in fp64, chunked over keys, against which every error is measured."""

import dataclasses

import torch

from autoprec.kernels.interface import Call, Halves, PackedMask, Requests

_LOG2_E = 1.4426950408889634

# Numbers in fp64 that a block of keys may take: its scores, keys and values.
_BLOCK_NUMBERS = 1 << 25


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    diagonal: int | None,
    sm_scale: float,
    window_left: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    block: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of tensors as they are, in fp64.

    A NaN or an infinity does what it does in a softmax written out: a NaN in a query or a key
    makes the rows that see it NaN, one in a value every row of its head that sees a key at all.
    A row that sees no key gives O = 0 and LSE = -inf, or its sink.

    Args:
        q: ``[batch, q_heads, q_len, head_dim]``, any float dtype and strides, CPU or CUDA.
        k: ``[batch, kv_heads, kv_len, head_dim]``; kv_heads divides q_heads.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``.
        diagonal: Query i sees keys 0 to i + diagonal; None: it sees all.
        sm_scale: Factor on the logits.
        window_left: Query i sees no key before i + diagonal - window_left, with the diagonal of
            bottom-right alignment where it is None.
        soft_cap: Logits s become soft_cap * tanh(s / soft_cap).
        sinks: ``[q_heads]``, or ``[batch, q_heads]``, logits that join the sum and have no value.
        mask: ``[batch, q_heads, q_len, kv_len]``, or what can be expanded to it: bool, False hides;
            or float, which joins the logits, and where -inf hides.
        rows: int64 ``[R]``, the queries to compute; None: all of them.
        block: Keys taken at a time; None: as many as fit into some 256 MiB, a few times.

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
    if block is None:
        of_a_key = batch * (q_heads * count + kv_heads * (k.shape[3] + head_dim_v))
        block = max(1, _BLOCK_NUMBERS // of_a_key)
    x = q.double().reshape(batch, kv_heads, group * count, -1) * sm_scale
    first_seen, last_seen = (
        edge.repeat(group)[:, None] for edge in _edges(rows, q_len, kv_len, diagonal, window_left)
    )

    if mask is not None:
        mask = mask.expand(batch, q_heads, q_len, kv_len).index_select(2, rows)
        mask = mask.reshape(batch, kv_heads, group * count, kv_len)
    sees = torch.zeros(batch, kv_heads, group * count, 1, dtype=torch.bool, device=q.device)
    m = x.new_full((batch, kv_heads, group * count, 1), float("-inf"))
    total = torch.zeros_like(m)
    if sinks is not None:
        m = (sinks.double() * _LOG2_E).view(-1, kv_heads, group, 1, 1)
        m = m.expand(batch, -1, -1, count, -1).reshape(batch, kv_heads, group * count, 1)
        total = torch.ones_like(m)
    out = x.new_zeros(batch, kv_heads, group * count, head_dim_v)
    for start in range(0, kv_len, block):
        keys = torch.arange(start, min(start + block, kv_len), device=q.device)
        s = x @ k[:, :, start : start + block].double().mT
        if soft_cap is not None:
            s = soft_cap * torch.tanh(s / soft_cap)
        hidden = (keys < first_seen) | (keys > last_seen)
        if mask is not None:
            part = mask[..., start : start + block]
            hidden = hidden | (~part if part.dtype == torch.bool else part == float("-inf"))
            s = s if part.dtype == torch.bool else s + part.double().masked_fill(hidden, 0.0)
        sees |= (~hidden).any(-1, keepdim=True)
        s = s.mul_(_LOG2_E).masked_fill(hidden, float("-inf"))
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        # While a row has met nothing above -inf, any reference will do but -inf itself.
        origin = m_new.masked_fill(m_new == float("-inf"), 0.0)
        p = torch.exp2(s - origin)
        shrink = torch.exp2(m - origin)
        total = total * shrink + p.sum(-1, keepdim=True)
        out = out * shrink + p @ v[:, :, start : start + block].double()
        m = m_new
    out, lse = out / total, (m + torch.log2(total)).squeeze(-1)
    out = out.masked_fill(~sees, 0.0)
    if sinks is None:
        lse = lse.masked_fill(~sees.squeeze(-1), float("-inf"))
    return out.reshape(batch, q_heads, count, head_dim_v), lse.reshape(batch, q_heads, count)


def _edges(
    rows: torch.Tensor, q_len: int, kv_len: int, diagonal: int | None, window_left: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last key that each of the rows sees; the first is the larger for none."""
    position = rows + (kv_len - q_len if diagonal is None else diagonal)
    first = torch.zeros_like(rows) if window_left is None else position - window_left
    last = torch.full_like(rows, kv_len - 1)
    return first.clamp_min(0), last if diagonal is None else last.minimum(position)


def of_call(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """What a call without ``requests`` should give; see ``attention``."""
    mask = call.mask
    if isinstance(mask, PackedMask):
        mask = unpacked(mask, 0, call.q.shape[2], call.k.shape[2])
    return attention(
        call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale,
        window_left=call.window_left, soft_cap=call.soft_cap, sinks=call.sinks,
        mask=mask,
    )  # fmt: skip


def unpacked(mask: PackedMask, request: int, q_len: int, kv_len: int) -> torch.Tensor:
    """The bool mask ``[1, 1, q_len, kv_len]`` of a request."""
    pair = torch.arange(q_len * kv_len, device=mask.bits.device)
    bits = mask.bits[int(mask.starts[request]) + pair // 8] >> (pair % 8).to(torch.uint8)
    return (bits & 1).bool().view(1, 1, q_len, kv_len)


def singles(call: Call) -> list[Call]:
    """Each request of a call as a call of its own, without ``requests``.

    Reads the lengths back. K and V are gathered copies; q, out and lse are views.
    """
    if call.requests is None:
        return [call]
    return [_single(call, call.requests, request) for request in range(call.batch)]


def _single(call: Call, requests: Requests, request: int) -> Call:
    kv_len = int(requests.kv_lens[request])
    tokens = _places(call, requests, request, kv_len)
    if requests.q_starts is None:
        where: tuple[slice, ...] = (slice(request, request + 1), slice(None))
    else:
        first, last = requests.q_starts[request : request + 2].tolist()
        where = (slice(None), slice(None), slice(first, last))
    q = call.q[where]
    halves = call.halves
    if halves is not None:
        halves = Halves(*(
            torch.stack([_taken(part, tokens) for part in x])
            for x in (halves.k, halves.v, halves.inverse)
        ))  # fmt: skip
    mask = call.mask
    if isinstance(mask, PackedMask):
        mask = unpacked(mask, request, q.shape[2], kv_len)
    return dataclasses.replace(
        call,
        q=q,
        mask=mask,
        k=_taken(call.k, tokens),
        v=_taken(call.v, tokens),
        out=call.out[where],
        lse=None if call.lse is None else call.lse[where],
        diagonal=None if call.diagonal is None else call.diagonal + kv_len - q.shape[2],
        requests=None,
        halves=halves,
    )


def _places(
    call: Call, requests: Requests, request: int, kv_len: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each token of a request lies: along the first axis of k, and along its tokens."""
    tokens = torch.arange(kv_len, device=call.q.device)
    if requests.kv_starts is None:
        return torch.full_like(tokens, request), tokens
    start = requests.kv_starts[request]
    if requests.pages is None:
        return torch.zeros_like(tokens), start + tokens
    page_size = call.k.shape[2]
    return requests.pages[start + tokens // page_size].long(), tokens % page_size


def _taken(x: torch.Tensor, tokens: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``[1, heads, tokens, ...]`` of x ``[rows, heads, tokens, ...]``, given where tokens lie."""
    rows, places = tokens
    return x[rows, :, places].transpose(0, 1).unsqueeze(0)
