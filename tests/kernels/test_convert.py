"""Keys and values brought into parts: wherever they lie, each token of a request is there."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoprec.kernels.interface import Requests, run_launches
from autoprec.kernels.planes import convert

_LENS, _HEADS, _DIM, _LONGEST, _PAGE, _BLOCK = (0, 1, 37, 21), 2, 20, 40, 8, 16
_ROOM = 64  # tokens that each request has room for


def _int32(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _tokens() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(_HEADS, n, _DIM, generator=draw) * 3 for n in _LENS]


def _contiguous() -> tuple[Tensor, Requests]:
    x = torch.full((len(_LENS), _HEADS, _ROOM, _DIM), torch.nan)
    for row, tokens in zip(x, _tokens(), strict=True):
        row[:, : tokens.shape[1]] = tokens
    return x, Requests(kv_lens=_int32(*_LENS), max_q_len=1, max_kv_len=_LONGEST)


def _ragged() -> tuple[Tensor, Requests]:
    x = torch.cat([*_tokens(), torch.full((_HEADS, 5, _DIM), torch.nan)], 1)[None]
    starts = _int32(*(sum(_LENS[:i]) for i in range(len(_LENS))))
    return x, Requests(kv_lens=_int32(*_LENS), kv_starts=starts, max_q_len=1, max_kv_len=_LONGEST)


def _paged() -> tuple[Tensor, Requests]:
    each = _ROOM // _PAGE
    many = each * len(_LENS)
    pages = torch.randperm(many, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    x = torch.full((many, _HEADS, _PAGE, _DIM), torch.nan)
    for request, tokens in enumerate(_tokens()):
        for t in range(tokens.shape[1]):
            x[pages[request * each + t // _PAGE], :, t % _PAGE] = tokens[:, t]
    starts = _int32(*range(0, many, each))
    return x, Requests(kv_lens=_int32(*_LENS), kv_starts=starts, pages=pages, max_q_len=1,
                       max_kv_len=_LONGEST)  # fmt: skip


_LAYOUTS = {"contiguous": _contiguous, "ragged": _ragged, "paged": _paged}


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("path", ["fp16x3", "bf16x3", "bf16"])
@pytest.mark.parametrize("longest", [_LONGEST, _ROOM + 1])
def test_tokens_of_requests(layout: str, path: str, longest: int) -> None:
    x, requests = _LAYOUTS[layout]()
    if layout != "contiguous":
        requests = replace(requests, max_kv_len=longest)
    made = convert(x, x.flip(3), path, _BLOCK, dim_multiple=8, requests=requests)
    run_launches(made.launches)
    bits = {"fp16x3": 21, "bf16x3": 15, "bf16": 8}[path]
    for i, tokens in enumerate(_tokens()):
        for planes, want in ((made.k, tokens), (made.v, tokens.flip(2))):
            data = planes.data.double().sum(0)
            row, first = (i, 0) if data.shape[0] == len(_LENS) else (0, _first(requests, i))
            got = data[row, :, first : first + _LENS[i], :_DIM]
            if planes.inverse is not None:
                lost = planes.inverse[i].repeat_interleave(_BLOCK, 1)[:, : _LENS[i], None]
                got = got * lost
            assert ((got - want).abs() <= want.abs() * 2.0**-bits).all()


def _first(requests: Requests, request: int) -> int:
    assert requests.kv_starts is not None
    return int(requests.kv_starts[request]) * (1 if requests.pages is None else _PAGE)


@pytest.mark.parametrize(
    ("layout", "longest", "rows", "room"),
    [
        ("contiguous", _LONGEST, 4, _LONGEST),
        ("paged", _LONGEST, 4, _LONGEST),
        ("paged", _ROOM + 1, 1, 4 * _ROOM),
        ("ragged", _LONGEST, 1, sum(_LENS) + 5),
    ],
)
def test_room_of_planes(layout: str, longest: int, rows: int, room: int) -> None:
    """A cache may have room for far more than a batch fills, and a batch one long request."""
    x, requests = _LAYOUTS[layout]()
    made = convert(x, x, "fp16x3", _BLOCK, requests=replace(requests, max_kv_len=longest))
    assert made.k.data.shape == (2, rows, _HEADS, room, _DIM)
