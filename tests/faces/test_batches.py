"""The wrappers of batches against fp64, over page tables, lengths and layouts."""

import math
from typing import Any

import flashinfer_cases as fc
import flashinfer_oracle as oracle
import torch
from flashinfer_cases import Case, cases, check, pages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import tolerance
from torch import Tensor

from autoprec import flashinfer

wide = settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

EXACT = tolerance("fp32", head_dim=16, kv_len=20, typical_logit=1.5)  # the largest scale here

WORKSPACE = torch.empty(4096, dtype=torch.uint8)


def results(result: Any, n: int, case: Case) -> tuple[Tensor, Tensor]:
    out, lse = result
    assert out.dtype == case.out_dtype
    assert lse.dtype == torch.float32
    assert lse.shape == (n, case.heads[0])
    return out, lse


def masks(case: Case) -> list[Tensor]:
    """A mask for each request, in some rows of which nothing is seen."""
    draw = torch.Generator().manual_seed(case.seed)
    found = []
    for q_len, kv_len in zip(case.q_lens, case.kv_lens, strict=True):
        mask = torch.rand(q_len, kv_len, generator=draw) < 0.6
        found.append(mask & (torch.rand(q_len, 1, generator=draw) < 0.8))
    return found


def compare(kernels: str, got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    """The exact kernel rounds once; fp32's sums of 16 products and 20 keys move some bits more."""
    allowed = EXACT if kernels == "triton" else 0.0
    if not got[1].numel():
        assert got[0].numel() == want[0].numel() == 0
        return
    check(got[0], want[0], allowed)
    torch.testing.assert_close(got[1].double(), want[1], rtol=EXACT, atol=EXACT)


@wide
@given(case=cases(decode=True), sinks=st.booleans(), buffers=st.booleans())
def test_decode(kernels: str, case: Case, sinks: bool, buffers: bool) -> None:
    table = pages(case)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(WORKSPACE, case.layout)
    q_len = case.q_lens[0] if case.q_lens else 1
    wrapper.plan(
        table.indptr, table.indices, table.last, *case.heads, case.dims[0], case.page_size,
        q_data_type=case.dtype, o_data_type=case.out_dtype, q_len_per_req=q_len, **case.meaning,
    )  # fmt: skip
    q = case.queries()
    own = case.draw(case.heads[0]).float() if sinks else None
    given: dict[str, Tensor] = {}
    if buffers:
        given["out"] = torch.full(q.shape, 7.0, dtype=case.out_dtype)
        given["lse"] = torch.full(q.shape[:2], 7.0)
    got = results(wrapper.run(q, table.cache, return_lse=True, sinks=own, **given), len(q), case)
    if buffers:
        assert got[0] is given["out"]
        assert got[1] is given["lse"]
    want = oracle.batch(q, table.keys, table.values, case.q_lens, causal=True, sinks=own,
                        **case.meaning)  # fmt: skip
    compare(kernels, got, want)
    alone = wrapper.run(q, table.cache, sinks=own)
    assert torch.equal(alone, got[0])


@wide
@given(case=cases(), masked=st.sampled_from(("no", "no", "bools", "bits")))
def test_paged_prefill(kernels: str, case: Case, masked: str) -> None:
    table = pages(case)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE, case.layout)
    own = None if masked == "no" else masks(case)
    wrapper.plan(
        case.starts(case.q_lens), table.indptr, table.indices, table.last, *case.heads,
        case.dims[0], case.page_size, head_dim_vo=case.dims[1], causal=case.causal,
        q_data_type=case.dtype, o_data_type=case.out_dtype, **packed(own, masked), **case.meaning,
    )  # fmt: skip
    q = case.queries()
    got = results(wrapper.run_return_lse(q, table.cache), len(q), case)
    want = oracle.batch(q, table.keys, table.values, case.q_lens, own, causal=case.causal,
                        **case.meaning)  # fmt: skip
    compare(kernels, got, want)


@wide
@given(case=cases(), masked=st.sampled_from(("no", "no", "bools", "bits")))
def test_ragged_prefill(kernels: str, case: Case, masked: str) -> None:
    keys = [case.draw(n, case.heads[1], case.dims[0], number=b) for b, n in enumerate(case.kv_lens)]
    values = [case.draw(n, case.heads[1], case.dims[1], number=9 + b)
              for b, n in enumerate(case.kv_lens)]  # fmt: skip
    k, v = (
        torch.cat([case.draw(0, case.heads[1], dim), *tensors])
        for tensors, dim in zip((keys, values), case.dims, strict=True)
    )
    if case.layout == "HND":
        k, v = k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()
    own = None if masked == "no" else masks(case)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(WORKSPACE, case.layout)
    wrapper.plan(
        case.starts(case.q_lens), case.starts(case.kv_lens), *case.heads, case.dims[0],
        case.dims[1], causal=case.causal, q_data_type=case.dtype, o_data_type=case.out_dtype,
        **packed(own, masked), **case.meaning,
    )  # fmt: skip
    q = case.queries()
    got = results(wrapper.run(q, k, v, return_lse=True), len(q), case)
    want = oracle.batch(q, keys, values, case.q_lens, own, causal=case.causal, **case.meaning)
    compare(kernels, got, want)


def packed(own: list[Tensor] | None, form: str) -> dict[str, Tensor]:
    """Masks as ``plan`` takes them."""
    if own is None:
        return {}
    flat = torch.cat([torch.zeros(0, dtype=torch.bool), *(mask.reshape(-1) for mask in own)])
    if form == "bools":
        return {"custom_mask": flat}
    sizes = torch.tensor([0, *(mask.numel() for mask in own)]).cumsum(0)
    bits, _ = flashinfer.segment_packbits(flat, sizes, bitorder="little")
    return {"packed_custom_mask": bits}


@wide
@given(case=cases(longest=9, most=1), masked=st.sampled_from(("no", "bools", "bits")))
def test_single_prefill(kernels: str, case: Case, masked: str) -> None:
    n, m = (case.kv_lens or [3])[0], (case.q_lens or [2])[0]
    q = case.draw(m, case.heads[0], case.dims[0])
    k, v = (case.draw(n, case.heads[1], dim, number=1) for dim in case.dims)
    mask = torch.rand(m, n, generator=torch.Generator().manual_seed(case.seed)) < 0.6
    given: dict[str, Tensor] = {}
    if masked == "bools":
        given["custom_mask"] = mask
    if masked == "bits":
        given["packed_custom_mask"] = flashinfer.packbits(mask.view(-1), bitorder="little")
    kv = (k, v) if case.layout == "NHD" else (k.transpose(0, 1), v.transpose(0, 1))
    got = flashinfer.single_prefill_with_kv_cache(
        q, *kv, kv_layout=case.layout, causal=case.causal, o_dtype=case.out_dtype,
        return_lse=True, sm_scale=0.3, **given, **case.meaning,
    )  # fmt: skip
    want = oracle.attend(
        q, k, v, causal=case.causal, sm_scale=0.3, custom_mask=mask if given else None,
        **case.meaning,
    )  # fmt: skip
    compare(kernels, results(got, m, case), want)


@wide
@given(case=cases(longest=9, most=1))
def test_single_decode(kernels: str, case: Case) -> None:
    n = (case.kv_lens or [3])[0]
    q = case.draw(case.heads[0], case.dims[0])
    k, v = (case.draw(n, case.heads[1], dim, number=1) for dim in case.dims)
    kv = (k, v) if case.layout == "NHD" else (k.transpose(0, 1), v.transpose(0, 1))
    out, lse = flashinfer.single_decode_with_kv_cache(
        q, *kv, kv_layout=case.layout, return_lse=True, q_scale=0.5, k_scale=3.0, v_scale=2.0,
        **case.meaning,
    )  # fmt: skip
    want, want_lse = oracle.attend(
        q[None], k, v, sm_scale=1.5 / math.sqrt(case.dims[0]), **case.meaning
    )
    assert out.dtype == case.dtype
    check(out, 2.0 * want[0], fc.UNIT[case.dtype] + EXACT)
    torch.testing.assert_close(lse.double(), want_lse[0], rtol=EXACT, atol=EXACT)
