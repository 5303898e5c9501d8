"""What user code hands to a plan, checked: an error names the argument and its shape."""

import math
import operator
from collections.abc import Hashable, Sequence
from numbers import Real

import torch

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import DTYPES, TORCH_DTYPES
from autoprec.types import Dtype

LAYOUTS = {
    "bhsd": "[batch, heads, tokens, head_dim]",
    "bshd": "[batch, tokens, heads, head_dim]",
}

Names = tuple[str, str, str]
"""What the caller calls q, k and v."""

KV: Names = ("k", "k", "v")
"""For checks of all three where there is no q: k takes its place."""

_TOO_LARGE_A_SCALE = 2.0**127  # kernels take log2(e) times it, in fp32

_OUT_DTYPES: dict[Hashable, torch.dtype] = {dtype: dtype for dtype in DTYPES} | {
    dtype.value: TORCH_DTYPES[dtype] for dtype in Dtype
}


def check_tensors(names: Names, q: object, k: object, v: object) -> None:
    """Refuse what is no dense tensor, and tensors of several devices or types.

    Raises:
        InputError: As said.
        UnsupportedError: No kernel takes this kind of tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in zip(names, (q, k, v), strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}.")
        if tensor.is_nested or tensor.layout is not torch.strided:
            raise UnsupportedError(f"{name} is nested or sparse, and no kernel takes that.")
        tensors[name] = tensor
    first, query = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise InputError(
                f"{name} {_shape(tensor)} is {tensor.dtype}; "
                "attention takes float32, bfloat16 and float16."
            )
        if tensor.dtype != query.dtype:
            raise InputError(
                f"{name} {_shape(tensor)} is {tensor.dtype}, {first} {_shape(query)} "
                f"is {query.dtype}; all three must have one type."
            )
        if tensor.device != query.device:
            raise InputError(
                f"{name} {_shape(tensor)} is on {tensor.device}, {first} {_shape(query)} "
                f"is on {query.device}; all three must be on one device."
            )


def check_sizes(
    names: Names, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tokens: int = -2
) -> None:
    """Refuse head dims and lengths that do not fit; the tensors have two dimensions or more.

    Args:
        tokens: The axis of the tokens; the head dim is the last axis.

    Raises:
        InputError: As said.
    """
    query, key, value = names
    if q.shape[-1] == 0:
        raise InputError(f"{query} {_shape(q)} has a head dim of 0.")
    _same(key, k, query, q, -1, "head dim")
    _same(value, v, key, k, tokens, "number of tokens")


def check_batch_and_heads(names: Names, layout: str, *tensors: torch.Tensor) -> None:
    """Refuse what is not four-dimensional, and batches and heads that do not fit.

    Raises:
        InputError: As said.
    """
    q, k, v = tensors
    query, key, value = names
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.ndim != 4:
            raise InputError(
                f"{name} {_shape(tensor)} must have four dimensions, {LAYOUTS[layout]}."
            )
    heads = layout.index("h")
    _same(key, k, query, q, 0, "batch size")
    _same(value, v, query, q, 0, "batch size")
    _same(value, v, key, k, heads, "number of heads")
    q_heads, kv_heads = q.shape[heads], k.shape[heads]
    if q_heads % kv_heads if kv_heads else q_heads:
        raise InputError(
            f"{query} {_shape(q)} has {q_heads} heads, no multiple of the {kv_heads} "
            f"of {key} {_shape(k)}."
        )


def check_gradients(names: Names, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse tensors whose gradient will be asked for: this is the forward pass alone.

    Raises:
        UnsupportedError: As said.
    """
    for name, tensor in zip(names, (q, k, v), strict=True):
        check_gradient(name, tensor)


def check_gradient(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor whose gradient will be asked for.

    Raises:
        UnsupportedError: As said.
    """
    if tensor.requires_grad and torch.is_grad_enabled():
        raise UnsupportedError(
            f"{name} {_shape(tensor)} requires a gradient, and no kernel here computes one.",
            "torch.no_grad(), or .detach()",
        )


def check_out(out: object, shape: tuple[int, ...], *inputs: torch.Tensor) -> None:
    """Refuse an output that cannot be written as asked.

    Args:
        shape: What it must have, in the layout of the call.
        inputs: Tensors on the device it must be on, with which it must not share memory.

    Raises:
        InputError: As said.
        UnsupportedError: It requires a gradient.
    """
    if not isinstance(out, torch.Tensor):
        raise InputError(f"out must be a torch.Tensor, got {type(out).__name__}.")
    if out.is_nested or out.layout is not torch.strided:
        raise InputError("out is nested or sparse, and no kernel writes that.")
    if out.shape != shape:
        raise InputError(f"out {_shape(out)} must have the shape {shape}.")
    if out.device != inputs[0].device:
        raise InputError(
            f"out {_shape(out)} is on {out.device}, the inputs are on {inputs[0].device}."
        )
    _check_memory("out", out, "an input", inputs)


def check_lse_out(
    lse: object,
    shape: tuple[int, ...],
    out: torch.Tensor,
    *inputs: torch.Tensor,
    name: str = "lse_out",
) -> None:
    """Refuse an LSE that cannot be written as asked.

    Args:
        shape: What it must have, whatever the layout of the call.
        out: On the device it must be on. With this and the inputs it must not share memory.
        name: What the caller calls it.

    Raises:
        InputError: As said.
        UnsupportedError: It requires a gradient.
    """
    if not isinstance(lse, torch.Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(lse).__name__}.")
    if lse.is_nested or lse.layout is not torch.strided:
        raise InputError(f"{name} is nested or sparse, and no kernel writes that.")
    if lse.shape != shape or lse.dtype != torch.float32 or lse.device != out.device:
        raise InputError(
            f"{name} must be float32 {tuple(shape)} on {out.device}, got {lse.dtype} {_shape(lse)} "
            f"on {lse.device}."
        )
    _check_memory(name, lse, "out or an input", (out, *inputs))


def _check_memory(
    name: str, written: torch.Tensor, whose: str, others: Sequence[torch.Tensor]
) -> None:
    """Refuse to write where a gradient is asked for, or to memory that the call uses already.

    Args:
        whose: Of whom ``others`` are, for the sentence.
        others: What the call reads, or writes as well.
    """
    check_gradient(name, written)
    if not written.is_contiguous() and _overlaps_itself(written):
        raise InputError(
            f"{name} {_shape(written)} has strides {written.stride()}: its elements share memory.",
            "torch.empty of that shape",
        )
    if written.numel() and meets(written, others):
        raise InputError(
            f"{name} {_shape(written)} lies in the memory of {whose}.",
            f"an {name} of its own memory",
        )


def meets(written: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    """Whether the bytes of a tensor meet those of others; interleaved views count as meeting.

    Args:
        written: It has elements.
        others: Some may have none.
    """
    first, last = _addresses(written)
    for tensor in others:
        other_first, other_last = _addresses(tensor)
        if first < other_last and other_first < last and tensor.numel():
            return True
    return False


def output_dtype(asked: object, out: object, inputs: torch.dtype) -> torch.dtype:
    """The output's type: as asked, else that of ``out``, else the inputs'.

    Args:
        asked: None, a torch.dtype or a name such as ``fp32``.

    Raises:
        InputError: It is none of the three, or it contradicts ``out``.
    """
    given = None
    if isinstance(out, torch.Tensor):
        given = out.dtype
        if given not in DTYPES:
            shape = "" if out.is_nested else f"{_shape(out)} "
            raise InputError(f"out {shape}is {given}; it must be float32, bfloat16 or float16.")
    if asked is None:
        asked = inputs if given is None else given
    dtype = _OUT_DTYPES.get(asked) if isinstance(asked, Hashable) else None
    if dtype is None:
        raise InputError(f"out_dtype must be fp32, bf16 or fp16, got {asked!r}.")
    if given is not None and given != dtype:
        raise InputError(f"out is {given}, but out_dtype is {dtype}.")
    return dtype


def scale(sm_scale: object, name: str = "sm_scale") -> float:
    """The factor on the logits.

    Args:
        sm_scale: As the caller gave it.
        name: What the caller calls it.

    Raises:
        InputError: It is no number, or not finite in fp32 once multiplied by log2(e).
    """
    if not isinstance(sm_scale, Real):
        raise InputError(f"{name} must be a finite number, got {sm_scale!r}.")
    try:
        number = float(sm_scale)
    except OverflowError:  # a whole number or a fraction; its digits would fill the sentence
        raise InputError(f"{name} must be below 2^127, got more than float64 holds.") from None
    if not math.isfinite(number):
        raise InputError(f"{name} must be a finite number, got {sm_scale!r}.")
    if abs(number) >= _TOO_LARGE_A_SCALE:
        raise InputError(
            f"{name} must be below 2^127, since kernels hold it in fp32, got {number}."
        )
    return number


def check_layout(layout: object) -> None:
    """Refuse a layout that is unknown.

    Raises:
        InputError: As said.
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise InputError(f"layout must be {' or '.join(LAYOUTS)}, got {layout!r}.")


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _same(
    name: str, tensor: torch.Tensor, other: str, than: torch.Tensor, axis: int, what: str
) -> None:
    if tensor.shape[axis] != than.shape[axis]:
        raise InputError(
            f"{name} {_shape(tensor)} has a {what} of {tensor.shape[axis]}, "
            f"{other} {_shape(than)} of {than.shape[axis]}."
        )


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether elements share memory; a few strange interleaved views count as if they did."""
    reach = 0  # the largest offset that the axes of smaller strides come to
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _addresses(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor that has elements, and of the one after the last."""
    first = tensor.data_ptr()
    if tensor.is_contiguous():  # most are, and this is asked at every call
        return first, first + tensor.nbytes
    strides = tensor.stride()
    reach = sum(map(operator.mul, strides, tensor.shape)) - sum(strides)
    return first, first + (reach + 1) * tensor.element_size()
