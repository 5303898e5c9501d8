"""Attention of the queries of a prompt, or a chunk of one, over keys that hold theirs too."""

import functools
from typing import Any

import torch
from torch import Tensor

from autoprec.flashinfer.masks import of_single
from autoprec.flashinfer.offered import (
    check_backend,
    check_offered,
    check_pos_encoding,
    dtype_of,
)
from autoprec.flashinfer.paged import (
    BatchPrefillWithPagedKVCacheWrapper as BatchPrefillWithPagedKVCacheWrapper,
)
from autoprec.flashinfer.planned import Result
from autoprec.flashinfer.precision import Precision
from autoprec.flashinfer.ragged import (
    BatchPrefillWithRaggedKVCacheWrapper as BatchPrefillWithRaggedKVCacheWrapper,
)
from autoprec.flashinfer.single import attend


def single_prefill_with_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale_q: Tensor | None = None,
    scale_k: Tensor | None = None,
    scale_v: Tensor | None = None,
    o_dtype: torch.dtype | None = None,
    custom_mask: Tensor | None = None,
    packed_custom_mask: Tensor | None = None,
    causal: bool = False,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_fp16_qk_reduction: bool = False,
    sm_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
    kv_cache_sf: Any = None,
    k_scale: float | None = None,
    v_scale: float | Tensor | None = None,
    *,
    precision: Precision | None = None,
) -> Result:
    """Attention of one request.

    Args:
        q: ``[q_len, q_heads, head_dim]``, fp32, bf16 or fp16.
        k: NHD ``[kv_len, kv_heads, head_dim]`` or HND ``[kv_heads, kv_len, head_dim]``.
        v: Likewise, with head_dim_v.
        scale_q: Only None, as scale_k and scale_v are, and kv_cache_sf.
        o_dtype: Of the output; None: that of q.
        custom_mask: ``[q_len, kv_len]``, what each query sees; in place of ``causal``.
        packed_custom_mask: The same through ``packbits(..., bitorder="little")``, and used first.
        causal: Whether query i sees keys 0 to i + kv_len - q_len only.
        pos_encoding_mode: Only ``NONE``; rope_scale and rope_theta then mean nothing.
        use_fp16_qk_reduction: Not used; the precision says.
        window_left: A query sees so many keys before its own; below 0: all.
        logits_soft_cap: c: logits s become c·tanh(s / c); None or not above 0: they do not.
        sm_scale: Factor on the logits; None: 1/sqrt(head_dim).
        backend: Not used; ``cudnn`` is not offered.
        k_scale: Factor on k; v_scale likewise.
        precision: See ``set_plan``.

    Returns:
        ``[q_len, q_heads, head_dim_v]``; with return_lse also log2 of the sum of exp of the
        logits, fp32 ``[q_len, q_heads]``. A query that sees no key has 0 and -inf.

    Raises:
        InputError: An argument does not fit.
        UnsupportedError: Something is not offered.
    """
    check_pos_encoding(pos_encoding_mode)
    check_backend(backend)
    check_offered({"scale_q": scale_q, "scale_k": scale_k, "scale_v": scale_v,
                   "kv_cache_sf": kv_cache_sf})  # fmt: skip
    return attend(
        q, k, v, kv_layout=kv_layout, causal=causal, window_left=window_left,
        logits_soft_cap=logits_soft_cap, sm_scale=sm_scale, q_scale=None, k_scale=k_scale,
        v_scale=v_scale, return_lse=return_lse, precision=precision,
        out_dtype=None if o_dtype is None else dtype_of("o_dtype", o_dtype),
        mask=of_single(custom_mask, packed_custom_mask, q, k, kv_layout),
    )  # fmt: skip


single_prefill_with_kv_cache_return_lse = functools.partial(
    single_prefill_with_kv_cache, return_lse=True
)
"""``single_prefill_with_kv_cache`` with ``return_lse``."""
