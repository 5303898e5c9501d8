"""FlashInfer by kernel: its wrapper of paged decode, and those of prefill for more tokens.

``fa2`` and ``fa3`` are its kernels for prefill. Decode has one of its own, ``flashinfer-decode``,
and runs on fa2's tensor cores as well. Pages are the call's own memory, in FlashInfer's HND; what
is not paged is brought into NHD beforehand, and for decode into pages, which it always takes.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autoprec.kernels.interface import Call, Requests
from autoprec.probe.peer import by_head, by_token, causal, row
from autoprec.types import Layout, Phase, Workload

_WORKSPACE_BYTES = 256 << 20
_PAGE = 16  # tokens of a page, as serving engines have it
_HEAD_DIMS = ((64, 64), (128, 128), (256, 256), (192, 128))


def _decodes(it: Workload) -> bool:
    """Whether it is one token a request, which is what the wrapper of decode takes."""
    return it.q_len == 1 and it.head_dim == it.head_dim_v


def _refuses(it: Workload) -> list[str]:
    if (it.head_dim, it.head_dim_v) not in _HEAD_DIMS:
        return [f"flashinfer takes head dims 64, 128, 256 and 192/128, not {it.head_dim}"]
    if _decodes(it) and it.layout is Layout.RAGGED:
        return ["flashinfer's decode takes pages, not ragged K and V"]
    return []


def _refuses_several_tokens(it: Workload) -> list[str]:
    return _refuses(it) if _decodes(it) else ["flashinfer's decode takes one token a request"]


@dataclass(frozen=True)
class _Pages:
    """K and V in pages, and where those of each request are.

    Attributes:
        cache: K and V, ``[pages, page_size, heads, head_dim]``, or as ``order`` says.
        order: FlashInfer's name for that: NHD, or HND for heads before tokens.
        size: Tokens of a page.
        table: int32: where the pages of each request begin in the second, and the last one ends;
            numbers of pages; tokens in the last page of each request.
    """

    cache: tuple[torch.Tensor, torch.Tensor]
    order: str
    size: int
    table: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _bind(
    call: Call, path: str, *, backend: str, tensor_cores: bool = True
) -> Callable[[], torch.Tensor]:
    library = importlib.import_module("flashinfer")
    workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=call.q.device)
    if call.max_q_len == 1 and call.q.shape[3] == call.v.shape[3]:
        return _decode(library, workspace, call, tensor_cores)
    if call.requests is not None and call.requests.layout is Layout.PAGED:
        return _paged_prefill(library, workspace, call, path, backend)
    return _prefill(library, workspace, call, path, backend)


def _prefill(
    library: Any, workspace: torch.Tensor, call: Call, path: str, backend: str
) -> Callable[[], torch.Tensor]:
    q, k, v = (x.flatten(0, 1) for x in by_token(call.q, call.k, call.v))
    wrapper = library.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
    wrapper.plan(
        _query_starts(call),
        _starts(_lengths(call)),
        call.q.shape[1],
        call.k.shape[1],
        call.q.shape[3],
        head_dim_vo=call.v.shape[3],
        **_asked(call, path),
    )
    return lambda: _shaped(wrapper.run(q, k, v), call)


def _paged_prefill(
    library: Any, workspace: torch.Tensor, call: Call, path: str, backend: str
) -> Callable[[], torch.Tensor]:
    (q,) = (x.flatten(0, 1) for x in by_token(call.q))
    pages = _pages(call)
    wrapper = library.BatchPrefillWithPagedKVCacheWrapper(workspace, pages.order, backend=backend)
    wrapper.plan(
        _query_starts(call),
        *pages.table,
        call.q.shape[1],
        call.k.shape[1],
        call.q.shape[3],
        pages.size,
        head_dim_vo=call.v.shape[3],
        **_asked(call, path),
    )
    return lambda: _shaped(wrapper.run(q, pages.cache), call)


def _decode(
    library: Any, workspace: torch.Tensor, call: Call, tensor_cores: bool
) -> Callable[[], torch.Tensor]:
    q = call.q[:, :, 0].contiguous()
    pages = _pages(call)
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
        workspace, pages.order, use_tensor_cores=tensor_cores
    )
    wrapper.plan(
        *pages.table,
        call.q.shape[1],
        call.k.shape[1],
        call.q.shape[3],
        pages.size,
        sm_scale=call.sm_scale,
        q_data_type=call.q.dtype,
        kv_data_type=call.k.dtype,
    )
    return lambda: by_head(wrapper.run(q, pages.cache)[:, None], call)


def _asked(call: Call, path: str) -> dict[str, Any]:
    """What both wrappers of prefill are told of the attention itself."""
    return {
        "causal": causal(call, path),
        "sm_scale": call.sm_scale,
        "q_data_type": call.q.dtype,
        "kv_data_type": call.k.dtype,
    }


def _shaped(out: torch.Tensor, call: Call) -> torch.Tensor:
    """An output ``[tokens of all requests, heads, head_dim]`` as the call's, in its type."""
    return by_head(out.view(call.out.shape[0], call.out.shape[2], *out.shape[1:]), call)


def _query_starts(call: Call) -> torch.Tensor:
    """Where the queries of each request begin, and the last one's end."""
    if call.requests is not None and call.requests.q_starts is not None:
        return call.requests.q_starts
    every = torch.full((call.batch,), call.q.shape[2], dtype=torch.int32, device=call.q.device)
    return _starts(every)


def _lengths(call: Call) -> torch.Tensor:
    """The keys of each request; those of a call without pages lie one after another."""
    if call.requests is not None:
        return call.requests.kv_lens
    return torch.full((call.batch,), call.k.shape[2], dtype=torch.int32, device=call.k.device)


def _pages(call: Call) -> _Pages:
    if call.requests is not None and call.requests.pages is not None:
        size = call.k.shape[2]
        return _Pages((call.k, call.v), "HND", size, _table(call.requests, size))
    lengths = _lengths(call)
    counts = (lengths + _PAGE - 1) // _PAGE
    each = -(-call.k.shape[2] // _PAGE)
    numbers = torch.arange(len(lengths) * each, dtype=torch.int32, device=lengths.device)
    cache = (_paged(call.k, each), _paged(call.v, each))
    return _Pages(
        cache, "NHD", _PAGE, (_starts(counts), numbers, lengths - (counts - 1) * _PAGE)
    )  # fmt: skip


def _table(requests: Requests, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A call's own page table as FlashInfer has it, which leaves no room between requests."""
    assert requests.kv_starts is not None
    assert requests.pages is not None
    counts = (requests.kv_lens + size - 1) // size
    places = zip(requests.kv_starts.tolist(), counts.tolist(), strict=False)
    numbers = torch.cat([requests.pages[first : first + count] for first, count in places])
    return _starts(counts), numbers, requests.kv_lens - (counts - 1).clamp_min(0) * size


def _paged(x: torch.Tensor, pages: int) -> torch.Tensor:
    """K or V ``[batch, heads, tokens, head_dim]`` as ``[pages, tokens, heads, head_dim]``."""
    (by_tokens,) = by_token(x)
    padded = by_tokens.new_zeros(len(x), pages * _PAGE, *by_tokens.shape[2:])
    padded[:, : x.shape[2]] = by_tokens
    return padded.view(len(x) * pages, _PAGE, *by_tokens.shape[2:])


def _starts(lengths: torch.Tensor) -> torch.Tensor:
    """Where each of some parts begins, and the last one ends; int32."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


_row = functools.partial(
    row,
    library="flashinfer-python",
    layouts=(Layout.CONTIGUOUS, Layout.RAGGED, Layout.PAGED),
)

BASELINES = (
    _row(name="flashinfer-fa2", bind=functools.partial(_bind, backend="fa2"), refuses=_refuses),
    _row(
        name="flashinfer-fa3",
        bind=functools.partial(_bind, backend="fa3"),
        refuses=_refuses,
        phases=(Phase.PREFILL, Phase.APPEND),
    ),
    _row(
        name="flashinfer-decode",
        bind=functools.partial(_bind, backend="auto", tensor_cores=False),
        refuses=_refuses_several_tokens,
        phases=(Phase.DECODE,),
    ),
)
