"""What user code hands to a plan, checked: an error names the argument and its shape."""

import math
from numbers import Real

import torch

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import DTYPES

LAYOUTS = {
    "bhsd": "[batch, heads, tokens, head_dim]",
    "bshd": "[batch, tokens, heads, head_dim]",
}

Names = tuple[str, str, str]
"""What the caller calls q, k and v."""

KV: Names = ("k", "k", "v")
"""For checks of all three where there is no q: k takes its place."""

_TOO_LARGE_A_SCALE = 2.0**127  # kernels take log2(e) times it, in fp32


def check_tensors(names: Names, q: object, k: object, v: object) -> None:
    """Refuse what is no dense tensor, and tensors of several devices or types.

    Raises:
        InputError: As said.
        UnsupportedError: No kernel takes this kind of tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in zip(names, (q, k, v), strict=True):
        tensors[name] = dense(name, tensor)
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


def dense(name: str, tensor: object) -> torch.Tensor:
    """What the caller calls by a name, refused where it is no dense tensor.

    Raises:
        InputError: It is no tensor.
        UnsupportedError: No kernel takes this kind of tensor.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}.")
    if tensor.is_nested or tensor.layout is not torch.strided:
        raise UnsupportedError(f"{name} is nested or sparse, and no kernel takes that.")
    return tensor


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
