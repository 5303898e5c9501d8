"""FlashInfer by kernel: its wrapper of paged decode, and of ragged prefill for more tokens.

``fa2`` and ``fa3`` are its kernels for prefill. Decode has one of its own, ``flashinfer-decode``,
and runs on fa2's tensor cores as well.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from autoprec.kernels.interface import Call
from autoprec.probe.peer import by_head, by_token, causal, row
from autoprec.types import Phase, Workload

_WORKSPACE_BYTES = 256 << 20
_PAGE = 16  # tokens of a page, as serving engines have it
_HEAD_DIMS = ((64, 64), (128, 128), (256, 256), (192, 128))


def _decodes(it: Workload) -> bool:
    """Whether it is one token a request, which is what the wrapper of decode takes."""
    return it.q_len == 1 and it.head_dim == it.head_dim_v


def _refuses(it: Workload) -> list[str]:
    if (it.head_dim, it.head_dim_v) not in _HEAD_DIMS:
        return [f"flashinfer takes head dims 64, 128, 256 and 192/128, not {it.head_dim}"]
    return []


def _refuses_several_tokens(it: Workload) -> list[str]:
    return _refuses(it) if _decodes(it) else ["flashinfer's decode takes one token a request"]


def _bind(
    call: Call, path: str, *, backend: str, tensor_cores: bool = True
) -> Callable[[], torch.Tensor]:
    library = importlib.import_module("flashinfer")
    workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=call.q.device)
    if call.q.shape[2] == 1 and call.q.shape[3] == call.v.shape[3]:
        return _decode(library, workspace, call, tensor_cores)
    return _prefill(library, workspace, call, path, backend)


def _prefill(
    library: Any, workspace: torch.Tensor, call: Call, path: str, backend: str
) -> Callable[[], torch.Tensor]:
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, kv_len = call.k.shape[1:3]
    q, k, v = (x.flatten(0, 1) for x in by_token(call.q, call.k, call.v))
    wrapper = library.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
    wrapper.plan(
        _every(q_len, batch, q.device),
        _every(kv_len, batch, q.device),
        q_heads,
        kv_heads,
        head_dim,
        head_dim_vo=call.v.shape[3],
        causal=causal(call, path),
        sm_scale=call.sm_scale,
        q_data_type=q.dtype,
        kv_data_type=k.dtype,
    )

    def run() -> torch.Tensor:
        return by_head(wrapper.run(q, k, v).unflatten(0, (batch, q_len)), call)

    return run


def _decode(
    library: Any, workspace: torch.Tensor, call: Call, tensor_cores: bool
) -> Callable[[], torch.Tensor]:
    batch, q_heads, _, head_dim = call.q.shape
    kv_heads, kv_len = call.k.shape[1:3]
    pages = -(-kv_len // _PAGE)
    device = call.q.device
    q = call.q[:, :, 0].contiguous()
    cache = tuple(_paged(x, pages) for x in (call.k, call.v))
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=tensor_cores
    )
    wrapper.plan(
        _every(pages, batch, device),
        torch.arange(batch * pages, dtype=torch.int32, device=device),
        torch.full((batch,), kv_len - (pages - 1) * _PAGE, dtype=torch.int32, device=device),
        q_heads,
        kv_heads,
        head_dim,
        _PAGE,
        sm_scale=call.sm_scale,
        q_data_type=q.dtype,
        kv_data_type=call.k.dtype,
    )

    def run() -> torch.Tensor:
        return by_head(wrapper.run(q, cache)[:, None], call)

    return run


def _paged(x: torch.Tensor, pages: int) -> torch.Tensor:
    """K or V ``[batch, heads, tokens, head_dim]`` as ``[pages, tokens, heads, head_dim]``."""
    (by_tokens,) = by_token(x)
    padded = by_tokens.new_zeros(len(x), pages * _PAGE, *by_tokens.shape[2:])
    padded[:, : x.shape[2]] = by_tokens
    return padded.view(len(x) * pages, _PAGE, *by_tokens.shape[2:])


def _every(length: int, batch: int, device: torch.device) -> torch.Tensor:
    """Where each of so many equal parts begins, and the last one ends."""
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * length


_row = functools.partial(row, library="flashinfer-python")

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
