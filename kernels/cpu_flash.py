"""Attention on a CPU by PyTorch's own flash kernel, with the 16-bit instructions that it may have.

Softmax and sums are kept in fp32. It can say less than cpu-blocked: it rounds its output to the
type of its operands, and its exponential is right to 12 bits where that type has 16.
"""

import dataclasses
import math

import torch

from autoprec.kernels.cpu import unseen
from autoprec.kernels.cpu_blocks import fp32_products
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, converts
from autoprec.types import Config, Dtype, Phase, Workload

_LOG2_E = 1.4426950408889634


def _for_blas(x: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy where the flash kernel would misread its strides."""
    fits = x.stride(-1) == 1 and x.stride(-2) >= x.shape[-1]
    return x if fits else x.contiguous()


def _flash(call: Call, mask: torch.Tensor | None, causal: bool) -> None:
    """Run the flash kernel on tensors of one dtype, with the query heads of a group as rows."""
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, group = call.k.shape[1], q_heads // call.k.shape[1]
    if mask is None and not causal:  # all rows are alike: one product for the whole group
        q = call.q.reshape(batch, kv_heads, group * q_len, head_dim)
        problems = [(q, call.k, call.v, call.out, call.lse)]
    else:  # a request at a time: heads [kv_heads, group], K and V repeated by a stride of zero
        problems = []
        for b in range(batch):
            q = call.q[b].unflatten(0, (kv_heads, group))
            k, v = (x[b][:, None].expand(-1, group, -1, -1) for x in (call.k, call.v))
            lse = None if call.lse is None else call.lse[b : b + 1]
            problems.append((q, k, v, call.out[b : b + 1], lse))
    for q, k, v, out, lse in problems:
        o, natural = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=call.sm_scale
        )
        out.copy_(o.reshape(out.shape))
        if lse is not None:
            lse.copy_(natural.reshape(lse.shape)).mul_(_LOG2_E)


def _run_flash(call: Call, path: str, config: Config) -> None:
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    dtype = TORCH_DTYPES[Dtype(path)]
    mask = None
    causal = False
    if call.diagonal is not None and call.diagonal < kv_len - 1:
        # Its own mask, which it multiplies by the scale, skips keys but stands upper-left only.
        causal = call.diagonal == 0 and call.sm_scale > 0
        if not causal:
            hidden = unseen(call.diagonal + 1, q_len, 0, kv_len)
            mask = torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, -math.inf)
    with torch.no_grad(), fp32_products():
        q, k, v = (_for_blas(x.to(dtype)) for x in (call.q, call.k, call.v))
        rounded = dataclasses.replace(call, q=q, k=k, v=v)
        _flash(rounded, mask, causal)
        if call.diagonal is not None and call.diagonal < 0:
            blank = min(q_len, -call.diagonal)
            call.out[:, :, :blank] = 0.0
            if call.lse is not None:
                call.lse[:, :, :blank] = -math.inf


def _flash_limits(path: str, workload: Workload) -> list[str]:
    reasons = []
    if workload.head_dim != workload.head_dim_v:
        reasons.append("cpu-flash takes head_dim_v = head_dim only")
    if path in ("bf16", "fp16") and workload.out_dtype != path:
        reasons.append(f"cpu-flash rounds its {path} output, which {workload.out_dtype} is not")
    if path == "fp16" and workload.input_dtype is not Dtype.FP16:
        reasons.append(f"cpu-flash has no scales to bring {workload.input_dtype} inputs into fp16")
    return reasons


KERNELS = (
    Kernel(
        name="cpu-flash",
        device="cpu",
        paths=("fp32", "bf16", "fp16"),
        phases=tuple(Phase),
        max_head_dim=1 << 16,
        converts=converts,
        configs=lambda path, workload, target: [{}],
        run=_run_flash,
        limits=_flash_limits,
        exp_error=lambda path: 2.0**-19 if path == "fp32" else 2.0**-12,
    ),
)
