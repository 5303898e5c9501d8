"""Inputs as torch's scaled_dot_product_attention takes them, brought to four dimensions."""

import math

import numpy as np
import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.plan.arguments import Names, check_sizes, check_tensors

NAMES: Names = ("query", "key", "value")


def four_dimensional(
    query: Tensor, key: Tensor, value: Tensor, *, enable_gqa: bool
) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """Broadcast what stands before the last two dimensions, as torch does.

    Nothing is copied, unless several leading dimensions are broadcast between one another, or key
    and value have different numbers of heads.

    Args:
        query: ``[..., q_len, head_dim]``.
        key: ``[..., kv_len, head_dim]``.
        value: ``[..., kv_len, head_dim_v]``.
        enable_gqa: Whether the third dimension from the end of key and value may divide query's.

    Returns:
        The three in four dimensions, key and value with a number of heads that divides the
        query's, and what stands before the output's last two dimensions.

    Raises:
        InputError: An argument is no such tensor, or the shapes do not fit.
        UnsupportedError: No kernel takes this kind of tensor.
    """
    tensors = (query, key, value)
    if _is_plain(tensors, enable_gqa):
        return query, key, value, query.shape[:2]
    check_tensors(NAMES, query, key, value)
    least = 3 if enable_gqa else 2
    for name, tensor in zip(NAMES, tensors, strict=True):
        if tensor.ndim < least:
            raise InputError(
                f"{name} {tuple(tensor.shape)} must have {least} dimensions or more"
                f"{' with enable_gqa' if enable_gqa else ''}."
            )
    check_sizes(NAMES, query, key, value)
    query, key, value = (t if t.ndim > 2 else t.unsqueeze(0) for t in tensors)
    q_heads, k_heads, v_heads = (t.shape[-3] for t in (query, key, value))
    if enable_gqa:
        kv_heads = _grouped(q_heads, k_heads, v_heads)
        key, value = (t.repeat_interleave(kv_heads // t.shape[-3], -3) if t.shape[-3] != kv_heads
                      else t for t in (key, value))  # fmt: skip
    else:
        q_heads = _broadcast(tensors, (q_heads,), (k_heads,), (v_heads,))[0]
        kv_heads = 1 if k_heads == v_heads == 1 else q_heads
    outer = _broadcast(tensors, *(t.shape[:-3] for t in (query, key, value)))
    query = _shaped(query, outer, q_heads)
    key, value = (_shaped(t, outer, kv_heads) for t in (key, value))
    leading = (*outer, q_heads) if max(t.ndim for t in tensors) > 2 else ()
    return query, key, value, leading


def mask_of(mask: Tensor, leading: tuple[int, ...], query: Tensor, key: Tensor) -> Tensor:
    """A mask as torch takes it, brought to ``[batch, heads, q_len, kv_len]``.

    Nothing is copied, unless it is broadcast between several leading dimensions.

    Args:
        mask: What can be broadcast to the logits: bool, query's type or fp32.
        leading: What stands before the output's last two dimensions.
        query: In four dimensions, like key.

    Raises:
        InputError: It is no such tensor.
    """
    if not isinstance(mask, Tensor):
        raise InputError(f"attn_mask must be a torch.Tensor, got {type(mask).__name__}.")
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise InputError(
            f"attn_mask {tuple(mask.shape)} is {mask.dtype}; it must be bool, float32, or "
            f"{query.dtype} as query is."
        )
    logits = (*leading, query.shape[2], key.shape[2])
    try:
        return mask.expand(logits).reshape(*query.shape[:3], key.shape[2])
    except RuntimeError:
        raise InputError(
            f"attn_mask {tuple(mask.shape)} does not broadcast to the logits, {logits}."
        ) from None


def _is_plain(tensors: tuple[Tensor, Tensor, Tensor], enable_gqa: bool) -> bool:
    """Whether there is nothing to broadcast; what else is wrong is found where it is run."""
    if not all(isinstance(t, Tensor) and not t.is_nested and t.ndim == 4 for t in tensors):
        return False
    q, k, v = (t.shape for t in tensors)
    return k[:3] == v[:3] and q[0] == k[0] and (q[1] == k[1] or enable_gqa)


def _grouped(q_heads: int, k_heads: int, v_heads: int) -> int:
    """The least number of KV heads that serves both keys and values."""
    for name, heads in (("key", k_heads), ("value", v_heads)):
        if q_heads % heads if heads else q_heads:
            raise InputError(
                f"{name} has {heads} heads, which do not divide the {q_heads} of query."
            )
    return math.lcm(k_heads, v_heads)


def _broadcast(tensors: tuple[Tensor, ...], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        query, key, value = (tuple(tensor.shape) for tensor in tensors)
        raise InputError(
            f"the dimensions of query {query}, key {key} and value {value} before the last two "
            "do not broadcast.",
            "enable_gqa=True where key and value have fewer heads",
        ) from None


def _shaped(tensor: Tensor, outer: tuple[int, ...], heads: int) -> Tensor:
    tail = tensor.shape[-2:]
    wide = tensor.expand(*outer, heads, *tail)
    return wide if len(outer) == 1 else wide.reshape(math.prod(outer), heads, *tail)
