"""Attention of one request whose keys and values are tensors of their own."""

import math
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.offered import (
    check_dtype,
    check_kv_layout,
    scaled,
    soft_cap_of,
    window_of,
)
from autoprec.flashinfer.planned import (
    Planned,
    Result,
    by_heads,
    by_layout,
    check_tensors,
    scale_values,
)
from autoprec.flashinfer.precision import Precision, chooser
from autoprec.kernels.interface import Call, PackedMask
from autoprec.plan import arguments


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    kv_layout: str,
    causal: bool,
    window_left: int,
    logits_soft_cap: float | None,
    sm_scale: float | None,
    q_scale: Any,
    k_scale: Any,
    v_scale: Any,
    return_lse: bool,
    precision: Precision | None,
    out_dtype: torch.dtype | None = None,
    mask: PackedMask | None = None,
) -> Result:
    """Attention of q ``[q_len, q_heads, head_dim]``; the arguments are those of the callers.

    Raises:
        AutoprecError: As said there.
    """
    check_kv_layout(kv_layout)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if arguments.dense(name, tensor).ndim != 3:
            raise InputError(f"{name} {tuple(tensor.shape)} must have three dimensions.")
        check_dtype(name, tensor.dtype)
    k, v = (by_layout(x, kv_layout) for x in (k, v))
    (q_len, q_heads, head_dim), (_, kv_heads, kv_len, head_dim_v) = q.shape, v.shape
    if k.shape[2] != kv_len or (q_heads % kv_heads if kv_heads else q_heads):
        raise InputError(
            f"k {tuple(k.shape[1:])} and v {tuple(v.shape[1:])} (heads, tokens, head dim) do not "
            f"fit each other, or the {q_heads} heads of q."
        )
    planned = Planned(
        requests=None, batch=1, rows=q_len, q_len=q_len, max_q_len=q_len, kv_len=kv_len,
        q_heads=q_heads, kv_heads=kv_heads, head_dim=head_dim, head_dim_v=head_dim_v,
        page_size=None, q_dtype=q.dtype, kv_dtype=q.dtype, out_dtype=out_dtype or q.dtype,
        causal=causal, window_left=window_of(window_left), soft_cap=soft_cap_of(logits_soft_cap),
        sm_scale=None, mask=mask,
    )  # fmt: skip
    check_tensors(planned, q, k, v)
    out = torch.empty((q_len, q_heads, head_dim_v), dtype=planned.out_dtype, device=q.device)
    lse = None
    if return_lse:
        lse = torch.empty((q_len, q_heads), dtype=torch.float32, device=q.device)
    if out.numel() and kv_len == 0:
        out.zero_()
        if lse is not None:
            lse.fill_(-math.inf)
    elif out.numel():
        if sm_scale is None:
            sm_scale = 1 / math.sqrt(head_dim)
        chosen = chooser(precision, q.device)
        decision = chosen.decide(planned.workload(sinks=False), q.device)
        call = Call(
            q=by_heads(q, 1, q_len), k=k, v=v, out=by_heads(out, 1, q_len),
            lse=None if lse is None else by_heads(lse, 1, q_len),
            diagonal=kv_len - q_len if causal and mask is None else None, mask=mask,
            sm_scale=scaled(arguments.scale(sm_scale), q_scale=q_scale, k_scale=k_scale),
            window_left=planned.window_left, soft_cap=planned.soft_cap,
            lost=chosen.lost(decision, q.device),
        )  # fmt: skip
        chosen.run(decision, call)
    scale_values(out, v_scale)
    return out if lse is None else (out, lse)
