"""From the sizes of a KV cache to its memory, in the storage that is chosen for them."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import TORCH_DTYPES
from autoprec.plan.guard import Mode
from autoprec.plan.kv_cache import KVCache, cache_kernels
from autoprec.plan.run import Runner
from autoprec.plan.storage import storage_of
from autoprec.policy.storage import Joint
from autoprec.types import Dtype, Phase, Storage, Workload


def new_kv_cache(
    runner: Runner,
    full: Workload,
    storage: Storage | str | None,
    device: torch.device,
    page_table: Tensor | None,
    pages: int | None,
) -> KVCache:
    """Choose the storage, and allocate; the arguments are those of ``Plan.new_kv_cache``.

    Args:
        full: Prefill of all that the cache can hold.

    Raises:
        AutoprecError: As said there.
    """
    target = runner.target("the cache", device)
    workloads = {
        Phase.PREFILL: full, Phase.DECODE: replace(full, phase=Phase.DECODE, q_len=1),
    }  # fmt: skip
    joint = storage_of(
        runner.decider, workloads, storage, target,
        guarded=runner.guard is Mode.ALWAYS, consistent=runner.consistent,
    )  # fmt: skip
    return _allocate(joint, full, page_table, pages, device, runner.counts.lost)


@torch.inference_mode(False)  # what is made in that mode cannot be written outside of it
def _allocate(
    joint: Joint,
    full: Workload,
    page_table: Tensor | None,
    pages: int | None,
    device: torch.device,
    lost: Callable[[torch.device], Tensor],
) -> KVCache:
    """Memory for a cache, and a page table that gives each request pages of its own.

    Args:
        joint: The storage.
        full: Prefill of all that the cache can hold.
        page_table: int32 ``[batch, pages of a request]``, kept and read as it is at every call;
            None: each request has pages of its own.
        pages: Pages there are; None: as many as all requests at capacity need.

    Raises:
        InputError: A size is no whole number of at least 1, or the page table does not fit.
        UnsupportedError: There is no Triton here.
    """
    batch, capacity, page_size = full.batch, full.kv_len, full.page_size
    sizes = {"batch": batch, "capacity": capacity, "kv_heads": full.kv_heads,
             "head_dim": full.head_dim, "head_dim_v": full.head_dim_v, "page_size": page_size,
             "pages": pages}  # fmt: skip
    for name, size in sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {size!r}.")
    rows, tokens = batch, capacity
    if page_size is not None:
        width = -(-capacity // page_size)
        rows, tokens = batch * width if pages is None else pages, page_size
        if page_table is None:
            if rows < batch * width:
                raise InputError(
                    f"{batch} requests of {capacity} tokens need {batch * width} pages, "
                    f"there are {rows}.",
                    "a page_table that says which are whose",
                )
            page_table = torch.arange(batch * width, dtype=torch.int32, device=device)
            page_table = page_table.view(batch, width)
        _check_table(page_table, (batch, width), device)
    elif pages is not None or page_table is not None:
        raise InputError("pages are given without their size.", "page_size=16")
    shapes = tuple((rows, full.kv_heads, tokens, dim) for dim in (full.head_dim, full.head_dim_v))
    halves = None
    if joint.storage is Storage.PLANES:
        halves = cache_kernels().new_halves(*shapes, device)
        k, v = halves.k[0], halves.v[0]
    else:
        dtype = TORCH_DTYPES[Dtype(joint.storage.value)]
        k, v = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
    lengths = torch.zeros(batch, dtype=torch.int32, device=device)
    return KVCache(joint, k, v, halves, lengths, page_table, lost)


def _check_table(table: object, shape: tuple[int, int], device: torch.device) -> None:
    """Refuse a page table that kernels cannot read.

    Raises:
        InputError: As said.
    """
    if not isinstance(table, Tensor):
        raise InputError(f"page_table must be a torch.Tensor, got {type(table).__name__}.")
    if (table.dtype, table.shape, table.device) != (torch.int32, shape, device):
        raise InputError(f"page_table must be int32 {shape} on {device}, got {table.dtype} "
                         f"{tuple(table.shape)} on {table.device}.")  # fmt: skip
    if not table.is_contiguous():
        raise InputError(f"page_table has strides {table.stride()}; it must be contiguous.")
