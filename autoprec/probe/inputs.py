"""The calls on which times and errors are measured."""

import itertools
from dataclasses import replace

import torch

from autoprec.kernels.interface import TORCH_DTYPES, Call, Requests
from autoprec.probe.families import FAMILIES, Inputs, empty
from autoprec.types import Layout, Mask, Workload


def draw(workload: Workload, family: str, seed: int, device: torch.device) -> Inputs:
    """Draw q, k and v of a workload.

    Args:
        workload: Gives the shapes and the dtype.
        family: A name of FAMILIES.
        seed: Of the draw; the same one gives the same numbers on the same kind of device.
        device: Where to draw.
    """
    return FAMILIES[family].draw(workload, seed, device)


def call_of(
    workload: Workload,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sm_scale: float | None = None,
) -> Call:
    """The call that computes a workload on contiguous K and V, its results allocated beside q.

    Args:
        workload: Gives the shapes and the mask.
        q: As ``Inputs`` says, and so are k and v.
        k: As said.
        v: As said.
        sm_scale: Factor on the logits; None for the usual one.
    """
    shape = (workload.batch, workload.q_heads, workload.q_len)
    dtype = TORCH_DTYPES[workload.out_dtype]
    return Call(
        q=q,
        k=k,
        v=v,
        out=torch.empty((*shape, workload.head_dim_v), dtype=dtype, device=q.device),
        lse=torch.empty(shape, dtype=torch.float32, device=q.device),
        diagonal=workload.kv_len - workload.q_len if workload.mask is Mask.CAUSAL else None,
        sm_scale=workload.head_dim**-0.5 if sm_scale is None else sm_scale,
        window_left=None if workload.window is None else workload.window - 1,
        soft_cap=workload.soft_cap,
        sinks=torch.linspace(-2, 2, workload.q_heads, device=q.device) if workload.sinks else None,
    )


def in_layout(workload: Workload, call: Call) -> Call:
    """A call of contiguous K and V, with these where the workload has them.

    Every request has kv_len keys, unlike in ``end_to_end``; pages are in an order drawn at random.
    """
    if workload.layout is Layout.CONTIGUOUS:
        return call
    batch, kv_len, device = workload.batch, workload.kv_len, call.q.device
    pages, rows = None, kv_len
    if workload.layout is Layout.RAGGED:
        k, v = (x.transpose(0, 1).flatten(1, 2)[None] for x in (call.k, call.v))
    else:
        assert workload.page_size is not None
        rows = -(-kv_len // workload.page_size)
        order = torch.randperm(batch * rows, generator=torch.Generator().manual_seed(0))
        k, v = (_paged(x, workload.page_size, order) for x in (call.k, call.v))
        pages = order.to(device, torch.int32)
    requests = Requests(
        kv_lens=torch.full((batch,), kv_len, dtype=torch.int32, device=device),
        kv_starts=torch.arange(0, batch * rows, rows, dtype=torch.int32, device=device),
        pages=pages,
        max_q_len=workload.q_len,
        max_kv_len=kv_len,
    )
    diagonal = 0 if workload.mask is Mask.CAUSAL else None
    return replace(call, k=k, v=v, requests=requests, diagonal=diagonal)


def in_a_row(workload: Workload) -> Workload:
    """The one long request that has the tokens of all requests of a ragged prefill."""
    tokens = workload.kv_tokens
    return replace(workload, batch=1, q_len=tokens, kv_len=tokens)


def end_to_end(workload: Workload, call: Call) -> Call:
    """A call of such a long request, divided into requests of the workload's ``lengths``.

    Args:
        workload: A ragged prefill.
        call: Of ``in_a_row(workload)``, without ``requests``.
    """
    lengths, device = workload.lengths, call.q.device
    starts = torch.tensor(
        [0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device
    )  # fmt: skip
    requests = Requests(
        kv_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        kv_starts=starts,
        q_starts=starts,
        max_q_len=workload.q_len,
        max_kv_len=workload.kv_len,
    )
    return replace(
        call, requests=requests, diagonal=0 if workload.mask is Mask.CAUSAL else None
    )  # fmt: skip


def _paged(x: torch.Tensor, page_size: int, order: torch.Tensor) -> torch.Tensor:
    """``[pages, heads, page_size, dim]``; page order[i] holds what comes i-th."""
    x = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[2] % page_size))
    batch, heads, _, dim = x.shape
    pages = x.reshape(batch, heads, -1, page_size, dim).transpose(1, 2).flatten(0, 1)
    paged = torch.empty_like(pages)
    paged[order.to(x.device)] = pages
    return paged


def blank_call(workload: Workload) -> Call:
    """The call that computes a workload, of tensors without memory (device ``meta``)."""
    meta = torch.device("meta")
    if workload.unequal:
        row = in_a_row(workload)
        return end_to_end(workload, call_of(row, *empty(row, meta)))
    return in_layout(workload, call_of(workload, *empty(workload, meta)))


def call_bytes(workload: Workload) -> int:
    """Bytes of q, k, v, the output and the LSE of a workload."""
    call = blank_call(workload)
    return sum(t.nbytes for t in (call.q, call.k, call.v, call.out, call.lse) if t is not None)
