"""Attention of requests whose keys and values lie one after another."""

import functools
from typing import Any

from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.masks import of_requests
from autoprec.flashinfer.offered import (
    Dtype,
    check_offered,
    check_pos_encoding,
    dtypes_of,
    soft_cap_of,
    window_of,
)
from autoprec.flashinfer.planned import Planned, Result, by_layout
from autoprec.flashinfer.precision import Precision
from autoprec.flashinfer.queries import PrefillWrapper
from autoprec.flashinfer.table import check_starts
from autoprec.kernels.interface import Requests
from autoprec.plan.arguments import dense


class BatchPrefillWithRaggedKVCacheWrapper(PrefillWrapper):
    """Attention of requests whose keys and values lie one request after another."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        kv_indptr_buf: Tensor | None = None,
        custom_mask_buf: Tensor | None = None,
        mask_indptr_buf: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        jit_kwargs: dict[str, Any] | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        """Hold buffers; see ``BatchPrefillWithPagedKVCacheWrapper``.

        Args:
            kv_indptr_buf: int32 ``[batch + 1]``, for graphs.

        Raises:
            InputError: A buffer is missing.
        """
        super().__init__(
            float_workspace_buffer, kv_layout, use_cuda_graph, backend, precision,
            refused={"jit_args": jit_args, "jit_kwargs": jit_kwargs},
            buffers={"qo_indptr_buf": qo_indptr_buf, "kv_indptr_buf": kv_indptr_buf},
        )  # fmt: skip
        self._mask_buffers = {
            "custom_mask_buf": custom_mask_buf, "mask_indptr_buf": mask_indptr_buf,
        }  # fmt: skip
        self._most_keys: int | None = None

    def plan(
        self,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int | None = None,
        custom_mask: Tensor | None = None,
        packed_custom_mask: Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
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
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        seq_lens: Tensor | None = None,
        seq_lens_q: Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        v_indptr: Tensor | None = None,
        o_indptr: Tensor | None = None,
    ) -> None:
        """Take the lengths of the calls to come, and decide. Waits for the device.

        Args:
            qo_indptr: int32 or int64 ``[batch + 1]``, on any device: the queries of request b are
                rows qo_indptr[b] to qo_indptr[b+1]-1 of q.
            kv_indptr: Likewise, of k and v.
            custom_mask: As ``BatchPrefillWithPagedKVCacheWrapper.plan`` takes it; likewise
                what is not named here.
            seq_lens: Not used: kv_indptr says as much.
            v_indptr: Only None, as o_indptr is.

        Raises:
            InputError: An argument does not fit.
            UnsupportedError: Something is not offered.
        """
        check_pos_encoding(pos_encoding_mode)
        check_offered({"prefix_len_ptr": prefix_len_ptr, "max_item_len_ptr": max_item_len_ptr,
                       "token_pos_in_items_ptr": token_pos_in_items_ptr, "v_indptr": v_indptr,
                       "o_indptr": o_indptr})  # fmt: skip
        batch = kv_indptr.shape[0] - 1
        queries = self._queries(qo_indptr, batch)
        starts = check_starts("kv_indptr", kv_indptr, batch)
        kv_lens = starts.diff()
        longest, lengths = self._bounds(kv_lens, queries, self._most_keys_of(int(starts[-1])))
        mask = of_requests(custom_mask, packed_custom_mask, queries.starts, kv_lens)
        held, quick = self._held, non_blocking
        requests = Requests(
            kv_lens=held.put("kv_lens", kv_lens, non_blocking=quick),
            kv_starts=held.put("kv_indptr_buf", kv_indptr, non_blocking=quick),
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
                page_size=None, q_dtype=q_dtype, kv_dtype=kv_dtype, out_dtype=out_dtype,
                causal=causal, window_left=window_of(window_left),
                soft_cap=soft_cap_of(logits_soft_cap), sm_scale=sm_scale,
                mask=self._hold_mask(mask, non_blocking=quick),
            )
        )  # fmt: skip

    begin_forward = plan

    def _most_keys_of(self, keys: int) -> int:
        """All keys there may be, the bound that graphs need of one request's."""
        if not self._use_cuda_graph:
            return keys
        self._most_keys = keys if self._most_keys is None else self._most_keys
        if keys > self._most_keys:
            raise InputError(
                f"kv_indptr ends with {keys}, and graphs were first planned for "
                f"{self._most_keys} keys."
            )
        return self._most_keys

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *args: Any,
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        o_scale: float | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        kv_cache_sf: Any = None,
    ) -> Result:
        """Attention of the planned requests; see ``BatchDecodeWithPagedKVCacheWrapper.run``.

        Args:
            q: ``[qo_indptr[-1], q_heads, head_dim]``.
            k: NHD ``[kv_indptr[-1], kv_heads, head_dim]`` or HND ``[kv_heads, kv_indptr[-1],
                head_dim]``.
            v: Likewise, with head_dim_v.
            o_scale: Only None.
        """
        check_offered({"args": args, "kv_cache_sf": kv_cache_sf, "o_scale": o_scale})
        for name, tensor in (("k", k), ("v", v)):
            if dense(name, tensor).ndim != 3:
                raise InputError(f"{name} {tuple(tensor.shape)} must have three dimensions.")
        k, v = (by_layout(x, self._kv_layout) for x in (k, v))
        if k.shape[2] != v.shape[2]:
            raise InputError(f"k has {k.shape[2]} tokens, v {v.shape[2]}.")
        return self._run(self._planned, q, k, v, out=out, lse=lse, return_lse=return_lse,
                         q_scale=q_scale, k_scale=k_scale, v_scale=v_scale,
                         sinks=None)  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
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
        return self.run(q, k, v)

    def forward_return_lse(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
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
        return self.run(q, k, v, return_lse=True)
