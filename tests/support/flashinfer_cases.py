"""Requests over paged and ragged keys, drawn for tests of ``autoprec.flashinfer``."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNIT = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@dataclass
class Case:
    """Requests, and what is asked of them.

    Attributes:
        kv_lens: Keys of each request; shared: its first pages are those of request 0.
        form: ``NHD`` or ``HND``, and ``tuple`` or ``whole``.
    """

    kv_lens: list[int]
    q_lens: list[int]
    heads: tuple[int, int]
    dims: tuple[int, int]
    page_size: int
    form: str
    dtype: torch.dtype
    out_dtype: torch.dtype
    window_left: int
    soft_cap: float | None
    causal: bool
    wide: bool
    seed: int
    device: str = "cpu"

    @property
    def layout(self) -> str:
        return self.form[:3]

    @property
    def meaning(self) -> dict[str, Any]:
        return {"window_left": self.window_left, "logits_soft_cap": self.soft_cap}

    def draw(self, *shape: int, number: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(100 * number + self.seed)
        return torch.randn(*shape, generator=generator).to(self.dtype).to(self.device)

    def queries(self) -> Tensor:
        return self.draw(sum(self.q_lens), self.heads[0], self.dims[0])

    def starts(self, lengths: list[int]) -> Tensor:
        starts = torch.tensor([0, *lengths]).cumsum(0)
        return (starts if self.wide else starts.int()).to(self.device)


@dataclass
class Pages:
    """A page table and the cache it is of; slots that no request has hold NaN."""

    indptr: Tensor
    indices: Tensor
    last: Tensor
    cache: Any
    keys: list[Tensor]  # [kv_len, kv_heads, head_dim]
    values: list[Tensor]


def pages(case: Case) -> Pages:
    """Pages in any order, those of a prefix shared where two requests have a whole one."""
    size = case.page_size
    counts = [-(-length // size) for length in case.kv_lens]
    order = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(case.seed))
    indices = order[: sum(counts)]
    first = 0
    for i, n in enumerate(counts):
        if i and min(case.kv_lens[0], case.kv_lens[i]) >= size and case.seed % 2:
            indices[first] = indices[0]  # both see the whole of their first page
        first += n
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    shape = (len(order), size, case.heads[1])
    whole = [torch.full((*shape, dim), math.nan, dtype=case.dtype, device=case.device)
             for dim in case.dims]  # fmt: skip
    keys, values = [], []
    for b, length in enumerate(case.kv_lens):
        for t in range(length):
            page, slot = int(indices[starts[b] + t // size]), t % size
            for x in whole:
                if bool(x[page, slot].isnan().any()):
                    number = 1000 * b + 2 * t + (x is whole[1]) + 1
                    x[page, slot] = case.draw(case.heads[1], x.shape[3], number=number)
    for b, length in enumerate(case.kv_lens):
        places = [(int(indices[starts[b] + t // size]), t % size) for t in range(length)]
        for x, found in zip(whole, (keys, values), strict=True):
            rows = [x[place] for place in places]
            found.append(torch.stack(rows) if rows else x[:0, 0])
    if case.layout == "HND":
        whole = [x.transpose(1, 2).contiguous() for x in whole]
    cache: Any = tuple(whole)
    if case.form.endswith("whole"):
        cache = torch.stack(whole, 1)
    last = [n - size * max(0, c - 1) for n, c in zip(case.kv_lens, counts, strict=True)]
    indptr = torch.tensor(starts)
    kind = torch.int64 if case.wide else torch.int32
    return Pages(
        indptr.to(kind).to(case.device), indices.to(kind).to(case.device),
        torch.tensor(last, dtype=kind, device=case.device), cache, keys, values,
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn, *, longest: int = 20, decode: bool = False, most: int = 4) -> Case:
    """Cases of a few requests; decode: with as many queries each, no more than 3."""
    batch = draw(st.integers(0, most))
    page_size = draw(st.sampled_from((1, 2, 3, 8, 16)))
    lengths = st.one_of(st.integers(0, longest), st.sampled_from((0, 1, page_size, page_size + 1)))
    kv_lens = draw(st.lists(lengths, min_size=batch, max_size=batch))
    if decode:
        q_lens = [draw(st.integers(1, 3))] * batch
    else:
        q_lens = draw(st.lists(st.integers(0, 7), min_size=batch, max_size=batch))
    form = draw(st.sampled_from(("NHD tuple", "HND tuple", "NHD whole", "HND whole")))
    dims = draw(st.sampled_from(((8, 8), (16, 16)) + (((8, 16),) if "tuple" in form else ())))
    if decode:
        dims = (dims[0], dims[0])
    return Case(
        kv_lens=kv_lens, q_lens=q_lens, heads=draw(st.sampled_from(((2, 2), (4, 2), (3, 1)))),
        dims=dims, page_size=page_size, form=form,
        dtype=DTYPES[draw(st.sampled_from(sorted(DTYPES)))],
        out_dtype=DTYPES[draw(st.sampled_from(sorted(DTYPES)))],
        window_left=draw(st.sampled_from((-1, -1, 0, 1, 5))),
        soft_cap=draw(st.sampled_from((None, None, 0.0, 2.0))), causal=draw(st.booleans()),
        wide=draw(st.booleans()), seed=draw(st.integers(0, 9)),
    )  # fmt: skip


def check(got: Tensor, want: Tensor, tolerance: float = 0.0) -> None:
    """Compare an output with the oracle's: one rounding to its type, and the tolerance."""
    unit = UNIT[got.dtype]
    torch.testing.assert_close(
        got.double(), want, rtol=unit + tolerance, atol=unit * 2.0**-8 + tolerance
    )
