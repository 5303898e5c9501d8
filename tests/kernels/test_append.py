"""New tokens into a cache: every form of it, wherever its tokens lie, and nothing else touched."""

from dataclasses import replace

import pytest
import request_cases
import torch
from torch import Tensor

from autoprec.kernels.interface import Halves, Requests, run_launches
from autoprec.kernels.kv_cache import append

KV_LENS = (5, 0, 37, 16)  # with the new tokens
NEW = (2, 0, 17, 1)
HEADS, DIM, DIM_V = 2, 24, 40


def _ints(numbers: list[int] | tuple[int, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _starts(counts: tuple[int, ...]) -> Tensor:
    return _ints([sum(counts[:i]) for i in range(len(counts) + 1)])


def _requests(memory: str) -> tuple[Requests, int, int]:
    """Where the requests lie, and the rows and tokens of the cache."""
    lens, starts, longest = _ints(KV_LENS), _starts(NEW), max(KV_LENS)
    requests = Requests(kv_lens=lens, q_starts=starts, max_q_len=20, max_kv_len=longest)
    if memory == "contiguous":
        return requests, len(KV_LENS), longest
    if memory == "ragged":
        return replace(requests, kv_starts=_starts(KV_LENS)), 1, sum(KV_LENS)
    lengths = request_cases.tables_of(request_cases.Lengths(NEW, KV_LENS, page_size=8))
    pages = [page for table in lengths.tables for page in table]
    counts = tuple(len(table) for table in lengths.tables)
    return replace(requests, kv_starts=_starts(counts), pages=_ints(pages)), max(pages) + 1, 8


def _place(requests: Requests, request: int, token: int, page_size: int) -> tuple[int, int]:
    if requests.pages is not None:
        assert requests.kv_starts is not None
        page = requests.pages[int(requests.kv_starts[request]) + token // page_size]
        return int(page), token % page_size
    if requests.kv_starts is not None:
        return 0, int(requests.kv_starts[request]) + token
    return request, token


def _expected(cache: Tensor, x: Tensor, requests: Requests, page_size: int) -> Tensor:
    """The cache with the tokens of x ``[..., 1, heads, total, dim]`` put in one by one."""
    want, source = cache.clone(), 0
    for request, (kv_len, new) in enumerate(zip(KV_LENS, NEW, strict=True)):
        for token in range(kv_len - new, kv_len):
            row, place = _place(requests, request, token, page_size)
            want[..., row, :, place, :] = x[..., 0, :, source, :].to(cache.dtype)
            source += 1
    return want


def _new(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    total = sum(NEW)
    sizes = torch.logspace(-6, 6, total)[:, None]  # tokens of all sizes; bf16 has fp32's range
    if dtype == torch.float16:
        sizes = sizes.clamp(1e-2, 1e2)
    k, v = (torch.randn((1, HEADS, total, dim), generator=draw) * sizes for dim in (DIM, DIM_V))
    v[0, 1, 3] = 0.0
    return k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("memory", ["contiguous", "ragged", "paged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_come_to_their_places(memory: str, dtype: torch.dtype, stored: torch.dtype) -> None:
    requests, rows, tokens = _requests(memory)
    k, v = _new(dtype)
    if stored == torch.float16:
        k, v = k.clamp(-6e4, 6e4), v.clamp(-6e4, 6e4)
    caches = [torch.full((rows, HEADS, tokens, d), 7.0, dtype=stored) for d in (DIM, DIM_V)]
    want = [_expected(c, x, requests, tokens) for c, x in zip(caches, (k, v), strict=True)]
    run_launches([append(k, v, caches[0], caches[1], requests)])
    assert torch.equal(caches[0], want[0])
    assert torch.equal(caches[1], want[1])


@pytest.mark.parametrize("memory", ["contiguous", "ragged", "paged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_planes_hold_what_they_should(memory: str, dtype: torch.dtype) -> None:
    requests, rows, tokens = _requests(memory)
    k, v = _new(dtype)
    cache = Halves(
        *(torch.full((2, rows, HEADS, tokens, d), 7.0, dtype=torch.float16) for d in (DIM, DIM_V)),
        torch.full((2, rows, HEADS, tokens), 0.5),
    )
    made = request_cases.halves_of(k, v)
    want = [
        _expected(cache.k, made.k, requests, tokens),
        _expected(cache.v, made.v, requests, tokens),
    ]
    factors = _expected(cache.inverse[..., None], made.inverse[..., None], requests, tokens)
    lost = torch.zeros(1, dtype=torch.int32)
    run_launches(
        [append(k, v, cache.k[0], cache.v[0], requests, halves=cache, lost=lost)]
    )  # fmt: skip
    assert torch.equal(cache.k, want[0])
    assert torch.equal(cache.v, want[1])
    assert torch.equal(cache.inverse, factors[..., 0])
    assert lost == 0
    held = (made.k.double().sum(0) * made.inverse[0].double()[..., None] - k.double()).abs()
    # half a unit in the 22nd bit of the largest element of each token, or of the element itself
    assert (held <= 2.0**-23 * k.double().abs() + 2.0**-39 * k.double().abs().amax(-1, True)).all()


def test_owners_and_positions_place_every_token() -> None:
    requests, rows, tokens = _requests("paged")
    k, v = _new(torch.float32)
    caches = [torch.full((rows, HEADS, tokens, d), 7.0) for d in (DIM, DIM_V)]
    want = [_expected(c, x, requests, tokens) for c, x in zip(caches, (k, v), strict=True)]
    owners = _ints([r for r, new in enumerate(NEW) for _ in range(new)] + [-1])
    positions = _ints(
        [t for kv_len, new in zip(KV_LENS, NEW, strict=True) for t in range(kv_len - new, kv_len)]
        + [3]
    )
    k, v = (torch.cat([x, torch.full_like(x[:, :, :1], 9.0)], 2) for x in (k, v))
    run_launches(
        [append(k, v, *caches, requests, owners=owners, positions=positions)]
    )  # fmt: skip
    assert torch.equal(caches[0], want[0])
    assert torch.equal(caches[1], want[1])


def test_what_fp16_cannot_hold_is_counted() -> None:
    requests = Requests(kv_lens=_ints([3]), max_q_len=3, max_kv_len=3)
    k = torch.ones((1, 1, 3, 16))
    k[0, 0, 0, 2], k[0, 0, 1, 3] = 1e6, 1e-12
    cache = [torch.zeros((1, 1, 3, 16), dtype=torch.float16) for _ in range(2)]
    lost = torch.zeros(1, dtype=torch.int32)
    run_launches([append(k, torch.ones_like(k), *cache, requests, lost=lost)])
    assert lost == 2
    halves = request_cases.halves_of(torch.zeros_like(k), torch.zeros_like(k))
    lost.zero_()
    k[0, 0, 2, 0] = 1e-13  # 2^-43 of its token's largest
    run_launches(
        [
            append(
                k, torch.ones_like(k), halves.k[0], halves.v[0], requests, halves=halves, lost=lost
            )
        ]
    )
    assert lost == 2  # 1e-12 and 1e-13 beside 1; 1 beside 1e6 is held


def test_nothing_beyond_the_capacity_is_written() -> None:
    requests = Requests(kv_lens=_ints([5]), max_q_len=3, max_kv_len=4)
    cache = [torch.zeros((1, 1, 4, 16)) for _ in range(2)]
    room = [torch.zeros((1, 1, 8, 16)) for _ in range(2)]
    cache = [x[:, :, :4] for x in room]
    new = torch.ones((1, 1, 3, 16))
    run_launches([append(new, new, *cache, requests)])
    for x in room:
        assert (x[:, :, 2:4] == 1).all()
        assert (x[:, :, 4:] == 0).all()
