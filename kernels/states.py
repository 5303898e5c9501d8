"""Merging of attention states: outputs over parts of the keys, and the LSE of each, into one.

A state is an output and log2 of the sum of exp of the logits it was made of. Merging weighs each
output with its part of the sum. A state that saw no key has an LSE of -inf and no weight, whatever
its output holds; where no state saw one, the output is 0 and the LSE -inf.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.interface import Launch

_ROWS = 4  # of a program: a row alone would leave most of its threads idle


@triton.jit
def _merge_two(VA, SA, VB, SB, V, S, MASK, rows, heads,
               va_n, va_h, va_d, sa_n, sa_h, vb_n, vb_h, vb_d, sb_n, sb_h, v_n, v_h, v_d, s_n, s_h,
               HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """V, S ← A and B merged, which may be A itself; grid (rows / ROWS,), rows of tokens * heads."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n, h = row // heads, row % heads
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    real = row < rows
    if MASKED:
        real = real & (tl.load(MASK + n, mask=real, other=0) != 0)
    inside = real[:, None] & (d < HEAD_DIM)[None, :]
    s_a = tl.load(SA + n * sa_n + h * sa_h, mask=real, other=float("-inf")).to(tl.float32)
    s_b = tl.load(SB + n * sb_n + h * sb_h, mask=real, other=float("-inf")).to(tl.float32)
    v_a = tl.load(VA + (n * va_n + h * va_h)[:, None] + d[None, :] * va_d, mask=inside, other=0.0)
    v_b = tl.load(VB + (n * vb_n + h * vb_h)[:, None] + d[None, :] * vb_d, mask=inside, other=0.0)
    m = tl.maximum(s_a, s_b)
    origin = tl.where(m == float("-inf"), 0.0, m)
    w_a, w_b = tl.exp2(s_a - origin), tl.exp2(s_b - origin)
    total = w_a + w_b
    v_a = tl.where((s_a == float("-inf"))[:, None], 0.0, v_a.to(tl.float32))
    v_b = tl.where((s_b == float("-inf"))[:, None], 0.0, v_b.to(tl.float32))
    out = v_a * (w_a / total)[:, None] + v_b * (w_b / total)[:, None]
    out = tl.where((total == 0.0)[:, None], 0.0, out)
    tl.store(V + (n * v_n + h * v_h)[:, None] + d[None, :] * v_d, out.to(V.dtype.element_ty),
             mask=inside)  # fmt: skip
    lse = origin + tl.log2(total)
    tl.store(S + n * s_n + h * s_h, lse.to(S.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["states"])
def _merge_many(VS, SS, V, S, states, heads, vs_n, vs_i, vs_h, vs_d, ss_n, ss_i, ss_h,
                v_n, v_h, v_d, s_n, s_h,
                HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
                BLOCK_STATES: tl.constexpr):  # fmt: skip
    """V, S ← all states of a row merged, in their order; grid (tokens * heads,)."""
    row = tl.program_id(0).to(tl.int64)
    n, h = row // heads, row % heads
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    m = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([BLOCK_D], tl.float32)
    for first in tl.range(0, states, BLOCK_STATES):
        i = (first + tl.arange(0, BLOCK_STATES)).to(tl.int64)
        real = i < states
        s = tl.load(SS + n * ss_n + i * ss_i + h * ss_h, mask=real, other=float("-inf"))
        s = s.to(tl.float32)
        at = VS + n * vs_n + h * vs_h + i[:, None] * vs_i + d[None, :] * vs_d
        v = tl.load(at, mask=real[:, None] & (d < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
        m_new = tl.maximum(m, tl.max(s, 0))
        origin = tl.where(m_new == float("-inf"), 0.0, m_new)
        shrink = tl.exp2(m - origin)
        w = tl.exp2(s - origin)
        v = tl.where((s == float("-inf"))[:, None], 0.0, v)
        total = total * shrink + tl.sum(w, 0)
        acc = acc * shrink + tl.sum(v * w[:, None], 0)
        m = m_new
    out = tl.where(total == 0.0, 0.0, acc / total)
    tl.store(V + n * v_n + h * v_h + d * v_d, out.to(V.dtype.element_ty), mask=d < HEAD_DIM)
    origin = tl.where(m == float("-inf"), 0.0, m)
    tl.store(S + n * s_n + h * s_h + tl.arange(0, 1), origin + tl.log2(total))


def _strides(prefix: str, axes: str, tensor: torch.Tensor) -> dict[str, int]:
    strides = zip(axes, tensor.stride(), strict=True)
    return {f"{prefix}_{axis}": stride for axis, stride in strides}


def merge_two(
    v_a: torch.Tensor,
    s_a: torch.Tensor,
    v_b: torch.Tensor,
    s_b: torch.Tensor,
    v: torch.Tensor,
    s: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> list[Launch]:
    """Plan the merge of two states into a third, or into the first.

    Args:
        v_a: ``[tokens, heads, head_dim]``, fp32, bf16 or fp16, any strides; v_b likewise.
        s_a: ``[tokens, heads]``, any float type, base 2; s_b likewise.
        v: Written, like v_a; it may be v_a.
        s: Written, ``[tokens, heads]``, any float type; it may be s_a.
        mask: bool or uint8 ``[tokens]``, contiguous; rows where it is 0 are left as they are.
    """
    tokens, heads, head_dim = v_a.shape
    if v_a.numel() == 0:
        return []
    arguments: dict[str, Any] = {
        "VA": v_a, "SA": s_a, "VB": v_b, "SB": s_b, "V": v, "S": s, "MASK": mask,
        "rows": tokens * heads,
        "heads": heads,
        **_strides("va", "nhd", v_a), **_strides("sa", "nh", s_a),
        **_strides("vb", "nhd", v_b), **_strides("sb", "nh", s_b),
        **_strides("v", "nhd", v), **_strides("s", "nh", s),
        "HEAD_DIM": head_dim,
        "ROWS": _ROWS,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "MASKED": mask is not None,
        "num_warps": 4,
        "num_stages": 1,
    }  # fmt: skip
    return [Launch(_merge_two, (triton.cdiv(tokens * heads, _ROWS),), arguments)]


def merge_many(
    states: torch.Tensor, lses: torch.Tensor, v: torch.Tensor, s: torch.Tensor
) -> list[Launch]:
    """Plan the merge of several states into one.

    Args:
        states: ``[tokens, states, heads, head_dim]``, fp32, bf16 or fp16, any strides.
        lses: ``[tokens, states, heads]``, any float type, base 2.
        v: Written, ``[tokens, heads, head_dim]``, fp32, bf16 or fp16.
        s: Written, fp32 ``[tokens, heads]``.
    """
    tokens, count, heads, head_dim = states.shape
    if v.numel() == 0:
        return []
    block_d = triton.next_power_of_2(head_dim)
    arguments: dict[str, Any] = {
        "VS": states, "SS": lses, "V": v, "S": s,
        "states": count,
        "heads": heads,
        **_strides("vs", "nihd", states), **_strides("ss", "nih", lses),
        **_strides("v", "nhd", v), **_strides("s", "nh", s),
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_d,
        "BLOCK_STATES": max(1, min(16, 4096 // block_d, triton.next_power_of_2(max(1, count)))),
        "num_warps": 4,
        "num_stages": 2,
    }  # fmt: skip
    return [Launch(_merge_many, (tokens * heads,), arguments)]
