"""Attention as an operator that PyTorch knows: ``torch.compile`` keeps it whole in its graphs."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.plan.plan import Plan
from autoprec.plan.request import Request
from autoprec.plan.sdpa import plan_for


@dataclass(eq=False)
class Caller:
    """Who calls: a graph holds its number, since it can hold no plan.

    Attributes:
        name: For people.
        plan: What it calls; None: what ``plan.sdpa.plan_for`` finds at the call.
        calls: How often it has called.
    """

    name: str
    plan: Plan | None
    calls: int = 0


NOBODY = 0
"""The number of a caller that nobody counts, with the plan of ``plan_for``."""

_callers: dict[int, Caller] = {}
_numbers = itertools.count(NOBODY + 1)


def enlist(caller: Caller) -> int:
    """Give a caller its number."""
    number = next(_numbers)
    _callers[number] = caller
    return number


def dismiss(numbers: list[int]) -> None:
    """Forget callers."""
    for number in numbers:
        _callers.pop(number, None)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
    causal: bool,
    upper_left: bool,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    caller: int,
) -> Tensor:
    """Attention of ``[batch, heads, tokens, head_dim]``, as ``[batch, tokens, heads, head_dim]``.

    Args:
        mask: As ``attn_mask`` of ``Plan.attention``, as are sinks, window and soft_cap.
        upper_left: Whether a causal mask is aligned so.
        scale: Factor on the logits; None: 1/sqrt(head_dim).
        caller: Its number, or ``NOBODY``.

    Raises:
        AutoprecError: As ``Plan.attention`` and ``load_plan`` do.
    """
    plan = None
    if caller != NOBODY:
        known = _callers.get(caller)
        if known is None:
            raise InputError("the model that a plan was applied to is gone, and this is a copy.",
                             "autoprec.transformers.apply on the copy")  # fmt: skip
        known.calls += 1
        plan = known.plan
    plan = plan or plan_for(q)
    out = torch.empty(
        (q.shape[0], q.shape[2], q.shape[1], v.shape[3]), dtype=q.dtype, device=q.device
    )
    request = Request(causal, upper_left=upper_left, window=window, soft_cap=soft_cap,
                      sinks=sinks, mask=mask)  # fmt: skip
    plan.runner.attend(request, q, k, v, scale, out.transpose(1, 2))
    return out


# Kernels may take memory of the plan's own, which graphs that inductor captures must not hold.
attention = torch.library.custom_op(
    "autoprec::attention", attend, mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,)
)


@attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
    causal: bool,
    upper_left: bool,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    caller: int,
) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))
