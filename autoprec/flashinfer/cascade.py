"""Attention over parts of the keys, merged: outputs weighted by base-2 LSEs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.offered import Dtype, check_dtype
from autoprec.flashinfer.page import PagedCache
from autoprec.flashinfer.paged import BatchPrefillWithPagedKVCacheWrapper
from autoprec.flashinfer.precision import Precision
from autoprec.kernels.interface import Launch, run_launches
from autoprec.plan.arguments import check_gradient, dense
from autoprec.plan.current import current
from autoprec.plan.outputs import check_memory, meets


def merge_state(v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the outputs over two parts of the keys into that over both.

    Args:
        v_a: ``[tokens, heads, head_dim]``, fp32, bf16 or fp16.
        s_a: ``[tokens, heads]``, log2 of its sum of exp; -inf: it saw no key.
        v_b: Likewise, of the other part.
        s_b: Likewise.

    Returns:
        The output in v_a's type, and the LSE in fp32. Where neither part has a key they are 0 and
        -inf.

    Raises:
        InputError: Shapes, types or devices do not fit.
        UnsupportedError: A type is not offered, or a gradient is asked for.
    """
    _check(v_a, s_a, v_b, s_b)
    v = torch.empty_like(v_a)
    s = torch.empty(s_a.shape, dtype=torch.float32, device=s_a.device)
    _merge_two(v_a, s_a, v_b, s_b, v, s, None)
    return v, s


def merge_state_in_place(
    v: Tensor, s: Tensor, v_other: Tensor, s_other: Tensor, mask: Tensor | None = None
) -> None:
    """Merge another part into an output and its LSE, which are written; see ``merge_state``.

    Where the other part or the mask may lie in memory that is written, they are copied first.

    Args:
        mask: bool or uint8 ``[tokens]``: rows where it is 0 are left as they are.

    Raises:
        InputError: Shapes, types or devices do not fit, or what is written shares memory with
            itself.
        UnsupportedError: A type is not offered, the mask is sparse, or a gradient is asked for.
    """
    _check(v, s, v_other, s_other)
    rows = v.shape[:1]
    if mask is not None and (dense("mask", mask).shape != rows or mask.device != v.device):
        raise InputError(
            f"mask {tuple(mask.shape)} on {mask.device} must be ({v.shape[0]},) on {v.device}."
        )
    check_memory("v", v, "s", (s,))
    check_memory("s", s, "v", (v,))
    if mask is not None:
        mask = _apart(mask.contiguous(), v, s)
    _merge_two(v, s, _apart(v_other, v, s), _apart(s_other, v, s), v, s, mask)


def merge_states(v: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the outputs over any number of parts; see ``merge_state``.

    Args:
        v: ``[tokens, parts, heads, head_dim]``, fp32, bf16 or fp16.
        s: ``[tokens, parts, heads]``, base 2.

    Returns:
        The output ``[tokens, heads, head_dim]`` in v's type, and the LSE ``[tokens, heads]`` in
        fp32.

    Raises:
        InputError: Shapes, types or devices do not fit.
        UnsupportedError: A type is not offered, or a gradient is asked for.
    """
    if dense("v", v).ndim != 4:
        raise InputError(f"v {tuple(v.shape)} must be [tokens, parts, heads, head_dim].")
    _check_pair("v", v, "s", s)
    tokens, _, heads, head_dim = v.shape
    out = torch.empty((tokens, heads, head_dim), dtype=v.dtype, device=v.device)
    lse = torch.empty((tokens, heads), dtype=torch.float32, device=v.device)
    if v.is_cuda:
        from autoprec.kernels.states import merge_many  # where there is a GPU there is Triton

        _launch(v, merge_many(v, s, out, lse))
    else:
        merged, total = _merged(v.float(), s.float())
        out.copy_(merged)
        lse.copy_(total)
    return out, lse


class MultiLevelCascadeAttentionWrapper:
    """Attention over prefixes that several requests share, level by level, merged."""

    def __init__(
        self,
        num_levels: int,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf_arr: Sequence[Tensor] | None = None,
        paged_kv_indptr_buf_arr: Sequence[Tensor] | None = None,
        paged_kv_indices_buf_arr: Sequence[Tensor] | None = None,
        paged_kv_last_page_len_buf_arr: Sequence[Tensor] | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        """Hold buffers: for graphs, of every level those that the wrapper of one takes."""
        self._use_cuda_graph = use_cuda_graph
        self._levels = [
            BatchPrefillWithPagedKVCacheWrapper(
                float_workspace_buffer,
                kv_layout,
                use_cuda_graph,
                _at(qo_indptr_buf_arr, level),
                _at(paged_kv_indptr_buf_arr, level),
                _at(paged_kv_indices_buf_arr, level),
                _at(paged_kv_last_page_len_buf_arr, level),
                precision=precision,
            )
            for level in range(num_levels)
        ]

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether buffers given at the start hold the page tables, for CUDA graphs."""
        return self._use_cuda_graph

    def reset_workspace_buffer(
        self, float_workspace_buffer: Tensor, int_workspace_buffers: Sequence[Tensor]
    ) -> None:
        """Have partial results go elsewhere; the second buffers are not used."""
        for level in self._levels:
            level.reset_workspace_buffer(float_workspace_buffer, float_workspace_buffer)

    def plan(
        self,
        qo_indptr_arr: Sequence[Tensor],
        paged_kv_indptr_arr: Sequence[Tensor],
        paged_kv_indices_arr: Sequence[Tensor],
        paged_kv_last_page_len: Sequence[Tensor],
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
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
    ) -> None:
        """Take the page tables of all levels; causal is the last one's.

        Raises:
            AutoprecError: As ``BatchPrefillWithPagedKVCacheWrapper.plan`` does.
        """
        tables = (qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len)
        if any(len(table) != len(self._levels) for table in tables):
            raise InputError(f"there are {len(self._levels)} levels, and page tables of "
                             f"{', '.join(str(len(table)) for table in tables)}.")  # fmt: skip
        for level, queries, indptr, indices, last in zip(self._levels, *tables, strict=True):
            level.plan(
                queries, indptr, indices, last, num_qo_heads, num_kv_heads, head_dim, page_size,
                causal=causal and level is self._levels[-1], pos_encoding_mode=pos_encoding_mode,
                sm_scale=sm_scale, window_left=window_left, logits_soft_cap=logits_soft_cap,
                q_data_type=q_data_type, kv_data_type=kv_data_type,
            )  # fmt: skip

    begin_forward = plan

    def run(self, q: Tensor, paged_kv_cache: PagedCache) -> Tensor:
        """Attention ``[tokens, q_heads, head_dim]`` over the keys of all levels.

        Raises:
            AutoprecError: As ``BatchPrefillWithPagedKVCacheWrapper.run`` does.
        """
        out, lse = self._levels[-1].run(q, paged_kv_cache, return_lse=True)
        for level in self._levels[:-1]:
            merge_state_in_place(out, lse, *level.run(q, paged_kv_cache, return_lse=True))
        return out

    forward = run

    def end_forward(self) -> None:
        """Nothing; FlashInfer has it, deprecated, for ``begin_forward``."""


def _at(buffers: Sequence[Tensor] | None, level: int) -> Tensor | None:
    return None if buffers is None else buffers[level]


def _apart(read: Tensor, *written: Tensor) -> Tensor:
    """What is read, in memory of its own: rows are merged in any order, and not read again."""
    return read.clone() if any(meets(x, (read,)) for x in written if x.numel()) else read


def _merge_two(
    v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor, v: Tensor, s: Tensor, mask: Tensor | None
) -> None:
    if v.is_cuda:
        from autoprec.kernels.states import merge_two  # where there is a GPU there is Triton

        _launch(v, merge_two(v_a, s_a, v_b, s_b, v, s, mask))
        return
    merged, total = _merged(
        torch.stack((v_a.float(), v_b.float()), 1), torch.stack((s_a.float(), s_b.float()), 1)
    )
    if mask is None:
        v.copy_(merged)
        s.copy_(total)
    else:
        rows = mask != 0
        v[rows] = merged[rows].to(v.dtype)
        s[rows] = total[rows].to(s.dtype)


def _merged(states: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernels compute, in fp32 by PyTorch: parts lie along the second axis."""
    unseen = lses == -torch.inf
    if not states.shape[1]:
        shape = (states.shape[0], *states.shape[2:])
        return states.new_zeros(shape), lses.new_full(shape[:-1], -torch.inf)
    origin = lses.amax(1, keepdim=True).masked_fill_(unseen.all(1, keepdim=True), 0.0)
    weights = torch.exp2(lses - origin)
    total = weights.sum(1)
    values = states.masked_fill(unseen[..., None], 0.0)
    out = (values * weights[..., None]).sum(1) / total[..., None]
    return out.masked_fill_((total == 0)[..., None], 0.0), origin[:, 0] + total.log2()


def _launch(on: Tensor, launches: list[Launch]) -> None:
    with current(on):
        run_launches(launches)


def _check(v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor) -> None:
    """Refuse states that do not fit each other."""
    dense("v", v_a), dense("the other v", v_b)
    if v_a.ndim != 3:
        raise InputError(f"v {tuple(v_a.shape)} must be [tokens, heads, head_dim].")
    if v_a.shape != v_b.shape or v_a.device != v_b.device:
        raise InputError(
            f"the outputs to be merged are {tuple(v_a.shape)} on {v_a.device} and "
            f"{tuple(v_b.shape)} on {v_b.device}; they must be alike."
        )
    _check_pair("v", v_a, "s", s_a)
    _check_pair("the other v", v_b, "the other s", s_b)


def _check_pair(name: str, v: Tensor, its: str, s: Tensor) -> None:
    check_dtype(name, dense(name, v).dtype)
    dense(its, s)
    check_gradient(name, v)
    check_gradient(its, s)
    if s.shape != v.shape[:-1] or s.device != v.device:
        raise InputError(
            f"{its} {tuple(s.shape)} on {s.device} must be {tuple(v.shape[:-1])} on {v.device}, "
            f"as {name} {tuple(v.shape)} is."
        )
    if not s.is_floating_point():
        raise InputError(f"{its} is {s.dtype}; LSEs are floats.")
