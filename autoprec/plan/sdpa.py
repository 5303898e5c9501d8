"""A function with torch's signature and torch's meaning, over the plan for this machine."""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from autoprec.plan.load import load_plan
from autoprec.plan.plan import Plan

_in_use: ContextVar[Plan | None] = ContextVar("autoprec_plan", default=None)
_defaults: dict[torch.device, Plan] = {}
_loading = threading.Lock()


@contextlib.contextmanager
def use(plan: Plan) -> Iterator[Plan]:
    """Have ``scaled_dot_product_attention`` use a plan, in this thread or task, for a while."""
    token = _in_use.set(plan)
    try:
        yield plan
    finally:
        _in_use.reset(token)


def in_use() -> Plan | None:
    """The plan of ``use``, in this thread or task; None outside of it."""
    return _in_use.get()


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, at the precision of the plan.

    The plan is that of ``use``, else what ``load_plan`` finds for the query's device.

    Args:
        query: ``[..., q_len, head_dim]``, fp32, bf16 or fp16.
        key: ``[..., kv_len, head_dim]``, query's type and device.
        value: ``[..., kv_len, head_dim_v]``, query's type and device.
        attn_mask: What can be broadcast to the logits ``[..., q_len, kv_len]``: bool, where False
            hides a key from a query, or fp32 or query's type, which joins the logits. A query that
            sees no key gives 0. None where is_causal is True.
        dropout_p: Only 0.
        is_causal: Query i sees keys 0 to i, whatever the lengths: aligned upper-left.
        scale: Factor on the logits; None: 1/sqrt(head_dim).
        enable_gqa: Whether the heads of key and value may divide those of query.

    Returns:
        ``[..., q_len, head_dim_v]`` in query's type.

    Raises:
        AutoprecError: As ``Plan.scaled_dot_product_attention`` and ``load_plan`` do.
    """
    return plan_for(query).scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def plan_for(query: torch.Tensor) -> Plan:
    """The plan of ``use``, else what ``load_plan`` finds for a tensor's device, loaded once.

    Raises:
        AutoprecError: As ``load_plan`` does.
    """
    return _in_use.get() or _default(query)


def _default(query: torch.Tensor) -> Plan:
    device = query.device if isinstance(query, torch.Tensor) else torch.device("cpu")
    plan = _defaults.get(device)
    if plan is None:
        with _loading:
            plan = _defaults.get(device) or load_plan(device=device)
            _defaults[device] = plan
    return plan
