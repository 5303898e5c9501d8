"""What Hopper's prefill kernel is launched with; nothing runs."""

from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch

from autoprec import registry
from autoprec.kernels.interface import DTYPES, Call, Launch, Requests
from autoprec.types import Config, Layout

ROW = registry.kernel("hopper-prefill")
CONFIG: Config = {"block_q": 128, "block_kv": 64, "num_stages": 2}
HEADS, DIM, QUERIES = (4, 2), 64, 5


def _ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _call(k: torch.Tensor, requests: Requests, dtype: torch.dtype, **changes: Any) -> Call:
    q = torch.zeros(1, HEADS[0], QUERIES, DIM, dtype=dtype)
    usual = {"lse": None, "diagonal": 0, "sm_scale": 0.125, "requests": requests}
    return Call(q=q, k=k, v=k.clone(), out=q.float(), **usual | changes)


def _paged(page: int, lens: tuple[int, ...] = (40,)) -> tuple[Requests, tuple[int, ...]]:
    """Requests of pages, and the shape of K."""
    counts = [-(-n // page) for n in lens]
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    requests = Requests(
        kv_lens=_ints(*lens), kv_starts=_ints(*starts), pages=_ints(*range(sum(counts))),
        max_q_len=QUERIES, max_kv_len=max(*lens, 1),
    )  # fmt: skip
    return requests, (sum(counts), HEADS[1], page, DIM)


def _launched(call: Call, path: str) -> list[Launch]:
    assert ROW.launches is not None
    return ROW.launches(call, path, CONFIG)


@pytest.mark.parametrize(
    ("path", "inputs", "held", "page", "passes"),
    [
        ("bf16", torch.bfloat16, torch.bfloat16, 16, False),
        ("bf16", torch.float32, torch.bfloat16, 16, False),
        ("bf16p2", torch.bfloat16, torch.bfloat16, 16, False),
        ("bf16", torch.bfloat16, torch.bfloat16, 3, True),
        ("bf16", torch.float32, torch.float32, 16, True),
        ("fp16x3", torch.float32, torch.float16, 16, True),
        ("bf16x3", torch.float32, torch.bfloat16, 16, True),
    ],
)
def test_what_is_brought_as_it_lies(
    path: str, inputs: torch.dtype, held: torch.dtype, page: int, passes: bool
) -> None:
    """A second part is read from planes, where it is: beside a page there is only the page."""
    requests, shape = _paged(page)
    launches = _launched(_call(torch.zeros(shape, dtype=held), requests, inputs), path)
    assert (len(launches) == 2) == passes
    assert launches[-1].arguments["PAGE"] == (0 if passes else page)


@pytest.mark.parametrize(
    ("path", "dtype", "page", "dim"),
    [
        ("bf16", torch.bfloat16, 16, 64),
        ("fp16p2", torch.float16, 1024, 64),
        ("bf16", torch.bfloat16, 16, 72),
        ("bf16", torch.bfloat16, 48, 64),
        ("bf16", torch.bfloat16, 16, 100),
        ("bf16", torch.float16, 16, 64),
        ("fp16", torch.float32, 16, 64),
        ("fp16x3", torch.float32, 16, 64),
    ],
)
def test_what_it_says_of_pages_is_what_it_launches(
    path: str, dtype: torch.dtype, page: int, dim: int
) -> None:
    requests, shape = _paged(page)
    k = torch.zeros(*shape[:3], dim, dtype=dtype)
    q = torch.zeros(1, HEADS[0], QUERIES, dim, dtype=dtype)
    launches = _launched(replace(_call(k, requests, dtype), q=q, out=q.float()), path)
    workload = made_up.workload(
        phase="append", q_len=QUERIES, kv_len=40, head_dim=dim, input_dtype=DTYPES[dtype],
        layout=Layout.PAGED, page_size=page,
    )  # fmt: skip
    assert ROW.gathers(path, workload) == (len(launches) == 2)


def test_only_pages_are_brought_together_and_by_this_kernel_alone() -> None:
    workload = made_up.workload(layout=Layout.PAGED, page_size=16)
    gathering = [row.name for row in registry.kernels() if row.gathers("fp16x3", workload)]
    assert gathering == ["hopper-prefill"]
    for layout in (Layout.CONTIGUOUS, Layout.RAGGED):
        assert not ROW.gathers("fp16x3", made_up.workload(layout=layout))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_requests_without_any_keys(dtype: torch.dtype) -> None:
    path = "bf16" if dtype == torch.bfloat16 else "fp16x3"
    ragged = Requests(
        kv_lens=_ints(0), kv_starts=_ints(0, 0), max_q_len=QUERIES, max_kv_len=1,
    )  # fmt: skip
    for k, requests in (
        (torch.zeros(1, HEADS[1], 0, DIM, dtype=dtype), ragged),
        (torch.zeros(0, HEADS[1], 16, DIM, dtype=dtype), _paged(16, (0,))[0]),
        (torch.zeros(3, HEADS[1], 1, DIM, dtype=dtype), _paged(1, (0,))[0]),
    ):
        launches = _launched(_call(k, requests, dtype), path)
        assert all(launch.grid[0] > 0 for launch in launches)
        assert launches[-1].arguments["k_desc"].shape[2] > 0


@pytest.mark.parametrize("name", ["hopper-prefill", "triton-prefill"])
def test_windows_wider_than_any_request(name: str) -> None:
    row = registry.kernel(name)
    assert row.launches is not None
    requests, shape = _paged(16)
    call = _call(torch.zeros(shape, dtype=torch.bfloat16), requests, torch.bfloat16)
    config = {**CONFIG, "num_warps": 4} if name == "triton-prefill" else CONFIG
    for window in (100, 1 << 30, (1 << 31) - 1, 1 << 40):
        launch = row.launches(replace(call, window_left=window), "bf16", config)[-1]
        assert launch.arguments["window_left"] == min(window, 1 << 30)


def test_ragged_queries_have_a_counter_of_their_own() -> None:
    """How many blocks of queries there are is known on the device alone."""
    requests, shape = _paged(16)
    requests = replace(requests, q_starts=_ints(0, QUERIES))
    (launch,) = _launched(
        _call(torch.zeros(shape, dtype=torch.bfloat16), requests, torch.bfloat16), "bf16"
    )
    assert launch.zeroed == ("NEXT",)
    assert int(launch.arguments["NEXT"]) == 0
