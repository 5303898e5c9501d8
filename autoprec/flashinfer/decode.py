"""Attention of one query, or the few of speculative decoding, over a cache."""

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.batch_decode import (
    BatchDecodeWithPagedKVCacheWrapper as BatchDecodeWithPagedKVCacheWrapper,
)
from autoprec.flashinfer.offered import Dtype, check_pos_encoding
from autoprec.flashinfer.planned import Result
from autoprec.flashinfer.precision import Precision
from autoprec.flashinfer.single import attend
from autoprec.flashinfer.table import kv_lens_of
from autoprec.plan.arguments import dense


def single_decode_with_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_tensor_cores: bool = False,
    q_scale: float | None = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    return_lse: bool = False,
    *,
    precision: Precision | None = None,
) -> Result:
    """Attention of the newest token of one request.

    Args:
        q: ``[q_heads, head_dim]``, fp32, bf16 or fp16.
        k: NHD ``[kv_len, kv_heads, head_dim]`` or HND ``[kv_heads, kv_len, head_dim]``.
        v: Likewise.
        pos_encoding_mode: Only ``NONE``; rope_scale and rope_theta then mean nothing.
        use_tensor_cores: Not used; the precision says.
        q_scale: Factor on q; k_scale and v_scale likewise.
        window_left: The query sees so many keys beside its own; below 0: all.
        logits_soft_cap: c: logits s become c·tanh(s / c); None or not above 0: they do not.
        sm_scale: Factor on the logits; None: 1/sqrt(head_dim).
        precision: See ``set_plan``.

    Returns:
        ``[q_heads, head_dim_v]`` in q's type; with return_lse also log2 of the sum of exp of the
        logits, fp32 ``[q_heads]``.

    Raises:
        InputError: An argument does not fit.
        UnsupportedError: Something is not offered.
    """
    check_pos_encoding(pos_encoding_mode)
    if dense("q", q).ndim != 2:
        raise InputError(f"q {tuple(q.shape)} must be [q_heads, head_dim].")
    result = attend(
        q[None], k, v, kv_layout=kv_layout, causal=False, window_left=window_left,
        logits_soft_cap=logits_soft_cap, sm_scale=sm_scale, q_scale=q_scale, k_scale=k_scale,
        v_scale=v_scale, return_lse=return_lse, precision=precision,
    )  # fmt: skip
    return result[0] if isinstance(result, Tensor) else (result[0][0], result[1][0])


class CUDAGraphBatchDecodeWithPagedKVCacheWrapper(BatchDecodeWithPagedKVCacheWrapper):
    """The same, for CUDA graphs: ``plan`` between replays, and the replays see it."""

    def __init__(
        self,
        workspace_buffer: Tensor,
        indptr_buffer: Tensor,
        indices_buffer: Tensor,
        last_page_len_buffer: Tensor,
        kv_layout: str = "NHD",
        use_tensor_cores: bool = False,
        *,
        precision: Precision | None = None,
    ) -> None:
        """Hold buffers; see the class it is made of."""
        super().__init__(
            workspace_buffer, kv_layout, True, use_tensor_cores, indptr_buffer, indices_buffer,
            last_page_len_buffer, precision=precision,
        )  # fmt: skip


def fast_decode_plan(
    self: BatchDecodeWithPagedKVCacheWrapper,
    indptr: Tensor,
    indices: Tensor,
    last_page_len: Tensor,
    num_qo_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    pos_encoding_mode: str = "NONE",
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    q_data_type: Dtype | None = None,
    kv_data_type: Dtype | None = None,
    data_type: Dtype | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    non_blocking: bool = True,
    fixed_split_size: int | None = None,
    disable_split_kv: bool = False,
    global_override_indptr_cpu: Tensor | None = None,
) -> None:
    """``plan``, for callers that have written the page table into the buffers already.

    Args:
        self: The wrapper; the others are those of its ``plan``.
        global_override_indptr_cpu: indptr on the host, so that it need not be waited for.
    """
    kv_lens = None
    if global_override_indptr_cpu is not None:
        last = last_page_len.cpu() if page_size > 1 else torch.ones(len(last_page_len)).long()
        kv_lens = kv_lens_of(global_override_indptr_cpu, last, page_size, None)
    self.plan(
        indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
        pos_encoding_mode, window_left, logits_soft_cap,
        q_data_type if q_data_type is not None else data_type or "float16", kv_data_type,
        data_type=data_type, sm_scale=sm_scale, rope_scale=rope_scale, rope_theta=rope_theta,
        non_blocking=non_blocking, seq_lens=kv_lens, fixed_split_size=fixed_split_size,
        disable_split_kv=disable_split_kv,
    )  # fmt: skip
