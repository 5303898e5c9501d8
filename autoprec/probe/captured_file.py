"""Reading a file of captured tensors, with care: it may be damaged, huge, or something else.

Tensors are named ``NAME.q``, ``NAME.k`` and ``NAME.v``, ``[heads, tokens, head_dim]`` or with a
batch before; and in the file's metadata stands under NAME a JSON object with any of ``layer`` (a
number), ``causal``, ``sm_scale`` and ``heads`` (of the model, such as ``32/8``).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import DTYPES, TORCH_DTYPES


@dataclass(frozen=True)
class Head:
    """A KV head with its query heads.

    Attributes:
        q: ``[group, q_len, head_dim]``.
        k: ``[kv_len, head_dim]``.
        v: ``[kv_len, head_dim_v]``.
        causal: Whether the last query sees all keys, the one before all but the last …
        sm_scale: Factor on the logits.
        layer: Its number.
        heads: Query and KV heads that its layer has.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    sm_scale: float
    layer: int
    heads: tuple[int, int]


def read_heads(where: Path, max_bytes: int) -> tuple[list[Head], int]:
    """Heads of a file, some of every record, and how many were left out; nothing is executed.

    Raises:
        InputError: It cannot be read, is no such file, or a tensor cannot be used: one sentence.
    """
    if not where.exists():
        raise InputError(f"there is no file {where}.", "autoprec.capture, which writes one")
    if where.is_dir():
        raise InputError(f"{where} is a folder, not a file of captured tensors.")
    if where.stat().st_size == 0:
        raise _damaged(where, "it is empty")
    try:
        with safe_open(where, framework="pt", device="cpu") as file:
            return _heads(where, file, max_bytes)
    except (SafetensorError, OSError) as error:
        said = str(error).removeprefix("Error while deserializing header: ").rstrip(".")
        raise _damaged(where, f"it is cut off, or no safetensors at all ({said})") from None


def _damaged(path: Path, complaint: str) -> InputError:
    return InputError(
        f"{path} holds no captured tensors: {complaint}.",
        "capture again: with autoprec.capture(model, path)",
    )


def _heads(path: Path, file: Any, max_bytes: int) -> tuple[list[Head], int]:
    """As many heads as may be read, some of every record, and how many there are beside them."""
    records = _records(path, file)
    told = {name: _told(path, name, file.metadata() or {}) for name in records}
    shapes = {
        name: {x: file.get_slice(key).get_shape() for x, key in keys.items()}
        for name, keys in records.items()
    }
    for name, its in shapes.items():
        _check_shapes(path, name, its)
    sizes = {name: sum(math.prod(shape) for shape in its.values()) * 4
             for name, its in shapes.items()}  # fmt: skip
    share = max_bytes // len(records)  # of each record
    heads: list[Head] = []
    count = 0
    for name, keys in records.items():
        kv_heads = math.prod(shapes[name]["k"][:-2])
        each = sizes[name] // kv_heads
        if each > max_bytes:
            raise _damaged(path, f"a single head of {name} takes {each >> 20} MiB, and at most "
                                 f"{max_bytes >> 20} MiB are read")  # fmt: skip
        count += kv_heads
        heads += _read(path, name, file, keys, shapes[name], max(1, min(kv_heads, share // each)),
                       told[name])  # fmt: skip
    return heads, count - len(heads)


def _records(path: Path, file: Any) -> dict[str, dict[str, str]]:
    """The names of q, k and v of each record, by the record's name."""
    found: dict[str, dict[str, str]] = {}
    for key in file.keys():  # noqa: SIM118 (no mapping)
        name, _, which = f".{key}".rpartition(".")
        if which in ("q", "k", "v"):
            found.setdefault(name.removeprefix("."), {})[which] = key
    if not found:
        raise _damaged(path, "no tensor in it is called q, k or v, or NAME.q, NAME.k or NAME.v")
    for name, keys in found.items():
        missing = sorted({"q", "k", "v"} - keys.keys())
        if missing:
            raise _damaged(path, f"{name + ' lacks' if name else 'it lacks'} {missing[0]}")
    return found


def _told(path: Path, name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file says of a record."""
    try:
        told = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        told = None
    known = {"layer": int, "module": str, "causal": bool, "sm_scale": float,
             "heads": str}  # fmt: skip
    if not isinstance(told, dict) or any(type(told[key]) is not known.get(key) for key in told):
        raise _damaged(path, f"its metadata of {name} is no object of {', '.join(known)}")
    if not 0 < abs(told.get("sm_scale", 1.0)) < float("inf"):
        raise _damaged(path, f"the sm_scale of {name} is {told['sm_scale']}")
    return told


def _check_shapes(path: Path, name: str, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse ranks and sizes that are no attention."""
    label = f"{name}." if name else ""
    for which, shape in shapes.items():
        if len(shape) not in (3, 4) or 0 in shape:
            wanted = "[heads, tokens, head_dim], or with a batch before"
            raise _damaged(path, f"{label}{which} has the shape {list(shape)}, not {wanted}")
    q, k, v = (shapes[which] for which in "qkv")
    fits = (
        len(q) == len(k) == len(v) and q[:-3] == k[:-3] == v[:-3] and k[:-1] == v[:-1]
        and q[-1] == k[-1] and q[-3] % k[-3] == 0
    )  # fmt: skip
    if not fits:
        raise _damaged(path, f"{label}q {list(q)}, k {list(k)} and v {list(v)} do not fit")


def _heads_of(text: str | None, held: tuple[int, int]) -> tuple[int, int]:
    """Query and KV heads of a layer, where the file says it rightly; else those that it holds."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text or "")
    if match is None or int(match[1]) % int(match[2]):
        return held
    return int(match[1]), int(match[2])


def _read(
    path: Path, name: str, file: Any, keys: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]], most: int, told: Mapping[str, Any],
) -> Iterator[Head]:  # fmt: skip
    """Up to so many heads of a record, spread over its requests and heads."""
    requests = shapes["k"][0] if len(shapes["k"]) > 3 else None
    kv_heads = shapes["k"][-3]
    group = shapes["q"][-3] // kv_heads
    total = kv_heads * (requests or 1)
    slices = {which: file.get_slice(key) for which, key in keys.items()}
    for number in range(most):
        request, head = divmod(number * total // most, kv_heads)

        def part(which: str, first: int, count: int, request: int = request) -> Tensor:
            if requests is None:
                tensor: Tensor = slices[which][first : first + count]
            else:
                tensor = slices[which][request : request + 1, first : first + count][0]
            label = f"{name}.{which}" if name else which
            if tensor.dtype not in DTYPES:
                known = ", ".join(TORCH_DTYPES)
                raise _damaged(path, f"{label} is in {tensor.dtype}, which is none of {known}")
            if not bool(tensor.isfinite().all()):
                raise _damaged(path, f"{label} holds NaN or infinity")
            return tensor

        yield Head(
            q=part("q", head * group, group),
            k=part("k", head, 1)[0],
            v=part("v", head, 1)[0],
            causal=bool(told.get("causal", True)),
            sm_scale=float(told.get("sm_scale", shapes["k"][-1] ** -0.5)),
            layer=int(told.get("layer", 0)),
            heads=_heads_of(told.get("heads"), (kv_heads * group, kv_heads)),
        )
