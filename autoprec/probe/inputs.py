"""The inputs on which times and errors are measured: families of random tensors."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from autoprec.kernels.interface import TORCH_DTYPES, Call, Requests
from autoprec.types import Layout, Mask, Workload

# Elements drawn at a time: bounds the memory beside the result, and is the same for every shape,
# so that a tensor begins with the numbers of a shorter one.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Family:
    """A way of drawing inputs.

    Attributes:
        fill: ``(chunk, generator)`` → None; overwrites an fp32 vector.
        summary: One line for people.
    """

    fill: Callable[[torch.Tensor, torch.Generator], None]
    summary: str


def _gauss(chunk: torch.Tensor, generator: torch.Generator) -> None:
    chunk.normal_(generator=generator)


def _outlier(chunk: torch.Tensor, generator: torch.Generator) -> None:
    chunk.normal_(generator=generator)
    hit = torch.empty(chunk.shape, dtype=torch.bool, device=chunk.device)
    places = hit.bernoulli_(0.001, generator=generator).nonzero().squeeze(1)
    chunk[places] += 10 * torch.randn(places.shape, generator=generator, device=chunk.device)


FAMILIES: dict[str, Family] = {
    "gauss": Family(_gauss, "N(0, 1)"),
    "outlier": Family(_outlier, "N(0, 1) + N(0, 100) * Bernoulli(0.001), as FlashAttention-3's"),
}


def draw(
    workload: Workload, family: str, seed: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw q, k and v of a workload.

    Each depends on the family, the seed and its own shape only: numbers are drawn in fp32 and
    then rounded to the input dtype.

    Args:
        workload: Gives the shapes and the dtype.
        family: A name of FAMILIES.
        seed: Of the draw; the same one gives the same numbers on the same kind of device.
        device: Where to draw.

    Returns:
        q ``[batch, q_heads, q_len, head_dim]``, k ``[batch, kv_heads, kv_len, head_dim]`` and
        v ``[batch, kv_heads, kv_len, head_dim_v]``, contiguous.
    """
    q, k, v = _empty(workload, device)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        digest = hashlib.sha256(f"{family} {seed} {name}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            chunk = torch.empty(part.shape, dtype=torch.float32, device=device)
            FAMILIES[family].fill(chunk, generator)
            part.copy_(chunk)
    return q, k, v


def call_of(workload: Workload, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
    """The call that computes a workload on contiguous K and V, its results allocated beside q."""
    shape = (workload.batch, workload.q_heads, workload.q_len)
    dtype = TORCH_DTYPES[workload.out_dtype]
    return Call(
        q=q,
        k=k,
        v=v,
        out=torch.empty((*shape, workload.head_dim_v), dtype=dtype, device=q.device),
        lse=torch.empty(shape, dtype=torch.float32, device=q.device),
        diagonal=workload.kv_len - workload.q_len if workload.mask is Mask.CAUSAL else None,
        sm_scale=workload.head_dim**-0.5,
        window_left=None if workload.window is None else workload.window - 1,
        soft_cap=workload.soft_cap,
        sinks=torch.linspace(-2, 2, workload.q_heads, device=q.device) if workload.sinks else None,
    )


def in_layout(workload: Workload, call: Call) -> Call:
    """A call of contiguous K and V, with these where the workload has them.

    Every request has kv_len keys; pages are in an order drawn at random.
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


def _paged(x: torch.Tensor, page_size: int, order: torch.Tensor) -> torch.Tensor:
    """``[pages, heads, page_size, dim]``; page order[i] holds what comes i-th."""
    x = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[2] % page_size))
    pages = x.unflatten(2, (-1, page_size)).transpose(1, 2).flatten(0, 1)
    paged = torch.empty_like(pages)
    paged[order.to(x.device)] = pages
    return paged


def blank_call(workload: Workload) -> Call:
    """The call that computes a workload, of tensors without memory (device ``meta``)."""
    return in_layout(workload, call_of(workload, *_empty(workload, torch.device("meta"))))


def call_bytes(workload: Workload) -> int:
    """Bytes of q, k, v, the output and the LSE of a workload."""
    call = blank_call(workload)
    return sum(t.nbytes for t in (call.q, call.k, call.v, call.out, call.lse) if t is not None)


def _empty(
    workload: Workload, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    w = workload
    shapes = (
        (w.batch, w.q_heads, w.q_len, w.head_dim),
        (w.batch, w.kv_heads, w.kv_len, w.head_dim),
        (w.batch, w.kv_heads, w.kv_len, w.head_dim_v),
    )
    dtype = TORCH_DTYPES[w.input_dtype]
    q, k, v = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
    return q, k, v
