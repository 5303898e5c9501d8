"""The families of inputs on which errors are measured: random tensors, each hard in its own way.

Everything of a family is drawn anew for every pair of a request and a KV head, its query heads
included, so that these pairs are independent draws of the family.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Protocol

import torch

from autoprec.errors import InputError
from autoprec.kernels.interface import TORCH_DTYPES
from autoprec.types import Dtype, Workload

# Elements drawn at a time, about: bounds the memory beside the result.
_CHUNK = 1 << 22


class Group(StrEnum):
    """What is asked of a path on a family."""

    TYPICAL = "typical"  # the budget holds
    EXTREME = "extreme"  # the output is finite, and within the path's certified bound


class Inputs(NamedTuple):
    """The tensors of a call, contiguous, and the factor on its logits.

    Attributes:
        q: ``[batch, q_heads, q_len, head_dim]``, in the workload's input dtype, as are k and v.
        k: ``[batch, kv_heads, kv_len, head_dim]``.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``.
        sm_scale: Factor on the logits.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    sm_scale: float


class Heads(Protocol):
    """The heads of a family that has only so many."""

    def count(self, workload: Workload) -> int:
        """How many there are for a workload; no more draws of it are independent."""

    def draw(self, workload: Workload, seed: int, device: torch.device, first: int) -> Inputs:
        """Inputs of the heads from a number on, in the seed's order; each once before any again."""


@dataclass(frozen=True)
class Family:
    """A way of drawing inputs.

    Attributes:
        group: What is asked of a path on it.
        draw: ``(workload, seed, device)`` → the inputs; the same ones each time on the same kind
            of device.
        summary: One line for people.
        heads: Those that there are; None where every draw has others.
    """

    group: Group
    draw: Callable[[Workload, int, torch.device], Inputs]
    summary: str
    heads: Heads | None = None


class _Heads(NamedTuple):
    """Some pairs of a request and a KV head, in fp32, to be changed in place.

    Attributes:
        q: ``[pairs, group, q_len, head_dim]``, N(0, 1) at first, as are k and v.
        k: ``[pairs, kv_len, head_dim]``.
        v: ``[pairs, kv_len, head_dim_v]``.
        draw: Where further random numbers come from.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    draw: torch.Generator

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """A number from U(low, high) for each pair, ``[pairs]``."""
        it = torch.rand(len(self.k), generator=self.draw, device=self.k.device)
        return it * (high - low) + low

    def sign(self) -> torch.Tensor:
        """1 or -1 for each pair, ``[pairs]``."""
        return torch.where(self.uniform(0, 1) < 0.5, -1.0, 1.0)


def _gauss(x: _Heads) -> None:
    pass


def _outlier(x: _Heads) -> None:
    for tensor in (x.q, x.k, x.v):
        flat = tensor.view(-1)
        hit = torch.empty(flat.shape, dtype=torch.bool, device=flat.device)
        places = hit.bernoulli_(0.001, generator=x.draw).nonzero().squeeze(1)
        flat[places] += 10 * torch.randn(places.shape, generator=x.draw, device=flat.device)


def _sink(x: _Heads) -> None:
    """The first key leads by 4 to 16 nats where the scale is 1 / √head_dim."""
    x.q[..., 0] = 1.0
    x.k[..., 0] = 0.0
    x.k[:, 0] = 0.0
    x.k[:, 0, 0] = x.uniform(4.0, 16.0) * math.sqrt(x.k.shape[-1])
    x.v[:, 0] *= 0.1


def _kbias(x: _Heads) -> None:
    head_dim = x.k.shape[-1]
    first = (x.uniform(0, 1) * head_dim).long().clamp_max(head_dim - 1)
    step = 1 + (x.uniform(0, 1) * (head_dim - 1)).long().clamp_max(max(0, head_dim - 2))
    pairs = torch.arange(len(x.k), device=x.k.device)
    for channel in (first, (first + step) % head_dim):
        x.k[pairs, :, channel] += (x.sign() * x.uniform(20.0, 30.0))[:, None]
        x.q[pairs, :, :, channel] *= 4.0


def _peaky(x: _Heads) -> None:
    x.q.mul_(9.0)


def _flat(x: _Heads) -> None:
    x.q.mul_(0.01)


def _resonant(x: _Heads) -> None:
    """Queries and keys share a wave along the head dim, in phase or against it."""
    head_dim = x.k.shape[-1]
    at = torch.arange(head_dim, device=x.k.device) / head_dim
    turns, phase = (x.uniform(1.0, 8.0).round(), x.uniform(0.0, 2 * math.pi))
    wave = torch.cos(2 * math.pi * turns[:, None] * at + phase[:, None])
    # |q · k| of 2^17, whatever the head dim
    wave *= 2.0**8.5 / wave.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    x.k.add_(wave[:, None])
    x.q.add_((x.sign()[:, None] * wave)[:, None, None])


def _cancel(x: _Heads) -> None:
    """Every second key is the one before it again, with its value taken back but for 0.001."""
    count = x.k.shape[1] // 2
    x.k[:, 1::2] = x.k[:, 0::2][:, :count]
    x.v[:, 1::2] *= 1e-3
    x.v[:, 1::2] -= x.v[:, 0::2][:, :count]


def _random(
    name: str, change: Callable[[_Heads], None], *, factor: float = 1.0
) -> Callable[[Workload, int, torch.device], Inputs]:
    """A family's draw: N(0, 1), changed in place, and times a factor.

    The factor is taken back in the scale of the logits, which are those of a factor of 1.
    """

    def draw(workload: Workload, seed: int, device: torch.device) -> Inputs:
        q, k, v = empty(workload, device)
        q_draw, k_draw, v_draw, draw = (
            torch.Generator(device).manual_seed(_digest(f"{name} {seed} {tensor}"))
            for tensor in ("q", "k", "v", "change")
        )
        # each pair of a request and a KV head, with its query heads
        places = (
            q.view(-1, workload.group, *q.shape[2:]),
            k.view(-1, *k.shape[2:]),
            v.view(-1, *v.shape[2:]),
        )
        largest = max(place[0].numel() for place in places)
        step = max(1, _CHUNK // largest)
        for parts in zip(*(torch.split(place, step) for place in places), strict=True):
            drawn = [
                torch.empty(part.shape, device=device).normal_(generator=generator)
                for part, generator in zip(parts, (q_draw, k_draw, v_draw), strict=True)
            ]
            change(_Heads(q=drawn[0], k=drawn[1], v=drawn[2], draw=draw))
            for part, numbers in zip(parts, drawn, strict=True):
                _round_into(part, numbers.mul_(factor))
        return Inputs(q, k, v, workload.head_dim**-0.5 / factor**2)

    return draw


def _round_into(part: torch.Tensor, numbers: torch.Tensor) -> None:
    if part.dtype == torch.float16:  # inputs of a call are finite
        most = torch.finfo(torch.float16).max
        numbers.clamp_(-most, most)
    part.copy_(numbers)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def empty(
    workload: Workload, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of a workload, not filled."""
    w = workload
    shapes = (
        (w.batch, w.q_heads, w.q_len, w.head_dim),
        (w.batch, w.kv_heads, w.kv_len, w.head_dim),
        (w.batch, w.kv_heads, w.kv_len, w.head_dim_v),
    )
    dtype = TORCH_DTYPES[Dtype(w.input_dtype)]
    q, k, v = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
    return q, k, v


_TABLE: tuple[tuple[str, Group, Callable[[_Heads], None], float, str], ...] = (
    ("gauss", Group.TYPICAL, _gauss, 1.0, "N(0, 1)"),
    ("outlier", Group.TYPICAL, _outlier, 1.0,
     "N(0, 1) + N(0, 100) * Bernoulli(0.001), as FlashAttention-3's"),
    ("sink", Group.TYPICAL, _sink, 1.0,
     "the first key leads by 4 to 16 nats, and its value is a tenth of the others'"),
    ("kbias", Group.TYPICAL, _kbias, 1.0,
     "two channels of K are off by 20 to 30, and Q is four times as large there"),
    ("peaky", Group.TYPICAL, _peaky, 1.0, "logits of N(0, 81): few keys count"),
    ("flat", Group.TYPICAL, _flat, 1.0, "logits of N(0, 0.0001): all keys count alike"),
    ("resonant", Group.EXTREME, _resonant, 1.0, "Q and K share a wave: |q·k| of 131072"),
    ("tiny", Group.EXTREME, _gauss, 1e-6, "N(0, 1) times 1e-6, the logits as they were"),
    ("large", Group.EXTREME, _gauss, 1e4, "N(0, 1) times 1e4, the logits as they were"),
    ("cancel", Group.EXTREME, _cancel, 1.0, "the values of neighbours cancel but for 0.001"),
)  # fmt: skip

DEFAULT_FAMILIES = ("typical", "extreme")
"""What ``chosen`` is given unless asked otherwise."""

FAMILIES: dict[str, Family] = {
    name: Family(group, _random(name, change, factor=factor), summary)
    for name, group, change, factor, summary in _TABLE
}


def chosen(names: Sequence[str]) -> dict[str, Family]:
    """The families of names; ``typical``, ``extreme`` and ``all`` stand for several.

    ``gauss`` is always among them: kernels are timed on it. Of a family that is named, or of all,
    the budget holds; with ``typical`` or ``extreme`` each keeps its group.

    Raises:
        InputError: A name is none of these.
    """
    found = {"gauss": FAMILIES["gauss"]}
    for name in names:
        if name in list(Group):
            found |= {n: family for n, family in FAMILIES.items() if family.group == name}
        elif name == "all":
            found |= {n: replace(it, group=Group.TYPICAL) for n, it in FAMILIES.items()}
        elif name in FAMILIES:
            found[name] = replace(FAMILIES[name], group=Group.TYPICAL)
        else:
            known = ", ".join((*FAMILIES, *Group, "all"))
            raise InputError(
                f"--families must be among {known}, got {name!r}.", "--families typical,extreme"
            )
    return found
