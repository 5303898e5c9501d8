"""Which item of Hopper's prefill kernel is which block of queries: its own code, run as Python.

And on a GPU, where there is one.
"""

import random
from itertools import groupby
from types import FunctionType, SimpleNamespace
from typing import Any

import kernel_cases
import pytest
import request_cases
import torch

from autoprec import registry
from autoprec.kernels import prefill_hopper
from autoprec.kernels.hopper import items
from autoprec.types import Dtype

ROWS = 128  # queries of a block: GROUPS = 2
ENDLESS = 1 << 30  # keys that fit the cache, more than there are


class _Memory:
    """Numbers of a tensor on the device, and an address among them."""

    def __init__(self, numbers: list[int] | torch.Tensor, at: Any = 0) -> None:
        self.numbers, self.at = torch.as_tensor(numbers), at

    def __add__(self, more: Any) -> "_Memory":
        return _Memory(self.numbers, self.at + more)


def _load(address: _Memory, mask: Any = None, other: int = 0) -> Any:
    """What lies there; an IndexError where nothing does."""
    if mask is None:
        assert address.at >= 0
        return int(address.numbers[address.at])
    read = address.numbers[torch.where(mask, address.at, 0)]
    return torch.where(mask, read, other)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, bool):
        return a if condition else b
    return torch.where(condition, a, b)


_LANGUAGE = SimpleNamespace(
    BlockedLayout=lambda *_: None, num_warps=lambda: 4, int32=torch.int32, load=_load, where=_where,
    arange=lambda first, end, layout: torch.arange(first, end),
    sum=lambda x, axis: int(x.sum(axis)), associative_scan=lambda x, axis, _: x.cumsum(axis),
    cdiv=lambda a, b: (a + b - 1) // b, minimum=min, maximum=max,
)  # fmt: skip
_NAMES: dict[str, Any] = {"gl": _LANGUAGE}
for _name, _jit in vars(items).items():
    if hasattr(_jit, "fn"):
        _NAMES[_name] = FunctionType(_jit.fn.__code__, _NAMES)


def _form(**changes: bool) -> SimpleNamespace:
    usual = {"CAUSAL": True, "WINDOW": False, "LENGTHS": True, "RAGGED_Q": True}
    return SimpleNamespace(GROUPS=ROWS // 64, BLOCK_KV=64, **usual | changes)


def _placed(
    q_lens: list[int], kv_lens: list[int], heads: tuple[int, int], *, fitting: int = ENDLESS,
    causal: bool = True,
) -> list[tuple[int, ...]]:  # fmt: skip
    """Every item of ragged requests, in order: what ``place`` says of it."""
    starts = _Memory([sum(q_lens[:i]) for i in range(len(q_lens) + 1)])
    requests = (_Memory(kv_lens), starts, heads[1], fitting)
    sizes = (None, None, None, None, heads[0], None, max(kv_lens), 0, len(q_lens), None)
    form = _form(CAUSAL=causal)
    assert _NAMES["count_items"](0, sizes, requests, form) == 0
    many = _NAMES["count_items"](1, sizes, requests, form)
    return [_NAMES["place"](item, sizes, requests, form) for item in range(int(many))]


def _lens(batch: int) -> tuple[list[int], list[int]]:
    """Numbers of queries and keys; some are 0 or 1, and so are all of a run that is a chunk."""
    draw = random.Random(batch)
    q_lens = [draw.choice([0, 1, ROWS, draw.randint(1, 600)]) for _ in range(batch)]
    if batch > 256:
        q_lens[120:260] = [0] * 140
    return q_lens, [draw.choice([0, 1, draw.randint(1, 900)]) for _ in range(batch)]


@pytest.mark.parametrize("batch", [1, 2, 5, 127, 128, 129, 256, 300])
@pytest.mark.parametrize(("heads", "fitting"), [
    ((4, 2), ENDLESS), ((4, 2), 0), ((10, 5), 700), ((3, 3), 700), ((1, 1), 100),
])  # fmt: skip
def test_every_block_of_ragged_requests_once(
    batch: int, heads: tuple[int, int], fitting: int
) -> None:
    q_lens, kv_lens = _lens(batch)
    placed = _placed(q_lens, kv_lens, heads, fitting=fitting)
    assert sorted((it[2], it[3], it[0]) for it in placed) == [
        (request, head, first)
        for request, q_len in enumerate(q_lens)
        for head in range(heads[0])
        for first in range(0, q_len, ROWS)
    ]
    assert [it[2] for it in placed] == sorted(it[2] for it in placed)
    for first, rows, request, _, tiles, q_row, q_first, kv_len, diagonal, first_key in placed:
        seen = min(kv_lens[request], first + ROWS + kv_len - rows)
        assert (rows, kv_len) == (q_lens[request], kv_lens[request])
        assert (q_row, q_first, first_key) == (0, sum(q_lens[:request]), 0)
        assert diagonal == kv_len - rows
        assert tiles == max(1, -(-seen // 64))


def test_no_queries_at_all() -> None:
    assert _placed([0] * 130, [5] * 130, (4, 2)) == []


@pytest.mark.parametrize(("heads", "fitting", "sections"), [
    ((10, 5), 5000, [range(10)]),
    ((10, 5), 4999, [range(6), range(6, 10)]),  # as even as KV heads can be
    ((10, 5), 2000, [range(4), range(4, 8), range(8, 10)]),
    ((32, 8), 4100, [range(16), range(16, 32)]),
    ((4, 2), 999, [range(2), range(2, 4)]),  # a head that does not fit has no other beside it
    ((3, 1), 0, [range(3)]),
])  # fmt: skip
@pytest.mark.parametrize("causal", [True, False])
def test_sections_of_heads(
    heads: tuple[int, int], fitting: int, sections: list[range], causal: bool
) -> None:
    """Of 1000 keys; a request of few has one section. In each the longest block comes first."""
    placed = _placed([1000, 200], [1000, 50], heads, fitting=fitting, causal=causal)
    blocks = sorted(range(0, 1000, ROWS), reverse=causal)
    long = [(first, head) for section in sections for first in blocks for head in section]
    assert [(it[0], it[3]) for it in placed if it[2] == 0] == long
    if fitting >= 50 * heads[1]:
        short = [head for head, _ in groupby(it[3] for it in placed if it[2] == 1)]
        assert short == [*range(heads[0])] * 2


@pytest.mark.parametrize(("batch", "section"), [(1, 1), (3, 5), (2, 8), (2, 3)])
def test_every_block_of_requests_alike_once(batch: int, section: int) -> None:
    q_len, kv_len, q_heads = 300, 500, 4
    heads = batch * q_heads
    blocks, sections = -(-q_len // ROWS), -(-heads // section)
    sizes = (blocks, section, sections, heads, q_heads, q_len, kv_len, 200, batch, None)
    form = _form(LENGTHS=False, RAGGED_Q=False)
    every = range(blocks * section * sections)
    placed = [_NAMES["place"](item, sizes, (None, None, 2, 0), form) for item in every]
    real = [it for it in placed if it[1]]
    assert sorted((it[2], it[3], it[0]) for it in real) == [
        (request, head, first)
        for request in range(batch)
        for head in range(q_heads)
        for first in range(0, q_len, ROWS)
    ]
    assert {(it[1], it[7], it[8]) for it in real} == {(q_len, kv_len, 200)}


@pytest.mark.cuda
@pytest.mark.parametrize("batch", [130, 300])
@pytest.mark.parametrize("mask", ["causal", "full"])
def test_many_ragged_requests(batch: int, mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_hopper, "_L2_BYTES", 700 * 256)  # 256 bytes for a key and its value
    row = registry.kernel("hopper-prefill")
    case = {
        "path": "bf16", "input": Dtype.BF16, "out": Dtype.FP32, "storage": None, "mask": mask,
        "memory": "ragged", "order": "HND", "q": "ragged", "heads": (10, 5), "dims": (64, 64),
        "window": None, "cap": None, "sinks": False,
    }  # fmt: skip
    q_lens, kv_lens = _lens(batch)
    lengths = request_cases.Lengths(tuple(q_lens), tuple(kv_lens))
    target = kernel_cases.target(row, "cuda")
    for config in row.configs("bf16", request_cases.workload(row, case, lengths), target):
        request_cases.check(row, request_cases.guarded(case, lengths, "cuda"), "bf16", config)
