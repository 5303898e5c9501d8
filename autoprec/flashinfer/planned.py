"""What was planned of the calls to come, and whether tensors fit it."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.offered import soft_cap_of, window_of
from autoprec.kernels.interface import DTYPES, PackedMask, Requests
from autoprec.plan import arguments
from autoprec.plan.decision import phase_of
from autoprec.types import Layout, Mask, Phase, Workload

Result = Tensor | tuple[Tensor, Tensor]

_NAMES = ("q", "the keys", "the values")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What was planned. ``forward`` takes the last four anew with every call.

    Attributes:
        requests: Lengths and places; None: one request, whose tensors say them.
        rows: Queries of all requests.
        q_len: Queries of each request where they are alike; None: ``requests.q_starts`` says.
        kv_len: What a choice is looked up for; requests may be longer and shorter.
        kv_dtype: Type of keys and values.
        causal: Whether queries see keys up to their own only.
    """

    requests: Requests | None
    batch: int
    rows: int
    q_len: int | None
    max_q_len: int
    kv_len: int
    q_heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    page_size: int | None
    q_dtype: torch.dtype
    kv_dtype: torch.dtype
    out_dtype: torch.dtype
    causal: bool
    window_left: int | None
    soft_cap: float | None
    sm_scale: float | None
    mask: PackedMask | None = None

    @functools.cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """What kernels read of it: lengths and places of requests, and the mask."""
        it, mask = self.requests, self.mask
        read = () if it is None else (it.kv_lens, it.kv_starts, it.pages, it.q_starts)
        bits = () if mask is None else (mask.bits, mask.starts)
        return tuple(x for x in (*read, *bits) if x is not None)

    def workload(self, *, sinks: bool, steady: bool = False) -> Workload:
        """What the choice is looked up as; steady: for graphs of lengths to come."""
        q_len, kv_len = max(1, self.max_q_len), max(1, self.kv_len)
        phase = phase_of(q_len, kv_len)
        # Kernels of prompts alone read masks. Those of few queries keep room for all that there may
        # be, which is too much where a graph's requests may have any number.
        if self.mask is not None or (steady and self.q_len is None):
            q_len = max(2, q_len)
            phase = Phase.PREFILL if q_len >= kv_len else Phase.APPEND
        return Workload(
            phase=phase,
            batch=self.batch,
            q_len=q_len,
            # queries beyond the keys see what a prefill of as many tokens sees, or less
            kv_len=q_len if phase is Phase.PREFILL else kv_len,
            q_heads=self.q_heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            head_dim_v=self.head_dim_v,
            mask=Mask.CAUSAL if self.causal and self.mask is None else Mask.FULL,
            window=None if self.window_left is None else self.window_left + 1,
            soft_cap=self.soft_cap,
            layout=Layout.CONTIGUOUS if self.requests is None else self.requests.layout,
            page_size=self.page_size,
            sinks=sinks,
            custom_mask=self.mask is not None,
            input_dtype=DTYPES[self.q_dtype],
            out_dtype=DTYPES[self.out_dtype],
        )

    def meaning(
        self,
        *,
        causal: bool,
        window_left: int,
        logits_soft_cap: float | None,
        sm_scale: float | None,
    ) -> "Planned":
        """The same with what the deprecated ``forward`` is given."""
        return replace(
            self, causal=causal, window_left=window_of(window_left),
            soft_cap=soft_cap_of(logits_soft_cap), sm_scale=sm_scale,
        )  # fmt: skip


def by_heads(x: Tensor, batch: int, q_len: int | None) -> Tensor:
    """Rows of requests, ``[rows, heads, …]``, as ``[batch, heads, q_len, …]``; None: one batch."""
    if q_len is None:
        return x.transpose(0, 1).unsqueeze(0)
    return x.view(batch, q_len, *x.shape[1:]).transpose(1, 2)


def by_layout(x: Tensor, kv_layout: str) -> Tensor:
    """Keys or values, NHD ``[tokens, heads, dim]`` or HND, as ``[1, heads, tokens, dim]``."""
    return x.transpose(0, 1)[None] if kv_layout == "NHD" else x[None]


def check_tensors(planned: Planned, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse tensors that are not what was planned.

    Raises:
        InputError: The sentence names the tensor.
        UnsupportedError: It requires a gradient.
    """
    for name, tensor, dtype in (
        ("q", q, planned.q_dtype), ("k", k, planned.kv_dtype), ("v", v, planned.kv_dtype),
    ):  # fmt: skip
        if arguments.dense(name, tensor).dtype != dtype:
            hint = f"plan(..., q_data_type={tensor.dtype})" if name == "q" else ""
            raise InputError(f"{name} is {tensor.dtype}, and {dtype} was planned.", hint)
        if tensor.device != q.device:
            raise InputError(f"{name} is on {tensor.device}, q on {q.device}.")
    heads_and_dim = (planned.q_heads, planned.head_dim)
    if q.ndim != 3 or q.shape[1:] != heads_and_dim or q.shape[0] != planned.rows:
        raise InputError(
            f"q {tuple(q.shape)} must have the shape {(planned.rows, *heads_and_dim)}, as planned."
        )
    for name, x, dim in (("k", k, planned.head_dim), ("v", v, planned.head_dim_v)):
        if x.shape[1] != planned.kv_heads or x.shape[3] != dim:
            raise InputError(
                f"{name} has {x.shape[1]} heads of {x.shape[3]}, and {planned.kv_heads} of {dim} "
                "were planned."
            )
        if planned.page_size is not None and x.shape[2] != planned.page_size:
            raise InputError(
                f"a page holds {x.shape[2]} keys, and page_size {planned.page_size} was planned."
            )
    arguments.check_gradients(_NAMES, q, k, v)


def check_window(planned: Planned | None, window_left: int | None) -> None:
    """Refuse a window that is not the planned one.

    Raises:
        InputError: As said.
    """
    if planned is None or window_left is None or window_of(window_left) == planned.window_left:
        return
    was = -1 if planned.window_left is None else planned.window_left
    raise InputError(f"window_left is {window_left}, and {was} was planned.")


def fitting_sinks(sinks: Tensor, q_heads: int, device: torch.device) -> Tensor:
    """Sinks as kernels read them, fp32 ``[q_heads]``.

    Raises:
        InputError: Their shape or device does not fit.
        UnsupportedError: They require a gradient.
    """
    if sinks.shape != (q_heads,) or sinks.device != device:
        raise InputError(
            f"sinks {tuple(sinks.shape)} on {sinks.device} must be ({q_heads},) on {device}."
        )
    arguments.check_gradient("sinks", sinks)
    return sinks.float().contiguous()


def scale_values(out: Tensor, v_scale: Any) -> None:
    """Multiply the output by a scale of the values, where there is one."""
    if v_scale is not None and not (isinstance(v_scale, float) and v_scale == 1.0):
        out.mul_(v_scale)
