"""The calls on which times and errors are measured."""

import torch

from autoprec.kernels.interface import TORCH_DTYPES, Call
from autoprec.probe.families import FAMILIES, Inputs, empty
from autoprec.types import Mask, Workload


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
    """The call that computes a workload, with its output and LSE allocated beside q.

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
    )


def blank_call(workload: Workload) -> Call:
    """The call that computes a workload, of tensors without memory (device ``meta``)."""
    return call_of(workload, *empty(workload, torch.device("meta")))


def call_bytes(workload: Workload) -> int:
    """Bytes of q, k, v, the output and the LSE of a workload."""
    call = blank_call(workload)
    return sum(t.nbytes for t in (call.q, call.k, call.v, call.out, call.lse) if t is not None)
