"""What decides on the device whether a call must be computed again, by a path with fp32's range.

A verdict is how many tiles a call has lost to fp16's range. Calls that follow each other have one
each, in a ring, which is collected when all are used, so that no call launches more than it must.

A slot is an int32 vector for calls whose verdict takes a launch: what is lost; whether what runs
next is to run; and for each head of fp16 values the largest token and, from infinity down, the
least one. Nothing here waits for the device, and a captured graph, which has a slot, decides anew
each time it is replayed.

All that kernels are handed lies at a multiple of 16 bytes: to Triton, addresses that do not are
another kernel, and what an eager call compiled is what a capture must find.
"""

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import count, far_below, finite_magnitude
from autoprec.kernels.interface import Launch, strides

_LOST, _TURN, _HEADS = tl.constexpr(0), tl.constexpr(4), tl.constexpr(8)
_INFINITE = tl.constexpr(0x7F800000)  # the bits of it: bits of numbers from 0 up are in order
_BLOCK = 128
_VERDICTS = 256
_APART = 4  # 16 bytes


def verdicts(device: torch.device) -> torch.Tensor:
    """A ring of verdicts, int32 ``[verdicts, 4]``, the first of each row; zeroed.

    The first row's second and third hold what was collected: tiles lost, and calls that had any.
    """
    return torch.zeros((_VERDICTS, _APART), dtype=torch.int32, device=device)


def slot(heads: int, device: torch.device) -> torch.Tensor:
    """A slot for calls with up to so many pairs of a request and a KV head, zeroed."""
    return torch.zeros(slot_numbers(heads), dtype=torch.int32, device=device)


def slot_numbers(heads: int) -> int:
    """How many numbers it has."""
    return int(_HEADS.value) + 2 * heads


def lost_of(it: torch.Tensor) -> torch.Tensor:
    """A slot's counter, for ``Call.lost``."""
    return it[:1]


def turn_of(it: torch.Tensor) -> torch.Tensor:
    """A slot's verdict, for ``Call.only_if``."""
    return it[_TURN.value : _TURN.value + 1]


@triton.jit(do_not_specialize=["tokens", "blocks"])
def _spread(V, SLOT, sv_b, sv_h, sv_t, sv_d, tokens, blocks, heads, HEAD_DIM: tl.constexpr,
            BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """One program a block of tokens of a head; grid (blocks * heads * batch,)."""
    head = tl.program_id(0) // blocks
    t = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    at = V + (head // heads).to(tl.int64) * sv_b + (head % heads).to(tl.int64) * sv_h
    v = tl.load(at + t[:, None] * sv_t + d[None, :] * sv_d,
                mask=(t < tokens)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)  # fmt: skip
    sizes = tl.max(finite_magnitude(v), 1).to(tl.int32, bitcast=True)
    tl.atomic_max(SLOT + _HEADS + 2 * head, tl.max(sizes, 0), sem="relaxed")
    least = tl.where(sizes > 0, _INFINITE - sizes, 0)
    tl.atomic_max(SLOT + _HEADS + 2 * head + 1, tl.max(least, 0), sem="relaxed")


@triton.jit(do_not_specialize=["heads"])
def _settle(SLOT, TOTALS, heads, P_PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """One program: the verdict, the totals, and the slot as it was before; grid (1,)."""
    lost = tl.load(SLOT + _LOST)
    for first in tl.range(0, heads, BLOCK):
        head = first + tl.arange(0, BLOCK)
        at = SLOT + _HEADS + 2 * head
        largest = tl.load(at, mask=head < heads, other=0)
        least = _INFINITE - tl.load(at + 1, mask=head < heads, other=0)
        far = far_below(least.to(tl.float32, bitcast=True), largest.to(tl.float32, bitcast=True),
                        P_PARTS)  # fmt: skip
        lost += tl.sum(far.to(tl.int32), 0)
        tl.store(at, 0, mask=head < heads)
        tl.store(at + 1, 0, mask=head < heads)
    turn = tl.minimum(lost, 1)
    tl.store(SLOT + _LOST, 0)
    tl.store(SLOT + _TURN, turn)
    count(lost, TOTALS)
    count(turn, TOTALS + 1)


@triton.jit
def _collect(RING, APART: tl.constexpr, VERDICTS: tl.constexpr):
    """One program; grid (1,)."""
    at = RING + tl.arange(0, VERDICTS) * APART
    lost = tl.load(at)
    tl.store(at, tl.zeros_like(lost))
    count(tl.sum(lost, 0), RING + 1)
    count(tl.sum((lost != 0).to(tl.int32), 0), RING + 2)


def collect(ring: torch.Tensor) -> Launch:
    """Plan that the verdicts of a ring join what was collected, and are zeroed for other calls."""
    arguments = {"RING": ring, "APART": ring.shape[1], "VERDICTS": ring.shape[0],
                 "num_warps": 4, "num_stages": 1}  # fmt: skip
    return Launch(_collect, (1,), arguments)


def spread(v: torch.Tensor, it: torch.Tensor) -> Launch:
    """Plan a look at how far apart the tokens of fp16 values lie.

    Probabilities are held in fp16 to 2^-25, and what that is of the larger values must not show in
    an output that the smaller ones make: ``blocks.far_below``. Scaled values have it looked at by
    the kernels that scale them.

    Args:
        v: ``[batch, heads, tokens, head_dim]``, fp16, any strides.
        it: The slot; zeroed.
    """
    batch, heads, tokens, head_dim = v.shape
    blocks = triton.cdiv(tokens, _BLOCK)
    arguments = {
        "V": v, "SLOT": it, **strides("v", v), "tokens": tokens, "blocks": blocks, "heads": heads,
        "HEAD_DIM": head_dim, "BLOCK_T": _BLOCK,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)), "num_warps": 8, "num_stages": 2,
    }  # fmt: skip
    return Launch(_spread, (blocks * heads * batch,), arguments)


def settle(it: torch.Tensor, totals: torch.Tensor, heads: int, p_parts: int) -> Launch:
    """Plan the verdict on a call, which stays in the slot until the next call's.

    Args:
        it: The slot; all of it but the verdict is zeroed for the next call.
        totals: int32 ``[2]``, to which the tiles lost, and 1 where there are any, are added.
        heads: Pairs of a request and a KV head at which ``spread`` looked; 0 for none.
        p_parts: Of the path.
    """
    arguments = {"SLOT": it, "TOTALS": totals, "heads": heads, "P_PARTS": p_parts,
                 "BLOCK": _BLOCK, "num_warps": 4, "num_stages": 1}  # fmt: skip
    return Launch(_settle, (1,), arguments)
