"""Page tables and what is appended through them, against loops over tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoprec import flashinfer
from autoprec.errors import InputError, UnsupportedError
from autoprec.flashinfer.page import unpack
from autoprec.kernels.interface import run_launches
from autoprec.plan import cpu_append

few = settings(max_examples=30, deadline=None)
lengths = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=0, max_size=4)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def table(kv_lens: list[int], page_size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, int]:
    """indptr, permuted page numbers and last page lengths of requests; and the pages there are."""
    counts = [-(-length // page_size) for length in kv_lens]
    indptr = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    pages = sum(counts) + 2
    indices = torch.randperm(pages, generator=torch.Generator().manual_seed(seed))[: sum(counts)]
    last = [length - page_size * max(0, n - 1) for length, n in zip(kv_lens, counts, strict=True)]
    return indptr, indices.int(), torch.tensor(last, dtype=torch.int32), pages


def caches(pages: int, page_size: int, heads: int, dims: tuple[int, int], form: str,
           dtype: torch.dtype, device: str = "cpu"):  # fmt: skip
    """A cache full of NaN in one of FlashInfer's forms, and its layout."""
    layout = form[:3]
    shape = (page_size, heads) if layout == "NHD" else (heads, page_size)
    if form.endswith("tuple"):
        return tuple(
            torch.full((pages, *shape, dim), torch.nan, dtype=dtype, device=device) for dim in dims
        ), layout
    whole = torch.full((pages, 2, *shape, dims[0]), torch.nan, dtype=dtype, device=device)
    return whole, layout


@few
@given(kv_lens=st.lists(st.integers(0, 40), max_size=5), page_size=st.integers(1, 9),
       wide=st.booleans())  # fmt: skip
def test_lengths_are_those_of_the_table(kv_lens: list[int], page_size: int, wide: bool) -> None:
    indptr, _, last, _ = table(kv_lens, page_size)
    got = flashinfer.get_seq_lens(indptr.long() if wide else indptr, last, page_size)
    assert got.tolist() == kv_lens


@few
@given(lengths=lengths, spare=st.integers(0, 3), wide=st.booleans(), given=st.booleans())
def test_requests_and_places_of_new_tokens(
    lengths: list[tuple[int, int]], spare: int, wide: bool, given: bool
) -> None:
    new, old = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    indptr = torch.tensor([0, *new], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    seq_lens = torch.tensor([a + b for a, b in lengths], dtype=torch.int32)
    nnz = sum(new) + spare
    outs = [torch.full((nnz,), 7, dtype=torch.int32) for _ in range(2)] if given else []
    requests, places = flashinfer.get_batch_indices_positions(
        indptr.long() if wide else indptr, seq_lens, nnz, *outs
    )
    assert requests.dtype == places.dtype == torch.int32
    assert requests.tolist() == [b for b, n in enumerate(new) for _ in range(n)] + [-1] * spare
    want = [o + i for n, o in zip(new, old, strict=True) for i in range(n)] + [0] * spare
    assert places.tolist() == want
    if given:
        assert requests is outs[0]
        assert places is outs[1]


def _launched(*tensors: Any, **options: Any) -> None:
    """The kernel, where torch would do: both take the same arguments."""
    from autoprec.kernels.kv_cache import append

    run_launches([append(*tensors, **options)])


@pytest.mark.parametrize("device", DEVICES)
@few
@given(
    lengths=lengths.filter(lambda pairs: sum(new for new, _ in pairs) > 0),
    page_size=st.sampled_from((1, 2, 5, 16)),
    form=st.sampled_from(("NHD tuple", "HND tuple", "NHD whole", "HND whole")),
    dtypes=st.sampled_from((("float32", "float32"), ("float32", "float16"), ("bfloat16",) * 2)),
    heads=st.sampled_from((1, 3)),
    triton=st.booleans(),
)
def test_append(
    device: str, lengths: list[tuple[int, int]], page_size: int, form: str,
    dtypes: tuple[str, str], heads: int, triton: bool,
) -> None:  # fmt: skip
    new, old = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    kv_lens = [a + b for a, b in lengths]
    indptr, indices, last, pages = (
        x.to(device) if isinstance(x, Tensor) else x for x in table(kv_lens, page_size)
    )
    dims = (8, 12) if form.endswith("tuple") else (8, 8)
    given_dtype, dtype = (getattr(torch, name) for name in dtypes)
    cache, layout = caches(pages, page_size, heads, dims, form, dtype, device)
    k, v = (torch.randn(sum(new) + 1, heads, dim, device=device).to(given_dtype) for dim in dims)
    starts = torch.tensor([0, *new], dtype=torch.int32, device=device).cumsum(0)
    requests, places = flashinfer.get_batch_indices_positions(
        starts, flashinfer.get_seq_lens(indptr, last, page_size), len(k)
    )
    k_pages, v_pages = unpack(cache, layout)
    with pytest.MonkeyPatch.context() as patch:
        if triton and device == "cpu":
            patch.setattr(cpu_append, "append", _launched)
        flashinfer.append_paged_kv_cache(
            k, v, requests, places, cache, indices, indptr, last, kv_layout=layout
        )
    row = 0
    want = [torch.full_like(pages, torch.nan) for pages in (k_pages, v_pages)]
    for b, n in enumerate(new):
        for i in range(n):
            at = old[b] + i
            page, slot = int(indices[int(indptr[b]) + at // page_size]), at % page_size
            for x, pages_of in zip((k, v), want, strict=True):
                pages_of[page, :, slot] = x[row].to(dtype)
            row += 1
    for got, expected in zip((k_pages, v_pages), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_a_page_of_one_key_may_lack_its_dimension(layout: str) -> None:
    cache = torch.randn(6, 2, 3, 8)
    for form in (cache, tuple(cache.unbind(1))):
        k, v = unpack(form, layout)
        assert k.shape == v.shape == (6, 3, 1, 8)
        assert torch.equal(k[:, :, 0], cache[:, 0])
        assert torch.equal(v[:, :, 0], cache[:, 1])


def test_what_does_not_fit() -> None:
    cache = torch.zeros(4, 2, 16, 2, 8)
    one = torch.zeros(1, dtype=torch.int32)
    rest = (cache, one, torch.tensor([0, 1]), one + 1)
    cases = [
        ((torch.zeros(2, 2, 8), torch.zeros(1, 2, 8), one, one, *rest),
         r"^append_key \(2, 2, 8\) must have the shape \(1, 2, 8\)\.$"),
        ((torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), one, torch.zeros(2), *rest),
         r"^positions \(2,\) must have the shape of batch_indices \(1,\)\.$"),
        ((torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), one, one, cache[:, :1], *rest[1:]),
         r"^paged_kv_cache \(4, 1, 16, 2, 8\) must be \[pages, 2, \.\.\.\], with keys and values "
         r"in its second dimension, or a tuple of both\.$"),
    ]  # fmt: skip
    for arguments, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            flashinfer.append_paged_kv_cache(*arguments)
    with pytest.raises(InputError, match=r"^kv_layout must be NHD or HND, got 'DNH'\.$"):
        unpack(cache, "DNH")
    with pytest.raises(InputError, match=r"^positions must be int32 \(3,\) on cpu, got torch\.int"):
        flashinfer.get_batch_indices_positions(
            torch.tensor([0, 3]), torch.tensor([3]), 3, None, torch.zeros(3, dtype=torch.int64)
        )


@pytest.mark.parametrize("name", ["append_key", "append_value"])
def test_a_gradient_that_will_be_asked_for_is_refused(name: str) -> None:
    cache, one = torch.zeros(4, 2, 16, 2, 8), torch.zeros(1, dtype=torch.int32)
    new = {"append_key": torch.ones(1, 2, 8), "append_value": torch.ones(1, 2, 8)}
    new[name].requires_grad_()
    rest = (one, one, cache, one, torch.tensor([0, 1]), one + 1)
    with pytest.raises(UnsupportedError) as caught:
        flashinfer.append_paged_kv_cache(*new.values(), *rest)
    assert caught.value.sentence == (
        f"{name} (1, 2, 8) requires a gradient, and no kernel here computes one."
    )
    assert not cache.any()
    with torch.no_grad():
        flashinfer.append_paged_kv_cache(*new.values(), *rest)
    assert cache[0, :, 0].all()
