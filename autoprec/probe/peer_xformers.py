"""xFormers: ``memory_efficient_attention_forward``, whichever of its operators it picks."""

import importlib
from collections.abc import Callable

import torch

from autoprec.kernels.interface import Call
from autoprec.probe.peer import by_head, by_token, causal, row
from autoprec.types import Dtype, Workload


def _refuses(it: Workload) -> list[str]:
    return []  # it says itself what it does not take, when it is run


def _bind(call: Call, path: str) -> Callable[[], torch.Tensor]:
    library = importlib.import_module("xformers.ops")
    biases = importlib.import_module("xformers.ops.fmha.attn_bias")
    bias = biases.LowerTriangularFromBottomRightMask() if causal(call, path) else None
    q, k, v = by_token(call.q, call.k, call.v)
    groups = k.shape[2]
    if q.shape[2] != groups:  # [batch, tokens, groups, heads of a group, head_dim]
        heads = q.shape[2] // groups
        q = q.view(*q.shape[:2], groups, heads, q.shape[3])
        k, v = (x[:, :, :, None].expand(-1, -1, -1, heads, -1) for x in (k, v))

    def run() -> torch.Tensor:
        out: torch.Tensor = library.memory_efficient_attention_forward(
            q, k, v, attn_bias=bias, scale=call.sm_scale
        )
        return by_head(out.flatten(2, 3) if out.ndim == 5 else out, call)

    return run


BASELINES = (
    row(name="xformers", library="xformers", bind=_bind, refuses=_refuses,
        input_dtypes=(Dtype.FP32, Dtype.BF16, Dtype.FP16)),
)  # fmt: skip
