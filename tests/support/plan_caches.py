"""Small caches of a plan, tokens for them, and how far off a result is."""

from typing import Any

import torch
from torch import Tensor

from autoprec.plan.kv_cache import KVCache
from autoprec.plan.plan import Plan

BATCH, HEADS, KV_HEADS, DIM = 2, 4, 2, 16


def cache_of(plan: Plan, **changes: Any) -> KVCache:
    sizes = {"batch": BATCH, "capacity": 90, "q_heads": HEADS, "kv_heads": KV_HEADS,
             "head_dim": DIM}  # fmt: skip
    return plan.new_kv_cache(**sizes | changes)


def drawn(tokens: int, heads: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((BATCH, heads, tokens, DIM), generator=draw)


def rel_l2(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())
