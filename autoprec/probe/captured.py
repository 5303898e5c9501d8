"""Captured queries, keys and values as input families of their own."""

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import features
from autoprec.model_layers import Geometry, Layers
from autoprec.probe.captured_file import Head, read_heads
from autoprec.probe.families import Family, Group, Inputs, empty
from autoprec.types import CAPTURED, Mask, Workload

MAX_BYTES = 1 << 30
"""Of tensors that are read of a file; of a larger one some heads of every layer."""


@dataclass(frozen=True)
class Captured:
    """What a file holds.

    Attributes:
        path: The file.
        heads: Those that were read.
        left_out: How many were not, since the file is large.
    """

    path: Path
    heads: Sequence[Head]
    left_out: int

    @property
    def layers(self) -> list[int]:
        """The numbers of its layers."""
        return sorted({head.layer for head in self.heads})

    def geometry(self) -> Geometry:
        """The shapes of its heads; where layers differ, those of the first one."""
        first = self.heads[0]
        full = any(not head.causal and head.q.shape[1] > 1 for head in self.heads)
        return Geometry(
            name=str(self.path),
            layers=(
                Layers(
                    count=len(self.layers),
                    q_heads=first.heads[0],
                    kv_heads=first.heads[1],
                    head_dim=first.k.shape[1],
                    head_dim_v=first.v.shape[1],
                    mask=Mask.FULL if full else Mask.CAUSAL,
                ),
            ),
            context=max(len(head.k) for head in self.heads),
        )

    def families(self, *, per_layer: bool) -> dict[str, Family]:
        """The input families that it is: one, or one for each layer."""
        groups = {CAPTURED: list(self.heads)}
        if per_layer:
            groups = {
                f"{CAPTURED}/{layer}": [head for head in self.heads if head.layer == layer]
                for layer in self.layers
            }
        found = {}
        for name, heads in groups.items():
            its = _Heads(name, heads, _first_of(heads))
            summary = f"{len(heads)} heads of {self.path}"
            found[name] = Family(Group.TYPICAL, functools.partial(its.draw, first=0), summary, its)
        return found

    def check(self, workloads: Sequence[Workload]) -> None:
        """Refuse workloads that the heads are none of.

        Raises:
            InputError: A head dim or a mask differs, or there is more than plain attention.
        """
        own = {(h.k.shape[1], h.v.shape[1], h.causal or h.q.shape[1] == 1) for h in self.heads}
        dims = {(dim, dim_v) for dim, dim_v, _ in own}
        for workload in workloads:
            asked = (workload.head_dim, workload.head_dim_v)
            if asked not in dims:
                held = " and ".join(f"{dim}/{dim_v}" for dim, dim_v in sorted(dims))
                raise InputError(
                    f"{self.path} holds head dims {held}, and {workload} has "
                    f"{asked[0]}/{asked[1]}.",
                    f"--head-dim {sorted(dims)[0][0]}",
                )
            if features(workload):
                raise InputError(
                    f"{self.path} holds plain attention alone, and {workload} has a "
                    f"{' and a '.join(features(workload))}.",
                    "autoprec tune without --inputs for it",
                )
            causal = workload.mask is Mask.CAUSAL
            if not any(_fits(head, workload) for head in self.heads):
                kind = "full" if causal else "causal"
                raise InputError(
                    f"{self.path} holds {kind} attention alone, and {workload} is not.",
                    f"--mask {kind}",
                )


def _fits(head: Head, workload: Workload) -> bool:
    """Whether a workload may be computed of a head; a single query sees all keys either way."""
    dims = (head.k.shape[1], head.v.shape[1]) == (workload.head_dim, workload.head_dim_v)
    mask = head.causal == (workload.mask is Mask.CAUSAL)
    return dims and (mask or head.q.shape[1] == 1 or workload.q_len == 1)


def _first_of(heads: Sequence[Head]) -> list[int]:
    """For each head the number of the first one that is the same, or its own.

    A head that was captured again, with other queries or later in its context, begins with the
    same keys and values: they are compared over half of the shorter one.
    """
    seen: dict[bytes, list[int]] = {}  # the first ones, by their first key
    found = []
    for number, head in enumerate(heads):
        others = seen.setdefault(head.k[0].float().numpy().tobytes(), [])
        first = next((it for it in others if _begin_alike(heads[it], head)), number)
        if first == number:
            others.append(number)
        found.append(first)
    return found


def _begin_alike(a: Head, b: Head) -> bool:
    count = (min(len(a.k), len(b.k)) + 1) // 2
    return torch.equal(a.k[:count], b.k[:count]) and torch.equal(a.v[:count], b.v[:count])


@dataclass(frozen=True)
class _Heads:
    """Draws a workload of captured heads, each pair of a request and a KV head another one.

    Tokens are the first ones of a head, in their order, and begin again where there are too few:
    a key that stands twice has twice half its weight. Queries are those that stand at the end.
    """

    name: str
    heads: Sequence[Head]
    first_of: Sequence[int]

    def count(self, workload: Workload) -> int:
        """How many heads there are for a workload, one that was captured again counted once."""
        its = zip(self.first_of, self.heads, strict=True)
        return len({first for first, head in its if _fits(head, workload)})

    def draw(self, workload: Workload, seed: int, device: torch.device, first: int) -> Inputs:
        """Inputs of the heads from a number on, in the seed's order; each once before any again."""
        order = self._order(workload, seed)
        q, k, v = empty(workload, device)
        sm_scale = order[first % len(order)].sm_scale
        group = workload.group
        for pair in range(workload.batch * workload.kv_heads):
            head = order[(first + pair) % len(order)]
            request, kv_head = divmod(pair, workload.kv_heads)
            keys = torch.arange(workload.kv_len) % len(head.k)
            k[request, kv_head] = head.k[keys].to(k)
            v[request, kv_head] = head.v[keys].to(v)
            queries = head.q[torch.arange(group) % len(head.q)][:, _queries(head, workload)]
            # one call has one scale; that of most models is the same in all layers
            factor = head.sm_scale / sm_scale
            q[request, kv_head * group : (kv_head + 1) * group] = (queries.float() * factor).to(q)
        return Inputs(q, k, v, sm_scale)

    def _order(self, workload: Workload, seed: int) -> list[Head]:
        """Those that fit, shuffled; what is one of those before it again comes last."""
        digest = hashlib.sha256(f"{self.name} {seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        fitting = [number for number, head in enumerate(self.heads) if _fits(head, workload)]
        shuffled = torch.randperm(len(fitting), generator=generator).tolist()
        once: dict[int, int] = {}
        for number in (fitting[it] for it in shuffled):
            once.setdefault(self.first_of[number], number)
        again = set(fitting) - set(once.values())
        return [self.heads[number] for number in (*once.values(), *sorted(again))]


def _queries(head: Head, workload: Workload) -> Tensor:
    """Which of a head's queries stand where a workload has its own: at the end of the keys."""
    own, held = workload.q_len, head.q.shape[1]
    at = torch.arange(workload.kv_len - own, workload.kv_len)
    first = len(head.k) - held if head.causal or held == 1 else 0  # the key the first stands at
    return (at - first) % held


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Captured:
    """Read a file that ``autoprec.capture`` wrote, or one like it: ``captured_file.py``.

    Raises:
        InputError: It cannot be read, is no such file, or a tensor cannot be used: one sentence.
    """
    where = Path(path)
    return Captured(where, *read_heads(where, max_bytes))
