"""What was captured so far: a few calls of each layer, kept below a size, and their file."""

import json
import os
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from autoprec.errors import InputError
from autoprec.plan.visible import Unusable, part

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Seen(NamedTuple):
    """A call, as it was made.

    Attributes:
        q: ``[batch, q_heads, q_len, head_dim]``.
        k: ``[batch, kv_heads, kv_len, head_dim]``.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``.
        mask: Of the form that torch takes.
        causal: Aligned bottom-right, where there is no mask.
        sm_scale: Factor on the logits; None: 1/sqrt(head_dim).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    causal: bool
    sm_scale: float | None


class _Record(NamedTuple):
    """A few heads of one request: ``[kv_heads, (q: group,) tokens, head_dim]``, on the CPU."""

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    sm_scale: float
    heads: str

    @property
    def nbytes(self) -> int:
        return self.q.nbytes + self.k.nbytes + self.v.nbytes


class Recording:
    """Calls by layer, in the order in which layers were first seen. Threads may share it."""

    def __init__(self, calls: int, heads: int, tokens: int, max_bytes: int) -> None:
        """Have none yet; the arguments are those of ``capture``."""
        self._calls, self._heads, self._tokens, self._max_bytes = calls, heads, tokens, max_bytes
        self._lock = threading.Lock()
        self._records: dict[str, list[_Record]] = {}
        self._count: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._draw = torch.Generator().manual_seed(0)

    def __repr__(self) -> str:
        """Such as ``<Recording of 32 layers: 128 calls kept of 640, 96.0 MiB>``."""
        kept = sum(len(records) for records in self._records.values())
        count = len(self._records)
        return (
            f"<Recording of {count} layer{'s' * (count != 1)}: {kept} calls kept of "
            f"{self._count.total()}, {self.nbytes / (1 << 20):.1f} MiB>"
        )

    @property
    def layers(self) -> list[str]:
        """The layers recorded: a layer's place here is its number."""
        return list(self._records)

    @property
    def left_out(self) -> dict[str, int]:
        """Why calls could not be recorded, and how many."""
        return dict(self._left_out)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors kept."""
        return sum(record.nbytes for records in self._records.values() for record in records)

    def take(self, layer: str, seen: Seen | Unusable) -> None:
        """Keep a call, or not: of more than are kept each is kept with the same probability."""
        with self._lock:
            if isinstance(seen, Unusable):
                self._left_out[seen.reason] += 1
                return
            place = self._count[layer]
            if place >= self._calls:
                place = int(torch.randint(self._count[layer] + 1, (), generator=self._draw))
            if place < self._calls:
                record = self._of(seen)
                if isinstance(record, Unusable):
                    self._left_out[record.reason] += 1
                    return
                records = self._records.setdefault(layer, [])
                records[place : place + 1] = [record]
                self._shrink()
            self._count[layer] += 1

    def _of(self, seen: Seen) -> _Record | Unusable:
        batch, q_heads, q_len, head_dim = seen.q.shape
        kv_heads, kv_len = seen.k.shape[1:3]
        if 0 in (*seen.q.shape, *seen.k.shape, *seen.v.shape):
            return Unusable("tensors without elements")
        if q_heads % kv_heads or seen.k.shape[0] != batch:
            return Unusable("heads or requests that do not fit")
        for dtype in (seen.q.dtype, seen.k.dtype, seen.v.dtype):
            if dtype not in _DTYPES:
                return Unusable(f"tensors in {dtype}")
        if seen.causal and q_len > kv_len:
            return Unusable("more queries than keys under a causal mask")
        request = int(torch.randint(batch, (), generator=self._draw))
        found = part(seen.mask, seen.causal, request, batch, q_len, kv_len)
        if isinstance(found, Unusable):
            return found
        queries, keys = self._cropped(found.queries, found.keys, found.causal)
        picked = torch.randperm(kv_heads, generator=self._draw)[: self._heads].sort().values
        device = seen.q.device
        heads, queries, keys = picked.to(device), queries.to(device), keys.to(device)
        q = seen.q[request].reshape(kv_heads, q_heads // kv_heads, q_len, head_dim)
        record = _Record(
            q=q.index_select(0, heads).index_select(2, queries).detach().cpu().contiguous(),
            k=seen.k[request].index_select(0, heads).index_select(1, keys).detach().cpu(),
            v=seen.v[request].index_select(0, heads).index_select(1, keys).detach().cpu(),
            causal=found.causal,
            sm_scale=head_dim**-0.5 if seen.sm_scale is None else float(seen.sm_scale),
            heads=f"{q_heads}/{kv_heads}",
        )
        if not all(x.isfinite().all() for x in (record.q, record.k, record.v)):
            return Unusable("NaN or infinity in the tensors")
        return record

    def _cropped(self, queries: Tensor, keys: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        """The first tokens; where few queries follow many keys, the first and the last keys."""
        most = self._tokens
        if len(keys) <= most:
            return queries[-most:], keys
        before = len(keys) - len(queries)  # keys that the first query sees beside its own
        if causal and before < most:
            return queries[: most - before], keys[:most]
        queries = queries[-(most // 2 or 1) :]
        first = most // 2
        return queries, torch.cat((keys[:first], keys[len(keys) - (most - first) :]))

    def _shrink(self) -> None:
        """Leave out the last call of the layer with the most bytes, then half of a call's heads."""
        while self.nbytes > self._max_bytes:
            size = {layer: sum(r.nbytes for r in rs) for layer, rs in self._records.items()}
            layer = max(size, key=lambda layer: size[layer])
            records = self._records[layer]
            if len(records) > 1:
                records.pop()
                self._calls = min(self._calls, max(map(len, self._records.values())))
                continue
            record = records[0]
            heads, keys = record.k.shape[:2]
            if heads > 1:
                half = slice(0, heads // 2)
                kept = (record.q[half], record.k[half], record.v[half])
            elif keys > 16:
                most = keys // 2
                rows = max(1, record.q.shape[2] - (keys - most))
                kept = (record.q[:, :, :rows], record.k[:, :most], record.v[:, :most])
            else:
                return
            q, k, v = (x.clone() for x in kept)
            records[0] = record._replace(q=q, k=k, v=v)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: There is nothing to write, or it cannot be written.
        """
        if not self._records:
            reasons = "; ".join(f"{n} had {why}" for why, n in self._left_out.items())
            raise InputError(
                "no attention was captured: "
                f"{reasons or 'nothing called scaled_dot_product_attention'}.",
                "a model that runs inside the with, in this thread",
            )
        tensors: dict[str, Tensor] = {}
        told: dict[str, str] = {"format": "autoprec-capture-1"}
        for number, (layer, records) in enumerate(self._records.items()):
            for place, record in enumerate(records):
                name = f"{number}.{place}"
                tensors |= {f"{name}.q": record.q.flatten(0, 1).contiguous(),
                            f"{name}.k": record.k.contiguous(),
                            f"{name}.v": record.v.contiguous()}  # fmt: skip
                told[name] = json.dumps(
                    {"layer": number, "module": layer, "causal": record.causal,
                     "sm_scale": record.sm_scale, "heads": record.heads}
                )  # fmt: skip
        temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
        try:
            save_file(tensors, temporary, metadata=told)
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
        finally:
            temporary.unlink(missing_ok=True)
