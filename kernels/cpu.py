"""Attention on a CPU through PyTorch: matrix products in blocks.

Softmax and sums are kept in fp32. Every path is run exactly: operands are rounded to the path's
type and multiplied in fp32, where products of two 16-bit numbers are exact. Requests of unequal
lengths are taken one by one.
"""

import itertools
import math
from collections.abc import Sequence

import torch

from autoprec.kernels.cpu_blocks import Rounding, Scratch, fp32_products
from autoprec.kernels.interface import (
    Call,
    Feature,
    Kernel,
    PackedMask,
    Target,
    converts,
)
from autoprec.kernels.reference import singles, unpacked
from autoprec.types import Config, Layout, Phase, Workload

_LOG2_E = 1.4426950408889634

_LARGEST_BIAS = 2e38
"""log2(e) times the lowest fp32 would be -inf, and hide a key that it must not hide."""

_P_SHIFT_FP16 = 15
"""Probabilities are rounded to fp16 as 2^15 times themselves, so that small ones stay normal."""

_FEW_ROWS = 8
"""Up to so many rows, K times Qᵀ is up to twice as fast as Q times Kᵀ."""

_STEP_ELEMENTS = 1 << 21
"""Elements of a block's logits, of its K or of its V at a time, so that they stay in cache."""


def unseen(seen_by_first: int, rows: int, start: int, stop: int) -> torch.Tensor:
    """Which of the keys start ≤ j < stop each row does not see, bool ``[rows, keys]``."""
    seen = torch.arange(rows, device="cpu")[:, None] + seen_by_first
    return torch.arange(start, stop, device="cpu") >= seen


def _logits(q: torch.Tensor, k: torch.Tensor, factor: float, scratch: Scratch) -> torch.Tensor:
    """Factor times q kᵀ, ``[units, rows, keys]``, in scratch."""
    units, rows, keys = q.shape[0], q.shape[1], k.shape[1]
    s = scratch.take("logits", (units, rows, keys), torch.float32)
    if rows > _FEW_ROWS:
        return torch.baddbmm(s, q, k.mT, beta=0, alpha=factor, out=s)
    t = scratch.take("transposed", (units, keys, rows), torch.float32)
    return s.copy_(torch.baddbmm(t, k, q.mT, beta=0, alpha=factor, out=t).mT)


def _hidden(call: Call, position: int, start: int, stop: int) -> torch.Tensor | None:
    """What rows at position, position + 1, … do not see of the keys start ≤ j < stop.

    bool, ``[rows, keys]``, or ``[batch, q_heads, rows, keys]`` with a mask; None: they see all.
    """
    rows = call.q.shape[2]
    hidden = None
    if call.diagonal is not None and stop > position + 1:
        hidden = unseen(position + 1, rows, start, stop)
    if call.window_left is not None:
        before = ~unseen(position - call.window_left, rows, start, stop)
        hidden = before if hidden is None else hidden | before
    if isinstance(call.mask, torch.Tensor):
        mask = call.mask[..., start:stop]
        own = ~mask if mask.dtype == torch.bool else mask == -math.inf
        hidden = own if hidden is None else hidden | own
    return hidden


def _base2(call: Call, s: torch.Tensor, start: int, stop: int) -> None:
    """Make base-2 logits of products times ``_factor``, ``[batch, q_heads, rows, keys]``."""
    if call.soft_cap is not None:
        s.tanh_().mul_(call.soft_cap * _LOG2_E)
    mask = call.mask
    if isinstance(mask, torch.Tensor) and mask.dtype != torch.bool:
        s.add_(mask[..., start:stop].float().clamp(min=-_LARGEST_BIAS), alpha=_LOG2_E)


def _factor(call: Call) -> float:
    """What products are multiplied by at first."""
    return call.sm_scale * _LOG2_E if call.soft_cap is None else call.sm_scale / call.soft_cap


def _first_keys(call: Call, position: int, block_kv: int) -> range:
    """Where the blocks of keys begin that rows at position, position + 1, … may see."""
    kv_len, rows = call.k.shape[2], call.q.shape[2]
    last = kv_len if call.diagonal is None else min(kv_len, position + rows)
    first = 0 if call.window_left is None else max(0, position - call.window_left)
    return range(first // block_kv * block_kv, last, block_kv)


def _attend(call: Call, path: str, block_kv: int, position: int, scratch: Scratch) -> None:
    """Write out and lse of a call whose queries stand at position, position + 1, …"""
    batch, q_heads, count, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    units, rows = batch * kv_heads, q_heads // kv_heads * count
    rounding = Rounding(path, call.q.dtype, scratch, call.lost)
    q = rounding.operand(call.q.reshape(units, rows, head_dim), "q", (-1,))
    shift = _P_SHIFT_FP16 if path == "fp16" else 0
    by_row = (batch, q_heads, count)

    m = torch.full((units, rows, 1), -math.inf, dtype=torch.float32, device="cpu")
    total = torch.zeros_like(m)
    if call.sinks is not None:
        m.view(by_row).copy_((call.sinks * _LOG2_E)[:, None].expand(by_row))
        total.fill_(2.0**shift)
    sees = torch.zeros(by_row, dtype=torch.bool, device="cpu")
    out = m.new_zeros(units, rows, head_dim_v)
    starts = _first_keys(call, position, block_kv)
    for start in starts:
        stop = min(start + block_kv, starts.stop)
        k = rounding.operand(call.k[:, :, start:stop].flatten(0, 1), "k", (-2, -1))
        s = _logits(q, k, _factor(call), scratch)
        _base2(call, s.view(*by_row, -1), start, stop)
        hidden = _hidden(call, position, start, stop)
        if hidden is None:
            sees.fill_(True)
        else:
            sees |= ~hidden.all(-1)
            s.view(*by_row, -1).masked_fill_(hidden, -math.inf)
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        # While a row has met nothing above -inf, any reference will do but -inf itself.
        origin = m_new.masked_fill(m_new == -math.inf, 0.0)
        s.sub_(origin)
        if shift:  # after the difference: beside a large reference it would be rounded away
            s.add_(shift)
        p = s.exp2_()
        shrink = (m - origin).exp2_()
        total.mul_(shrink).add_(p.sum(-1, keepdim=True))
        v = rounding.operand(call.v[:, :, start:stop].flatten(0, 1), "v", (-2, -1))
        out.mul_(shrink).baddbmm_(rounding.probabilities(p), v)
        m = m_new
    out = out.div_(total).view(*by_row, head_dim_v).masked_fill_(~sees[..., None], 0.0)
    call.out.copy_(out)
    if call.lse is not None:
        lse = total.log2_().sub_(shift).add_(m).view(by_row)
        call.lse.copy_(lse if call.sinks is not None else lse.masked_fill_(~sees, -math.inf))


def _mergeable(x: torch.Tensor) -> bool:
    """Whether batch and heads are one axis to a stride, so that flattening them copies nothing."""
    return x.stride(0) == x.shape[1] * x.stride(1)


def _step(call: Call, path: str, block_q: int, block_kv: int) -> tuple[int, int]:
    """How many requests and KV heads to take at a time."""
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    rows = q_heads // kv_heads * min(block_q, q_len)
    each = max(1, min(block_kv, kv_len)) * max(rows, head_dim, head_dim_v)
    in_place = path == "fp32" and call.k.dtype == torch.float32
    limit = _STEP_ELEMENTS if in_place else _STEP_ELEMENTS // 2
    heads = max(1, min(kv_heads, limit // each))
    if heads < kv_heads or not (_mergeable(call.k) and _mergeable(call.v)):
        return 1, heads
    return max(1, min(batch, limit // (each * kv_heads))), heads


def _run_blocked(call: Call, path: str, config: Config) -> None:
    for single in singles(call):
        _run_one(single, path, config)


def _run_one(call: Call, path: str, config: Config) -> None:
    batch, q_heads, q_len, _ = call.q.shape
    kv_heads, kv_len = call.k.shape[1:3]
    group = q_heads // kv_heads
    position = kv_len - q_len if call.diagonal is None else call.diagonal  # of the first query
    block_q, block_kv = int(config["block_q"]), int(config["block_kv"])
    requests, heads = _step(call, path, block_q, block_kv)
    scratch = Scratch()
    starts = itertools.product(
        range(0, batch, requests), range(0, kv_heads, heads), range(0, q_len, block_q)
    )
    with torch.no_grad(), fp32_products():
        for b, h, t in starts:
            keys = (slice(b, b + requests), slice(h, h + heads))
            rows = (keys[0], slice(h * group, (h + heads) * group), slice(t, t + block_q))
            part = Call(
                q=call.q[rows],
                k=call.k[keys],
                v=call.v[keys],
                out=call.out[rows],
                lse=None if call.lse is None else call.lse[rows],
                diagonal=call.diagonal,
                sm_scale=call.sm_scale,
                window_left=call.window_left,
                soft_cap=call.soft_cap,
                sinks=None if call.sinks is None else call.sinks[rows[1]],
                mask=_part(call, rows),
                lost=call.lost,
            )
            _attend(part, path, block_kv, position + t, scratch)


def _part(call: Call, rows: tuple[slice, slice, slice]) -> torch.Tensor | None:
    """The rows of a mask."""
    mask = call.mask
    if isinstance(mask, PackedMask):
        mask = unpacked(mask, 0, call.q.shape[2], call.k.shape[2])
    if mask is None:
        return None
    return mask.expand(*call.q.shape[:3], call.k.shape[2])[rows]


def _blocked_configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    few = workload.q_len * workload.group <= 32
    tiles = ((16, 512), (16, 1024), (16, 256)) if few else ((64, 256), (32, 256), (128, 512))
    return [{"block_q": block_q, "block_kv": block_kv} for block_q, block_kv in tiles]


KERNELS = (
    Kernel(
        name="cpu-blocked",
        device="cpu",
        paths=("fp32", "tf32", "bf16", "fp16"),
        phases=tuple(Phase),
        max_head_dim=1 << 16,
        converts=converts,
        configs=_blocked_configs,
        run=_run_blocked,
        layouts=tuple(Layout),
        features=frozenset(Feature),
    ),
)
