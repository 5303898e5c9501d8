"""Attention on a CPU through PyTorch: matrix products in blocks, and PyTorch's own flash kernel.

Both keep softmax and sums in fp32. cpu-blocked runs every path exactly: it rounds the operands to
the path's type and multiplies them in fp32, where products of two 16-bit numbers are exact.
cpu-flash uses the 16-bit instructions that a CPU may have, and can say less: it rounds its output
to the type of its operands, and its exponential is right to 12 bits where that type has 16.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch

from autoprec.kernels.cpu_blocks import Rounding, Scratch, fp32_products
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, Target, converts
from autoprec.types import Config, Dtype, Phase, Workload

_LOG2_E = 1.4426950408889634

_P_SHIFT_FP16 = 15
"""Probabilities are rounded to fp16 as 2^15 times themselves, so that small ones stay normal."""

_FEW_ROWS = 8
"""Up to so many rows, K times Qᵀ is up to twice as fast as Q times Kᵀ."""

_STEP_ELEMENTS = 1 << 21
"""Elements of a block's logits, of its K or of its V at a time, so that they stay in cache."""


def _unseen(seen_by_first: int, rows: int, start: int, stop: int) -> torch.Tensor:
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


def _attend(call: Call, path: str, block_kv: int, first: int, scratch: Scratch) -> None:
    """Write out and lse of a call whose queries are first, first + 1, … of the mask's rows."""
    batch, q_heads, count, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    units, rows = batch * kv_heads, q_heads // kv_heads * count
    rounding = Rounding(path, call.q.dtype, scratch, call.lost)
    q = rounding.operand(call.q.reshape(units, rows, head_dim), "q", (-1,))
    shift = _P_SHIFT_FP16 if path == "fp16" else 0
    seen_by_first = kv_len if call.diagonal is None else first + call.diagonal + 1
    last = min(kv_len, seen_by_first + count - 1)

    m = torch.full((units, rows, 1), -math.inf, dtype=torch.float32, device="cpu")
    total = torch.zeros_like(m)
    out = m.new_zeros(units, rows, head_dim_v)
    for start in range(0, last, block_kv):
        stop = min(start + block_kv, last)
        k = rounding.operand(call.k[:, :, start:stop].flatten(0, 1), "k", (-2, -1))
        s = _logits(q, k, call.sm_scale * _LOG2_E, scratch)
        if stop > seen_by_first:
            unseen = _unseen(seen_by_first, count, start, stop)
            s.view(units, -1, count, stop - start).masked_fill_(unseen, -math.inf)
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
    blank = max(0, min(count, 1 - seen_by_first))  # rows that see no key
    out = out.div_(total).view(batch, q_heads, count, head_dim_v)
    out[:, :, :blank] = 0.0
    call.out.copy_(out)
    if call.lse is not None:
        call.lse.copy_(total.log2_().sub_(shift).add_(m).view(batch, q_heads, count))
        call.lse[:, :, :blank] = -math.inf


def _mergeable(x: torch.Tensor) -> bool:
    """Whether batch and heads are one axis to a stride, so that flattening them copies nothing."""
    return x.stride(0) == x.shape[1] * x.stride(1)


def _step(call: Call, path: str, block_q: int, block_kv: int) -> tuple[int, int]:
    """How many requests and KV heads to take at a time."""
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    rows = q_heads // kv_heads * min(block_q, q_len)
    each = min(block_kv, kv_len) * max(rows, head_dim, head_dim_v)
    in_place = path == "fp32" and call.k.dtype == torch.float32
    limit = _STEP_ELEMENTS if in_place else _STEP_ELEMENTS // 2
    heads = max(1, min(kv_heads, limit // each))
    if heads < kv_heads or not (_mergeable(call.k) and _mergeable(call.v)):
        return 1, heads
    return max(1, min(batch, limit // (each * kv_heads))), heads


def _run_blocked(call: Call, path: str, config: Config) -> None:
    batch, q_heads, q_len, _ = call.q.shape
    kv_heads = call.k.shape[1]
    group = q_heads // kv_heads
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
                lost=call.lost,
            )
            _attend(part, path, block_kv, t, scratch)


def _blocked_configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    few = workload.q_len * workload.group <= 32
    tiles = ((16, 512), (16, 1024), (16, 256)) if few else ((64, 256), (32, 256), (128, 512))
    return [{"block_q": block_q, "block_kv": block_kv} for block_q, block_kv in tiles]


def _for_blas(x: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy where the flash kernel would misread its strides."""
    fits = x.stride(-1) == 1 and x.stride(-2) >= x.shape[-1]
    return x if fits else x.contiguous()


def _flash(call: Call, mask: torch.Tensor | None, causal: bool) -> None:
    """Run the flash kernel on tensors of one dtype, with the query heads of a group as rows."""
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, group = call.k.shape[1], q_heads // call.k.shape[1]
    if mask is None and not causal:  # all rows are alike: one product for the whole group
        q = call.q.reshape(batch, kv_heads, group * q_len, head_dim)
        problems = [(q, call.k, call.v, call.out, call.lse)]
    else:  # a request at a time: heads [kv_heads, group], K and V repeated by a stride of zero
        problems = []
        for b in range(batch):
            q = call.q[b].unflatten(0, (kv_heads, group))
            k, v = (x[b][:, None].expand(-1, group, -1, -1) for x in (call.k, call.v))
            lse = None if call.lse is None else call.lse[b : b + 1]
            problems.append((q, k, v, call.out[b : b + 1], lse))
    for q, k, v, out, lse in problems:
        o, natural = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=call.sm_scale
        )
        out.copy_(o.reshape(out.shape))
        if lse is not None:
            lse.copy_(natural.reshape(lse.shape)).mul_(_LOG2_E)


def _run_flash(call: Call, path: str, config: Config) -> None:
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    dtype = TORCH_DTYPES[Dtype(path)]
    mask = None
    causal = False
    if call.diagonal is not None and call.diagonal < kv_len - 1:
        # Its own mask, which it multiplies by the scale, skips keys but stands upper-left only.
        causal = call.diagonal == 0 and call.sm_scale > 0
        if not causal:
            unseen = _unseen(call.diagonal + 1, q_len, 0, kv_len)
            mask = torch.zeros_like(unseen, dtype=dtype).masked_fill_(unseen, -math.inf)
    with torch.no_grad(), fp32_products():
        q, k, v = (_for_blas(x.to(dtype)) for x in (call.q, call.k, call.v))
        rounded = dataclasses.replace(call, q=q, k=k, v=v)
        _flash(rounded, mask, causal)
        if call.diagonal is not None and call.diagonal < 0:
            blank = min(q_len, -call.diagonal)
            call.out[:, :, :blank] = 0.0
            if call.lse is not None:
                call.lse[:, :, :blank] = -math.inf


def _flash_limits(path: str, workload: Workload) -> list[str]:
    reasons = []
    if workload.head_dim != workload.head_dim_v:
        reasons.append("cpu-flash takes head_dim_v = head_dim only")
    if path in ("bf16", "fp16") and workload.out_dtype != path:
        reasons.append(f"cpu-flash rounds its {path} output, which {workload.out_dtype} is not")
    if path == "fp16" and workload.input_dtype is not Dtype.FP16:
        reasons.append(f"cpu-flash has no scales to bring {workload.input_dtype} inputs into fp16")
    return reasons


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
    ),
    Kernel(
        name="cpu-flash",
        device="cpu",
        paths=("fp32", "bf16", "fp16"),
        phases=tuple(Phase),
        max_head_dim=1 << 16,
        converts=converts,
        configs=lambda path, workload, target: [{}],
        run=_run_flash,
        limits=_flash_limits,
        exp_error=lambda path: 2.0**-19 if path == "fp32" else 2.0**-12,
    ),
)
