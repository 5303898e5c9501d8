"""K and V in the form of a cache: which forms are worth measuring, and calls on them."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from autoprec.kernels.interface import (
    TORCH_DTYPES,
    Call,
    Kernel,
    Launch,
    Requests,
    Target,
    run_launches,
)
from autoprec.paths import PATHS
from autoprec.probe.inputs import blank_call
from autoprec.types import Config, Dtype, Layout, Storage, Workload


def forms(kernel: Kernel, path: str, workload: Workload, target: Target) -> Iterator[Storage]:
    """The forms of a cache, beside the inputs' own, that hold what a path rounds its inputs to.

    In others a path loses more than it does anyway, or reads more bytes than it has use for.

    Args:
        kernel: What runs the path.
        path: A name of ``paths.PATHS``.
        workload: What is computed.
        target: The device.
    """
    scheme = PATHS[path]
    for storage in (Storage.BF16, Storage.FP16, Storage.PLANES):
        rounded = scheme.parts == 1 and scheme.operand == storage.value
        fits = storage is Storage.PLANES or rounded
        lengths = workload.layout is not Layout.CONTIGUOUS
        if workload.input_dtype is not Dtype.FP32 or not fits or storage not in kernel.forms:
            continue
        if not kernel.refusals(path, workload, target, storage=storage, lengths=lengths):
            yield storage


def stored(call: Call, storage: Storage) -> Call:
    """A call with its K and V in the form of a cache, as appending to one leaves them.

    Args:
        call: With K and V as they are given, in any layout; or in the form already.
        storage: The form.
    """
    call, launches = filled(call, storage)
    run_launches(launches)
    return call


def filled(call: Call, storage: Storage) -> tuple[Call, list[Launch]]:
    """The same, and the launches that fill what is not filled yet."""
    if call.halves is not None:
        return call, []
    if storage is not Storage.PLANES:
        dtype = TORCH_DTYPES[Dtype(storage.value)]
        return replace(call, k=call.k.to(dtype), v=call.v.to(dtype)), []
    from autoprec.kernels.kv_cache import append, new_halves  # with Triton, which CPUs may lack

    rows, _, tokens, _ = call.k.shape
    lens = torch.full((rows,), tokens, dtype=torch.int32, device=call.k.device)
    whole = Requests(kv_lens=lens, max_q_len=tokens, max_kv_len=tokens)
    halves = new_halves(tuple(call.k.shape), tuple(call.v.shape), call.k.device)
    # every row of the layout, a page too, is filled as if it were a request
    launch = append(call.k, call.v, halves.k[0], halves.v[0], whole, halves=halves)
    return replace(call, k=halves.k[0], v=halves.v[0], halves=halves), [launch]


def launches_of(
    kernel: Kernel,
    path: str,
    workload: Workload,
    config: Config,
    storage: Storage | None,
    *,
    with_lse: bool = True,
) -> list[Launch]:
    """All that a run of a jit kernel launches, on tensors without memory.

    Args:
        kernel: One with launches.
        path: A name of ``paths.PATHS``.
        workload: What is computed.
        config: The kernel's.
        storage: The form of the cache that holds K and V, which is filled too; None: they are as
            given.
        with_lse: Whether the log-sum-exp is wanted.
    """
    assert kernel.launches is not None, "a kernel without launches is not compiled"
    call = blank_call(workload)
    if not with_lse:
        call = replace(call, lse=None)
    filling: list[Launch] = []
    if storage is not None:
        call, filling = filled(call, storage)
    return [*filling, *kernel.launches(call, path, config)]
