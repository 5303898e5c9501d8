"""Attention of the newest tokens of requests over a paged cache."""

import functools
from dataclasses import replace
from typing import Any

from torch import Tensor

from autoprec.errors import InputError
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
from autoprec.flashinfer.table import Lengths, check_table, kv_lens_of, lengths_of
from autoprec.flashinfer.wrapper import Wrapper
from autoprec.kernels.interface import Requests
from autoprec.plan.arguments import dense


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    """Attention of the newest token, or the few newest, of every request over a paged cache.

    Where requests have several tokens, each sees the keys up to its own.
    """

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: Tensor | None = None,
        paged_kv_indices_buffer: Tensor | None = None,
        paged_kv_last_page_len_buffer: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        """Hold buffers.

        Args:
            float_workspace_buffer: Where partial results go, where it is large enough; its device
                is the wrapper's.
            kv_layout: ``NHD`` or ``HND``.
            use_cuda_graph: Whether ``plan`` writes what it is given into the three buffers below,
                so that graphs of ``run`` see it. The batch is then always as large.
            use_tensor_cores: Not used; the precision says.
            paged_kv_indptr_buffer: int32 ``[batch + 1]``.
            paged_kv_indices_buffer: int32, of at least as many pages as requests will ever have.
            paged_kv_last_page_len_buffer: int32 ``[batch]``.
            backend: Not used; ``cudnn`` is not offered.
            jit_args: Only None.
            precision: See ``set_plan``.

        Raises:
            InputError: A buffer is missing.
        """
        super().__init__(
            float_workspace_buffer, kv_layout, use_cuda_graph, backend, precision,
            refused={"jit_args": jit_args},
            buffers={
                "paged_kv_indptr_buffer": paged_kv_indptr_buffer,
                "paged_kv_indices_buffer": paged_kv_indices_buffer,
                "paged_kv_last_page_len_buffer": paged_kv_last_page_len_buffer,
            },
        )  # fmt: skip
        self._use_tensor_cores = use_tensor_cores
        self._fixed_batch_size = 0
        if use_cuda_graph:
            self._fixed_batch_size = self._held["paged_kv_last_page_len_buffer"].shape[0]
            if self._held["paged_kv_indptr_buffer"].shape[0] != self._fixed_batch_size + 1:
                raise InputError("paged_kv_indptr_buffer must hold one more than the batch.")

    @property
    def use_tensor_cores(self) -> bool:
        """As it was given."""
        return self._use_tensor_cores

    def plan(
        self,
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
        q_data_type: Dtype | None = "float16",
        kv_data_type: Dtype | None = None,
        o_data_type: Dtype | None = None,
        data_type: Dtype | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
        block_tables: Tensor | None = None,
        seq_lens: Tensor | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        q_len_per_req: int = 1,
    ) -> None:
        """Take the page table of the calls to come, and decide what runs. Waits for the device.

        Args:
            indptr: int32 or int64 ``[batch + 1]``, on any device: request b has the pages
                ``indices[indptr[b]:indptr[b+1]]``.
            indices: ``[indptr[-1]]`` or longer, page numbers.
            last_page_len: ``[batch]``, keys in each request's last page; 0 where it has none.
            num_qo_heads: Query heads.
            page_size: Keys of a page.
            pos_encoding_mode: Only ``NONE``; rope_scale and rope_theta then mean nothing.
            window_left: See ``single_decode_with_kv_cache``; likewise logits_soft_cap, sm_scale.
            q_data_type: Of q, such as ``torch.float32`` or ``"float32"``.
            kv_data_type: Of the cache; None: that of q.
            o_data_type: Of the output; None: that of q.
            data_type: Of q and the cache, where these are not given.
            non_blocking: Whether copies to the device may be left queued.
            block_tables: Not used: indices say as much.
            seq_lens: ``[batch]``, keys of each request; None: what the table says.
            fixed_split_size: Not used, and neither is disable_split_kv: the precision says.
            q_len_per_req: Queries of each request.

        Raises:
            InputError: An argument does not fit.
            UnsupportedError: Something is not offered.
        """
        check_pos_encoding(pos_encoding_mode)
        batch = check_table(indptr, indices, last_page_len)
        kv_lens = kv_lens_of(indptr, last_page_len, page_size, seq_lens)
        lengths = self._lengths(kv_lens, batch, page_size)
        held, quick = self._held, non_blocking
        starts = held.put("paged_kv_indptr_buffer", indptr, non_blocking=quick)
        pages = held.put("paged_kv_indices_buffer", indices, non_blocking=quick)
        held.put("paged_kv_last_page_len_buffer", last_page_len, non_blocking=quick)
        q_dtype, kv_dtype, out_dtype = dtypes_of(q_data_type, kv_data_type, o_data_type, data_type)
        requests = Requests(
            kv_lens=held.put("kv_lens", kv_lens, non_blocking=quick), kv_starts=starts,
            pages=pages, max_q_len=q_len_per_req, max_kv_len=max(1, lengths.longest),
        )  # fmt: skip
        self._plan(
            Planned(
                requests=requests, batch=batch, rows=batch * q_len_per_req, q_len=q_len_per_req,
                max_q_len=q_len_per_req, kv_len=lengths.mean, q_heads=num_qo_heads,
                kv_heads=num_kv_heads, head_dim=head_dim, head_dim_v=head_dim,
                page_size=page_size, q_dtype=q_dtype, kv_dtype=kv_dtype, out_dtype=out_dtype,
                causal=True, window_left=window_of(window_left),
                soft_cap=soft_cap_of(logits_soft_cap), sm_scale=sm_scale,
            )
        )  # fmt: skip

    begin_forward = plan

    def _lengths(self, kv_lens: Tensor, batch: int, page_size: int) -> Lengths:
        """What lengths come to; for graphs, the bound that holds for all of them."""
        lengths = lengths_of(kv_lens)
        if not self._use_cuda_graph:
            return lengths
        if batch != self._fixed_batch_size:
            raise InputError(
                f"the batch is {batch}, and the buffers for graphs were made for "
                f"{self._fixed_batch_size}."
            )
        room = self._held.room("paged_kv_indices_buffer") * page_size
        return Lengths(max(room, lengths.longest), lengths.mean)

    def run(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        *args: Any,
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | Tensor | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: Tensor | None = None,
        q_len_per_req: int | None = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        kv_cache_sf: Any = None,
    ) -> Result:
        """Attention of the planned requests; with out, and lse, nothing is allocated.

        Args:
            q: ``[batch * q_len_per_req, q_heads, head_dim]``.
            paged_kv_cache: See ``page.PagedCache``.
            args: None of them.
            q_scale: Factor on q; k_scale and v_scale likewise.
            out: ``[batch * q_len_per_req, q_heads, head_dim]`` in the planned type; written.
            lse: fp32 ``[batch * q_len_per_req, q_heads]``; written where return_lse is set.
            enable_pdl: Not used.
            window_left: None, or as planned.
            sinks: ``[q_heads]``, logits that join the sum of every query of their head.
            q_len_per_req: None, or q must have so many rows for each request.

        Returns:
            The output, and with return_lse the base-2 LSE; 0 and -inf where there is no key.

        Raises:
            InputError: An argument does not fit.
            UnsupportedError: Something is not offered.
        """
        check_offered({"args": args, "kv_cache_sf": kv_cache_sf, **{
            "skip_softmax_threshold_scale_factor": skip_softmax_threshold_scale_factor,
        }})  # fmt: skip
        k, v = unpack(paged_kv_cache, self._kv_layout)
        planned = self._fitted(q, q_len_per_req)
        check_window(planned, window_left)
        return self._run(planned, q, k, v, out=out, lse=lse, return_lse=return_lse,
                         q_scale=q_scale, k_scale=k_scale, v_scale=v_scale,
                         sinks=sinks)  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def _fitted(self, q: Tensor, q_len: int | None) -> Planned | None:
        """What was planned, with as many queries of each request as q has."""
        planned = self._planned
        q = dense("q", q)
        if planned is None or q.ndim != 3 or planned.batch == 0 or planned.requests is None:
            return planned
        if q_len is None:
            q_len = q.shape[0] // planned.batch
        if q_len == planned.q_len or q_len < 1:
            return planned
        fitted = replace(
            planned, rows=planned.batch * q_len, q_len=q_len, max_q_len=q_len,
            requests=replace(planned.requests, max_q_len=q_len),
        )  # fmt: skip
        self._planned = fitted
        return fitted

    def forward(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        pos_encoding_mode: str = "NONE",
        q_scale: float | None = None,
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
        self._mean(window_left=window_left, logits_soft_cap=logits_soft_cap, sm_scale=sm_scale)
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale)

    def forward_return_lse(
        self,
        q: Tensor,
        paged_kv_cache: PagedCache,
        pos_encoding_mode: str = "NONE",
        q_scale: float | None = None,
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
        self._mean(window_left=window_left, logits_soft_cap=logits_soft_cap, sm_scale=sm_scale)
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale,
                        return_lse=True)  # fmt: skip
