"""flash-attn, FlashAttention 2's package: ``flash_attn_func`` and, for decode, its cache's."""

import importlib
from collections.abc import Callable

import torch

from autoprec.kernels.interface import Call
from autoprec.probe.peer import by_head, by_token, causal, row
from autoprec.types import Workload


def _refuses(it: Workload) -> list[str]:
    if it.head_dim != it.head_dim_v:
        return [f"flash-attn takes values as wide as keys, not {it.head_dim}/{it.head_dim_v}"]
    return ["flash-attn takes head dims up to 256"] if it.head_dim > 256 else []


def _bind(call: Call, path: str) -> Callable[[], torch.Tensor]:
    library = importlib.import_module("flash_attn")
    is_causal = causal(call, path)
    q, k, v = by_token(call.q, call.k, call.v)
    if call.q.shape[2] > 16:

        def run() -> torch.Tensor:
            out = library.flash_attn_func(q, k, v, softmax_scale=call.sm_scale, causal=is_causal)
            return by_head(out, call)

        return run
    lengths = torch.full((len(k),), k.shape[1], dtype=torch.int32, device=k.device)

    def decode() -> torch.Tensor:
        out = library.flash_attn_with_kvcache(
            q, k, v, cache_seqlens=lengths, softmax_scale=call.sm_scale, causal=is_causal
        )
        return by_head(out, call)

    return decode


BASELINES = (row(name="flash-attn", library="flash-attn", bind=_bind, refuses=_refuses),)
