"""Attention of requests of several queries each over a paged cache."""

import functools
from typing import Any

from torch import Tensor

from autoprec.flashinfer.masks import of_requests
from autoprec.flashinfer.offered import (
    Dtype,
    check_offered,
    check_pos_encoding,
    dtypes_of,
    soft_cap_of,
    window_of,
)
from autoprec.flashinfer.page import PagedCache, unpack
from autoprec.flashinfer.planned import Planned, Result, check_window
from autoprec.flashinfer.precision import Precision
from autoprec.flashinfer.queries import PrefillWrapper
from autoprec.flashinfer.table import check_table, kv_lens_of
from autoprec.kernels.interface import Requests


class BatchPrefillWithPagedKVCacheWrapper(PrefillWrapper):
    """Attention of requests over a paged cache that holds the keys of their queries too."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        paged_kv_indptr_buf: Tensor | None = None,
        paged_kv_indices_buf: Tensor | None = None,
        paged_kv_last_page_len_buf: Tensor | None = None,
        custom_mask_buf: Tensor | None = None,
        mask_indptr_buf: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        jit_kwargs: dict[str, Any] | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        """Hold buffers; see ``BatchDecodeWithPagedKVCacheWrapper``.

        Args:
            qo_indptr_buf: int32 ``[batch + 1]``, for graphs.
            custom_mask_buf: uint8, of at least as many bytes as custom masks will ever have.
            mask_indptr_buf: int32 ``[batch + 1]``, for graphs with custom masks.
            jit_args: Only None; jit_kwargs likewise.

        Raises:
            InputError: A buffer is missing.
        """
        super().__init__(
            float_workspace_buffer, kv_layout, use_cuda_graph, backend, precision,
            refused={"jit_args": jit_args, "jit_kwargs": jit_kwargs},
            buffers={
                "qo_indptr_buf": qo_indptr_buf,
                "paged_kv_indptr_buf": paged_kv_indptr_buf,
                "paged_kv_indices_buf": paged_kv_indices_buf,
                "paged_kv_last_page_len_buf": paged_kv_last_page_len_buf,
            },
        )  # fmt: skip
        self._mask_buffers = {
            "custom_mask_buf": custom_mask_buf,
            "mask_indptr_buf": mask_indptr_buf,
        }

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: Tensor | None = None,
        packed_custom_mask: Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: Dtype = "float16",
        kv_data_type: Dtype | None = None,
        o_data_type: Dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: Tensor | None = None,
        token_pos_in_items_ptr: Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: Tensor | None = None,
        seq_lens: Tensor | None = None,
        seq_lens_q: Tensor | None = None,
        block_tables: Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
    ) -> None:
        """Take queries and page table of the calls to come, and decide. Waits for the device.

        Args:
            qo_indptr: int32 or int64 ``[batch + 1]``, on any device: the queries of request b are
                rows qo_indptr[b] to qo_indptr[b+1]-1 of q.
            paged_kv_indptr: As ``BatchDecodeWithPagedKVCacheWrapper.plan`` takes it; likewise
                paged_kv_indices, paged_kv_last_page_len, and what is not named here.
            custom_mask: bool, one dimension: ``[q_len, kv_len]`` of each request, row after row,
                request after request; in place of ``causal``.
            packed_custom_mask: The same through ``segment_packbits(..., bitorder="little")``, and
                used first.
            causal: Whether query i of a request sees keys 0 to i + kv_len - q_len only.
            use_fp16_qk_reduction: Not used; the precision says.
            prefix_len_ptr: Only None, as token_pos_in_items_ptr and max_item_len_ptr are.
            seq_lens_q: Not used: qo_indptr says as much, and so for max_token_per_sequence,
                max_sequence_kv and block_tables.

        Raises:
            InputError: An argument does not fit.
            UnsupportedError: Something is not offered.
        """
        check_pos_encoding(pos_encoding_mode)
        check_offered({"prefix_len_ptr": prefix_len_ptr, "max_item_len_ptr": max_item_len_ptr,
                       "token_pos_in_items_ptr": token_pos_in_items_ptr})  # fmt: skip
        batch = check_table(paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        queries = self._queries(qo_indptr, batch)
        kv_lens = kv_lens_of(paged_kv_indptr, paged_kv_last_page_len, page_size, seq_lens)
        held, quick = self._held, non_blocking
        room = held.room("paged_kv_indices_buf") * page_size
        longest, lengths = self._bounds(kv_lens, queries, room)
        mask = of_requests(custom_mask, packed_custom_mask, queries.starts, kv_lens)
        held.put("paged_kv_last_page_len_buf", paged_kv_last_page_len, non_blocking=quick)
        requests = Requests(
            kv_lens=held.put("kv_lens", kv_lens, non_blocking=quick),
            kv_starts=held.put("paged_kv_indptr_buf", paged_kv_indptr, non_blocking=quick),
            pages=held.put("paged_kv_indices_buf", paged_kv_indices, non_blocking=quick),
            q_starts=held.put("qo_indptr_buf", qo_indptr, non_blocking=quick),
            max_q_len=longest, max_kv_len=max(1, lengths.longest),
        )  # fmt: skip
        q_dtype, kv_dtype, out_dtype = dtypes_of(q_data_type, kv_data_type, o_data_type)
        self._plan(
            Planned(
                requests=requests, batch=batch, rows=queries.rows, q_len=None,
                max_q_len=queries.longest, kv_len=lengths.mean, q_heads=num_qo_heads,
                kv_heads=num_kv_heads, head_dim=head_dim_qk,
                head_dim_v=head_dim_qk if head_dim_vo is None else head_dim_vo,
                page_size=page_size, q_dtype=q_dtype, kv_dtype=kv_dtype, out_dtype=out_dtype,
                causal=causal, window_left=window_of(window_left),
                soft_cap=soft_cap_of(logits_soft_cap), sm_scale=sm_scale,
                mask=self._hold_mask(mask, non_blocking=quick),
            )
        )  # fmt: skip

    begin_forward = plan

    def run(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        *args: Any,
        q_scale: float | Tensor | None = None,
        k_scale: float | Tensor | None = None,
        v_scale: float | Tensor | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: Tensor | None = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
    ) -> Result:
        """Attention of the planned requests; see ``BatchDecodeWithPagedKVCacheWrapper.run``.

        Args:
            q: ``[qo_indptr[-1], q_heads, head_dim]``.
        """
        check_offered({"args": args, "kv_cache_sf": kv_cache_sf, **{
            "skip_softmax_threshold_scale_factor": skip_softmax_threshold_scale_factor,
        }})  # fmt: skip
        k, v = unpack(paged_kv_cache, self._kv_layout)
        check_window(self._planned, window_left)
        return self._run(self._planned, q, k, v, out=out, lse=lse, return_lse=return_lse,
                         q_scale=q_scale, k_scale=k_scale, v_scale=v_scale,
                         sinks=sinks)  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def forward(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        k_scale: float | None = None,
        v_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
    ) -> Result:
        """``run`` with a part of ``plan``'s arguments; FlashInfer calls it deprecated."""
        check_pos_encoding(pos_encoding_mode)
        self._mean(causal=causal, window_left=window_left, logits_soft_cap=logits_soft_cap,
                   sm_scale=sm_scale)  # fmt: skip
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale)

    def forward_return_lse(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        k_scale: float | None = None,
        v_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
    ) -> Result:
        """``forward``, and the LSE."""
        check_pos_encoding(pos_encoding_mode)
        self._mean(causal=causal, window_left=window_left, logits_soft_cap=logits_soft_cap,
                   sm_scale=sm_scale)  # fmt: skip
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale, return_lse=True)
