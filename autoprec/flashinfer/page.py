"""Paged caches: their layouts, the lengths that a page table says, and appending to them."""

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.offered import check_dtype, check_kv_layout
from autoprec.kernels.interface import Requests, run_launches
from autoprec.plan import cpu_append
from autoprec.plan.arguments import check_gradient, dense
from autoprec.plan.current import current

_ANY = 2**31 - 1  # the places say how long requests are

PagedCache = Tensor | tuple[Tensor, Tensor]
"""Pages of keys and values: ``(k, v)``, each NHD ``[pages, page_size, kv_heads, head_dim]`` or HND
``[pages, kv_heads, page_size, head_dim]``, or one tensor with 2 as its second dimension. Where
page_size is 1 its dimension may be missing."""


def get_seq_lens(kv_indptr: Tensor, kv_last_page_len: Tensor, page_size: int) -> Tensor:
    """Keys of each request.

    Args:
        kv_indptr: int32 or int64 ``[batch + 1]``: request b has pages indptr[b] … indptr[b+1]-1.
        kv_last_page_len: ``[batch]``, keys in the last of them, 1 … page_size; 0 without pages.
        page_size: Keys in every other.

    Returns:
        ``[batch]``.
    """
    return (kv_indptr.diff() - 1).clamp(min=0) * page_size + kv_last_page_len


def get_batch_indices_positions(
    append_indptr: Tensor,
    seq_lens: Tensor,
    nnz: int,
    batch_indices: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which request each new token belongs to, and its place there; nothing is read back.

    Args:
        append_indptr: int32 or int64 ``[batch + 1]``: the new tokens of request b are rows
            indptr[b] … indptr[b+1]-1; they are its last ones.
        seq_lens: ``[batch]``, keys of each request, the new ones included.
        nnz: Rows, which may be more than there are new tokens.
        batch_indices: Where to write the requests, int32 ``[nnz]``; None: new memory.
        positions: Likewise, the places.

    Returns:
        Both; rows beyond the tokens have request -1 and place 0.

    Raises:
        InputError: What is to be written has another shape, type or device.
    """
    device = append_indptr.device
    given = {"batch_indices": batch_indices, "positions": positions}
    for name, tensor in given.items():
        if tensor is None:
            continue
        if (tensor.shape, tensor.dtype, tensor.device) != ((nnz,), torch.int32, device):
            raise InputError(
                f"{name} must be int32 ({nnz},) on {device}, got {tensor.dtype} "
                f"{tuple(tensor.shape)} on {tensor.device}."
            )
    batch = append_indptr.shape[0] - 1
    row = torch.arange(nnz, dtype=append_indptr.dtype, device=device)
    ends = append_indptr[1:].contiguous()
    request = torch.searchsorted(ends, row, right=True, out_int32=True)
    place = torch.zeros(nnz, dtype=torch.int32, device=device)
    if batch:
        own = request.clamp(max=batch - 1)
        place = (row + seq_lens.to(device)[own] - ends[own]).to(torch.int32)
    real = request < batch
    request, place = request.masked_fill(~real, -1), place.masked_fill(~real, 0)
    return (
        request if batch_indices is None else batch_indices.copy_(request),
        place if positions is None else positions.copy_(place),
    )


def append_paged_kv_cache(
    append_key: Tensor,
    append_value: Tensor,
    batch_indices: Tensor,
    positions: Tensor,
    paged_kv_cache: PagedCache,
    kv_indices: Tensor,
    kv_indptr: Tensor,
    kv_last_page_len: Tensor,
    kv_layout: str = "NHD",
) -> None:
    """Write new keys and values into the pages that a page table, which has room for them, says.

    They are written in any order: no place may be that of two tokens, and no new key or value may
    lie where one is written. Neither is looked at.

    Args:
        append_key: ``[tokens, kv_heads, head_dim]``; converted to the cache's type.
        append_value: ``[tokens, kv_heads, head_dim_v]``.
        batch_indices: ``[tokens]``, request of each; one below 0 is passed over.
        positions: ``[tokens]``, place of each among the request's keys.
        paged_kv_cache: fp32, bf16 or fp16; written.
        kv_indices: ``[n]``, page numbers, request after request.
        kv_indptr: ``[batch + 1]``, where those of each request start.
        kv_last_page_len: ``[batch]``; the places say as much, and it is not read.
        kv_layout: ``NHD`` or ``HND``.

    Raises:
        InputError: Shapes do not fit.
        UnsupportedError: A type is none of the three, or a gradient is asked for.
    """
    k_cache, v_cache = unpack(paged_kv_cache, kv_layout)
    tables = [batch_indices, positions, kv_indices, kv_indptr]
    requests, places, pages, starts = (t.to(k_cache.device, torch.int32) for t in tables)
    for name, new, cache in (
        ("append_key", append_key, k_cache),
        ("append_value", append_value, v_cache),
    ):
        check_dtype(name, dense(name, new).dtype)
        check_dtype("paged_kv_cache", cache.dtype)
        fitting = (requests.shape[0], cache.shape[1], cache.shape[3])
        if new.shape != fitting:
            raise InputError(f"{name} {tuple(new.shape)} must have the shape {fitting}.")
        check_gradient(name, new)
    if places.shape != requests.shape:
        raise InputError(
            f"positions {tuple(places.shape)} must have the shape of batch_indices "
            f"{tuple(requests.shape)}."
        )
    if not append_key.numel():
        return
    table = Requests(
        kv_lens=starts, kv_starts=starts, pages=pages, max_q_len=requests.shape[0], max_kv_len=_ANY
    )
    k, v = (new.transpose(0, 1)[None] for new in (append_key, append_value))
    if not k_cache.is_cuda:
        cpu_append.append(k, v, k_cache, v_cache, table, owners=requests, positions=places)
        return
    from autoprec.kernels.kv_cache import append  # where there is a GPU there is Triton

    with current(k_cache):
        run_launches([append(k, v, k_cache, v_cache, table, owners=requests, positions=places)])


def unpack(paged_kv_cache: PagedCache, kv_layout: str) -> tuple[Tensor, Tensor]:
    """Keys and values of a paged cache as views ``[pages, kv_heads, page_size, head_dim]``.

    Raises:
        InputError: It is no paged cache, or its keys and values do not fit.
    """
    check_kv_layout(kv_layout)
    if isinstance(paged_kv_cache, Tensor):
        if paged_kv_cache.ndim not in (4, 5) or paged_kv_cache.shape[1] != 2:
            raise InputError(
                f"paged_kv_cache {tuple(paged_kv_cache.shape)} must be [pages, 2, ...], with keys "
                "and values in its second dimension, or a tuple of both."
            )
        k, v = paged_kv_cache.unbind(1)
    elif isinstance(paged_kv_cache, tuple | list) and len(paged_kv_cache) == 2:
        k, v = paged_kv_cache
    else:
        raise InputError(
            f"paged_kv_cache must be a tensor or a tuple of two, got {type(paged_kv_cache)}."
        )
    k, v = (_four_dimensional(x, kv_layout) for x in (k, v))
    if k.shape[:3] != v.shape[:3]:
        raise InputError(f"the pages of keys are {tuple(k.shape)}, those of values "
                         f"{tuple(v.shape)}.")  # fmt: skip
    return k, v


def _four_dimensional(x: Tensor, kv_layout: str) -> Tensor:
    if dense("paged_kv_cache", x).ndim == 3:  # a page is one key
        x = x.unsqueeze(1 if kv_layout == "NHD" else 2)
    if x.ndim != 4:
        raise InputError(f"a page table's keys or values {tuple(x.shape)} must have four "
                         "dimensions.")  # fmt: skip
    return x.transpose(1, 2) if kv_layout == "NHD" else x
