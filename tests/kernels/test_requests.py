"""Requests of unequal lengths in every kernel that takes them, wherever K and V lie."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import kernel_cases
import pairwise
import pytest
import request_cases
import torch
from request_cases import Lengths

from autoprec.kernels.interface import Call, Halves, Kernel, Requests
from autoprec.types import Config, Dtype, Phase, Storage


def _rows(device: str) -> list[Kernel]:
    """Those of GPUs: what they read, and how, is the caller's to choose."""
    return [row for row in kernel_cases.rows(device) if Storage.PLANES in row.forms]


def _parameters(device: str) -> list[object]:
    return [
        pytest.param(row, case, id=request_cases.name(row, case))
        for row in kernel_cases.rows(device)
        if len(row.layouts) > 1
        for case in request_cases.cases(row, device)
    ]


@pytest.mark.parametrize(("row", "case"), _parameters("cpu"))
def test_requests(row: Kernel, case: pairwise.Case) -> None:
    request_cases.run(row, case, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize(("row", "case"), _parameters("cuda"))
def test_compiled_requests(row: Kernel, case: pairwise.Case) -> None:
    request_cases.run(row, case, "cuda")


def _case(**changes: Any) -> pairwise.Case:
    return {
        "path": "fp16x3", "input": Dtype.FP32, "out": Dtype.FP32, "storage": None,
        "memory": "page16", "order": "NHD", "q": "ragged", "heads": (3, 1), "dims": (16, 16),
        "mask": "causal", "window": None, "cap": None, "sinks": False,
    } | changes  # fmt: skip


# Tiles of 16 keys and splits of 32, so that short requests have many of both.
_CONFIG: Config = {
    "block_q": 16, "block_kv": 16, "split": 32, "num_warps": 4, "num_stages": 2,
}  # fmt: skip
_LENGTHS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100)


def _drawn(data: st.DataObject, decodes: bool) -> Lengths:
    """Requests whose pages are permuted, and may be another request's too."""
    page_size = data.draw(st.sampled_from([1, 2, 5, 16, 32, 128]), "page_size")
    most = 4 if decodes else 40
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, most), st.sampled_from(_LENGTHS)), min_size=1, max_size=3)
    )
    q_lens, kv_lens = zip(*pairs, strict=True)
    lengths = request_cases.tables_of(
        Lengths((*q_lens[:-1], max(q_lens[-1], 1)), (*kv_lens[:-1], max(kv_lens[-1], 1)),
                page_size=page_size, slack=data.draw(st.sampled_from([0, 50]), "slack")),
        data.draw(st.integers(0, 9), "seed"),
    )  # fmt: skip
    tables = list(lengths.tables)
    if data.draw(st.booleans(), "shared"):  # the last has the first pages of the first
        alike = min(len(tables[0]), len(tables[-1]))
        tables[-1] = (*tables[0][:alike], *tables[-1][alike:])
    return replace(lengths, tables=tuple(tables))


@pytest.mark.parametrize("row", _rows("cpu"), ids=lambda row: row.name)
@hypothesis.settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    phases=[hypothesis.Phase.generate],  # shrinking takes minutes in the interpreter
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_any_page_table_and_lengths(row: Kernel, data: st.DataObject) -> None:
    lengths = _drawn(data, row.phases == (Phase.DECODE,))
    case = _case(
        path=data.draw(st.sampled_from(["fp32", "fp16x3"]), "path"),
        order=data.draw(st.sampled_from(request_cases.ORDERS), "order"),
        mask=data.draw(st.sampled_from(["full", "causal"]), "mask"),
        window=data.draw(st.sampled_from([None, 0, 1, 15, 16, 33]), "window"),
        sinks=data.draw(st.booleans(), "sinks"),
    )
    guard = request_cases.guarded(case, lengths, "cpu")
    ahead: Config = {"ahead": 1} if data.draw(st.booleans(), "ahead") else {}
    request_cases.check(row, guard, case["path"], {**_CONFIG, **ahead})


# Calls that are not the one asked for: the check of the results must notice every one.


def _requests(call: Call, **changes: Any) -> Call:
    assert call.requests is not None
    return replace(call, requests=replace(call.requests, **changes))


def _longer(call: Call, by: int) -> Call:
    assert call.requests is not None
    return _requests(call, kv_lens=call.requests.kv_lens + by, max_kv_len=100)


def _exchanged(call: Call) -> Call:
    assert call.requests is not None
    assert call.requests.pages is not None
    order = [1, 0, *range(2, len(call.requests.pages))]
    return _requests(call, pages=call.requests.pages[order])


def _halves(call: Call, change: Callable[[Halves], Halves]) -> Call:
    assert call.halves is not None
    halves = change(call.halves)
    return replace(call, halves=halves, k=halves.k[0], v=halves.v[0])


def _doubled(halves: Halves) -> Halves:
    inverse = halves.inverse.clone()
    inverse[1, :, :, 3] *= 2  # of one token's values in each page
    return Halves(halves.k, halves.v, inverse)


def _without_low(halves: Halves) -> Halves:
    v = halves.v.clone()
    v[1] = 0
    return Halves(halves.k, v, halves.inverse)


_WRONG: dict[str, Callable[[Call], Call]] = {
    "a key too many": lambda call: _longer(call, 1),
    "a key too few": lambda call: _longer(call, -1),
    "two pages exchanged": _exchanged,
    "the next queries": lambda call: _requests(
        call,
        q_starts=(call.requests.q_starts + 1).clamp(max=5),  # type: ignore[union-attr]
    ),
    "a diagonal too many": lambda call: replace(call, diagonal=1),
    "a window too wide": lambda call: replace(call, window_left=21),
    "a window too narrow": lambda call: replace(call, window_left=19),
    "no window": lambda call: replace(call, window_left=None),
    "no cap": lambda call: replace(call, soft_cap=None),
    "another cap": lambda call: replace(call, soft_cap=1.51),
    "no sinks": lambda call: replace(call, sinks=None),
    "another head's sink": lambda call: replace(call, sinks=call.sinks.flip(0)),  # type: ignore[union-attr]
    "low parts of values lost": lambda call: _halves(call, _without_low),
    "a token's factor doubled": lambda call: _halves(call, _doubled),
}


@pytest.mark.parametrize("row", _rows("cpu"), ids=lambda row: row.name)
@pytest.mark.parametrize("wrong", [None, *_WRONG])
def test_a_wrong_call_is_noticed(row: Kernel, wrong: str | None) -> None:
    case = _case(storage=Storage.PLANES, window=20, cap=1.5, sinks=True)
    lengths = request_cases.tables_of(Lengths((3, 2), (50, 35), page_size=16))
    right = request_cases.guarded(case, lengths, "cpu").call
    row.run(right if wrong is None else _WRONG[wrong](right), case["path"], _CONFIG)
    if wrong is None:
        request_cases.compare(right, row, case["path"])
        return
    with pytest.raises(AssertionError):
        request_cases.compare(right, row, case["path"])


def _alone(call: Call, request: int) -> Call:
    """One request of a paged call by itself, with bounds of its own."""
    requests = call.requests
    assert requests is not None
    assert requests.q_starts is not None
    assert requests.kv_starts is not None
    first, last = requests.q_starts[request : request + 2].tolist()
    q = call.q[:, :, first:last].clone()
    kv_lens = requests.kv_lens[request : request + 1].clone()
    return replace(
        call, q=q, out=q.new_empty((*q.shape[:3], call.v.shape[3])),
        lse=q.new_empty(q.shape[:3], dtype=torch.float32),
        requests=Requests(
            kv_lens=kv_lens, kv_starts=requests.kv_starts[request : request + 1].clone(),
            pages=requests.pages, max_q_len=last - first, max_kv_len=max(1, int(kv_lens)),
            q_starts=torch.tensor([0, last - first], dtype=torch.int32, device=q.device),
        ),
    )  # fmt: skip


def _assert_consistent(row: Kernel, case: pairwise.Case, lengths: Lengths, device: str) -> None:
    """Check that every request has the same bits alone and in the batch."""
    assert row.consistent is not None
    workload = request_cases.workload(row, case, lengths)
    config = row.consistent(case["path"], workload, kernel_cases.target(row, device))
    whole = request_cases.guarded(case, lengths, device).call
    row.run(whole, case["path"], config)
    assert whole.requests is not None
    assert whole.requests.q_starts is not None
    for request in range(whole.batch):
        first, last = whole.requests.q_starts[request : request + 2].tolist()
        if first == last:
            continue
        alone = _alone(whole, request)
        row.run(alone, case["path"], config)
        for a, b in ((whole.out, alone.out), (whole.lse, alone.lse)):
            assert a is not None
            assert b is not None
            assert torch.equal(a[:, :, first:last], b)


@pytest.mark.parametrize("row", _rows("cpu"), ids=lambda row: row.name)
@pytest.mark.parametrize(("window", "storage"), [(None, None), (40, Storage.PLANES)])
def test_a_request_is_the_same_alone_and_in_a_batch(
    row: Kernel, window: int | None, storage: Storage | None
) -> None:
    case = _case(storage=storage, window=window, sinks=True)
    lengths = Lengths((1, 3, 2), (270, 3, 257), page_size=16, slack=300)
    _assert_consistent(row, case, request_cases.tables_of(lengths), "cpu")


def _random(draw: random.Random, row: Kernel, page_size: int) -> Lengths:
    """Requests as a server has them; some are empty, or have one token."""
    decodes = row.phases == (Phase.DECODE,)
    batch = draw.randint(1, 6)
    longest = draw.choice([20, 300, 3000])
    kv_lens = [draw.choice([0, 1, draw.randint(1, longest)]) for _ in range(batch - 1)]
    q_lens = [draw.randint(0, 4 if decodes else 200) for _ in range(batch - 1)]
    lengths = Lengths((*q_lens, draw.randint(1, 4)), (*kv_lens, draw.randint(1, longest)),
                      page_size=page_size, slack=draw.choice([0, 1000]))  # fmt: skip
    return request_cases.tables_of(lengths, draw.randint(0, 1 << 30))


@pytest.mark.cuda
@pytest.mark.parametrize("row", _rows("cuda"), ids=lambda row: row.name)
@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_random_paged_batches(row: Kernel, seed: int) -> None:
    """2,000 shapes a kernel, few of what kernels are compiled for."""
    draw = random.Random(seed)
    path, dtype, storage = (
        ("fp16x3", Dtype.FP32, None), ("fp16x3", Dtype.FP32, Storage.PLANES),
        ("fp16", Dtype.FP32, Storage.PLANES), ("bf16", Dtype.BF16, None),
        ("fp16", Dtype.FP16, None),
    )[seed % 5]  # fmt: skip
    page_size = (16, 1, 64, 128)[seed // 5]
    case = _case(path=path, input=dtype, storage=storage, memory=f"page{page_size}", heads=(8, 2),
                 dims=(128, 128), order=draw.choice(request_cases.ORDERS), sinks=seed % 2 == 1,
                 window=None if seed % 3 else 100)  # fmt: skip
    target = kernel_cases.target(row, "cuda")
    for _ in range(100):
        lengths = _random(draw, row, page_size)
        config = row.configs(path, request_cases.workload(row, case, lengths), target)[0]
        request_cases.check(row, request_cases.guarded(case, lengths, "cuda"), path, config)


@pytest.mark.cuda
@pytest.mark.parametrize("row", _rows("cuda"), ids=lambda row: row.name)
@pytest.mark.parametrize("path", ["fp16x3", "bf16", "tf32"])
def test_two_hundred_batches_have_the_bits_of_their_requests(row: Kernel, path: str) -> None:
    if path not in row.paths:
        pytest.skip(f"{row.name} does not run {path}")
    draw = random.Random(path)
    case = _case(path=path, heads=(8, 2), dims=(128, 128))
    for _ in range(200):
        _assert_consistent(row, case, _random(draw, row, 16), "cuda")


@pytest.mark.parametrize("row", [row for row in _rows("cpu") if row.steady], ids=lambda r: r.name)
@pytest.mark.parametrize("splits", [1, 2, 3, 7])
@pytest.mark.parametrize("memory", ["page3", "page16", "ragged"])
def test_the_grid_of_steady_lengths_grows_with_nothing(
    row: Kernel, splits: int, memory: str
) -> None:
    case = _case(memory=memory, window=20 if splits == 2 else None, sinks=splits == 3)
    size = int(memory.removeprefix("page")) if memory.startswith("page") else None
    lengths = Lengths((3, 2, 1, 0), (150, 35, 0, 16), page_size=size)
    if size is not None:
        lengths = request_cases.tables_of(lengths)
    guard = request_cases.guarded(case, lengths, "cpu")
    config = {**_CONFIG, "splits": splits}
    assert row.launches is not None
    grids = []
    for bound in (150, 1 << 30):
        call = _requests(guard.call, max_kv_len=bound)
        grids.append([launch.grid for launch in row.launches(call, case["path"], config)])
        row.run(call, case["path"], config)
        guard.assert_untouched()
        request_cases.compare(call, row, case["path"])
        assert row.workspace(call, case["path"], config) < 1 << 16
    assert grids[0] == grids[1]


@pytest.mark.parametrize("row", [row for row in _rows("cpu") if row.steady], ids=lambda r: r.name)
def test_steady_configurations_keep_the_chip_busy(row: Kernel) -> None:
    case = _case()
    workload = request_cases.workload(row, case, Lengths((1,), (50,), page_size=16))
    here = kernel_cases.target(row, "cpu")
    config = row.configs(case["path"], workload, here)[0]
    assert row.steady is not None
    steady = row.steady(config, replace(workload, batch=2), here)
    heads = 2 * workload.kv_heads
    assert here.units * 4 <= int(steady["splits"]) * heads < here.units * 4 + heads
    assert {**steady, "splits": 0, "split": 0} == {**config, "splits": 0, "split": 0}
