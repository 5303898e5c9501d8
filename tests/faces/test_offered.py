"""What is not offered names itself, wrong arguments too, and what FlashInfer deprecates works."""

import math
from typing import Any

import flashinfer_oracle as oracle
import pytest
import torch
from flashinfer_cases import check, pages
from flashinfer_small import SPACE, K, Q, case
from tolerance import tolerance

from autoprec import flashinfer
from autoprec.errors import UnsupportedError
from autoprec.types import MAX_SIZE

# up to 17 keys; q_scale doubles the usual scale
EXACT = tolerance("fp32", head_dim=8, kv_len=17, typical_logit=2.0)


def decode(**changes: Any) -> None:
    table = pages(case())
    flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE).plan(
        table.indptr, table.indices, table.last, 2, 2, 8, 4, **changes
    )


NOT_OFFERED: dict[str, tuple[Any, str]] = {
    "rope": (
        lambda: flashinfer.single_decode_with_kv_cache(Q[0], K, K, pos_encoding_mode="ROPE_LLAMA"),
        "RoPE inside the kernel (pos_encoding_mode='ROPE_LLAMA'): not offered by "
        'autoprec.flashinfer. Try: turn q and k first, with pos_encoding_mode="NONE"',
    ),
    "alibi": (
        lambda: decode(pos_encoding_mode="ALIBI"),
        "ALiBi inside the kernel (pos_encoding_mode='ALIBI'): not offered by autoprec.flashinfer.",
    ),
    "fp8 tensors": (
        lambda: flashinfer.single_prefill_with_kv_cache(
            *(x.to(torch.float8_e4m3fn) for x in (Q, K, K))
        ),
        "q is torch.float8_e4m3fn: FP8 and FP4 are not offered by autoprec.flashinfer. "
        "Try: float32, bfloat16 or float16",
    ),
    "fp8 caches": (
        lambda: decode(kv_data_type=torch.float8_e5m2),
        "kv_data_type is torch.float8_e5m2: FP8 and FP4 are not offered by autoprec.flashinfer. "
        "Try: float32, bfloat16 or float16",
    ),
    "fp8 scales": (
        lambda: flashinfer.single_prefill_with_kv_cache(Q, K, K, scale_q=torch.ones(2)),
        "FP8 queries (scale_q): not offered by autoprec.flashinfer.",
    ),
    "mixed types": (
        lambda: decode(q_data_type="float32", kv_data_type="bfloat16"),
        "keys and values in torch.bfloat16 for queries in torch.float32: not offered by "
        "autoprec.flashinfer. Try: one type for q, k and v",
    ),
    "kernels of one's own": (
        lambda: flashinfer.BatchPrefillWithPagedKVCacheWrapper(SPACE, jit_args=["mine"]),
        "kernels of the caller's own (jit_args): not offered by autoprec.flashinfer.",
    ),
    "cudnn": (
        lambda: flashinfer.BatchPrefillWithRaggedKVCacheWrapper(SPACE, backend="cudnn"),
        'cuDNN\'s offsets and natural LSE (backend="cudnn"): not offered by autoprec.flashinfer. '
        'Try: backend="auto"',
    ),
    "multi-item scoring": (
        lambda: flashinfer.BatchPrefillWithRaggedKVCacheWrapper(SPACE).plan(
            torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 2, 8, prefix_len_ptr=torch.ones(1)
        ),
        "multi-item scoring (prefix_len_ptr): not offered by autoprec.flashinfer.",
    ),
}


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_names_itself(kernels: str, name: str) -> None:
    act, sentence = NOT_OFFERED[name]
    with pytest.raises(UnsupportedError) as caught:
        act()
    assert isinstance(caught.value, NotImplementedError)
    assert str(caught.value) == sentence


def test_the_legacy_names(kernels: str) -> None:
    """begin_forward, forward and end_forward, whose forward says what plan does today."""
    asked = case()
    table, q = pages(asked), asked.queries()
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(SPACE)
    wrapper.begin_forward(asked.starts(asked.q_lens), table.indptr, table.indices, table.last,
                          2, 2, 8, 4, q_data_type="float32")  # fmt: skip
    meaning: dict[str, Any] = {"causal": True, "window_left": 2, "logits_soft_cap": 1.0}
    out = wrapper.forward(q, table.cache, sm_scale=0.5, **meaning)
    also, lse = wrapper.forward_return_lse(q, table.cache, sm_scale=0.5, **meaning)
    wrapper.end_forward()
    want, want_lse = oracle.batch(q, table.keys, table.values, asked.q_lens, sm_scale=0.5,
                                  **meaning)  # fmt: skip
    assert isinstance(out, torch.Tensor)
    check(out, want, EXACT)
    assert torch.equal(out, also)
    torch.testing.assert_close(lse.double(), want_lse, rtol=EXACT, atol=EXACT)

    one = case(q_lens=[1, 1, 1])
    q = one.queries()
    decoder = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE)
    decoder.begin_forward(table.indptr, table.indices, table.last, 2, 2, 8, 4,
                          data_type=torch.float32)  # fmt: skip
    out = decoder.forward(q, table.cache, window_left=2, q_scale=2.0)
    scale = 2 / math.sqrt(8)
    want, _ = oracle.batch(q, table.keys, table.values, [1, 1, 1], window_left=2, sm_scale=scale)
    assert isinstance(out, torch.Tensor)
    check(out, want, EXACT)
    decoder.end_forward()
    flashinfer.fast_decode_plan(
        decoder,
        table.indptr,
        table.indices,
        table.last,
        2,
        2,
        8,
        4,
        data_type="float32",
        global_override_indptr_cpu=table.indptr,
    )
    want, _ = oracle.batch(q, table.keys, table.values, [1, 1, 1])
    check(decoder.run(q, table.cache), want, EXACT)  # type: ignore[arg-type]


@pytest.mark.parametrize("window_left", [MAX_SIZE - 1, MAX_SIZE, 2**31 - 1, 2**31, 2**70])
def test_a_window_that_no_request_fills_hides_nothing(kernels: str, window_left: int) -> None:
    """Kernels count in 32 bits, and a workload's sizes end before."""
    asked = case(q_lens=[1, 1, 1])
    table, q = pages(asked), asked.queries()
    decoder = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE)
    decoder.plan(table.indptr, table.indices, table.last, 2, 2, 8, 4,
                 window_left=window_left, q_data_type="float32")  # fmt: skip
    want, _ = oracle.batch(q, table.keys, table.values, asked.q_lens)
    out = decoder.run(q, table.cache, window_left=window_left)
    check(out, want, EXACT)  # type: ignore[arg-type]
    k, v = table.keys[0], table.values[0]
    out = flashinfer.single_prefill_with_kv_cache(q, k, v, window_left=window_left)
    assert torch.equal(out, flashinfer.single_prefill_with_kv_cache(q, k, v))  # type: ignore[arg-type]


@pytest.mark.parametrize("quick", [False, True], ids=["plan", "fast"])
@pytest.mark.parametrize("page_size", [1, 4])
def test_a_request_without_pages_has_no_keys(kernels: str, page_size: int, quick: bool) -> None:
    """Callers that pad a batch may say 1 of a last page that is not there."""
    asked = case(q_lens=[1, 1, 1], page_size=page_size)
    table, q = pages(asked), asked.queries()
    decoder = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE)
    given = (table.indptr, table.indices, table.last.clamp(min=1), 2, 2, 8, page_size)
    if quick:
        flashinfer.fast_decode_plan(decoder, *given, data_type="float32",
                                    global_override_indptr_cpu=table.indptr)  # fmt: skip
    else:
        decoder.plan(*given, data_type="float32")
    want, _ = oracle.batch(q, table.keys, table.values, asked.q_lens)
    check(decoder.run(q, table.cache), want, EXACT)  # type: ignore[arg-type]


def test_more_queries_than_planned(kernels: str) -> None:
    """FlashInfer takes the queries of each request from q."""
    asked = case(q_lens=[3, 3, 3])
    table, q = pages(asked), asked.queries()
    decoder = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE)
    decoder.plan(table.indptr, table.indices, table.last, 2, 2, 8, 4, q_data_type="float32")
    want, _ = oracle.batch(q, table.keys, table.values, asked.q_lens, causal=True)
    check(decoder.run(q, table.cache), want, EXACT)  # type: ignore[arg-type]


def test_levels_of_shared_prefixes(kernels: str) -> None:
    """Two requests that share three pages: a level of one request, and one of two."""
    asked = case(kv_lens=[12, 5, 3], q_lens=[1, 1], causal=False)
    table = pages(asked)
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2, SPACE)
    shared, own = table.indptr[:2], table.indptr[1:] - table.indptr[1]
    q = asked.queries()
    wrapper.plan(
        [torch.tensor([0, 2]), torch.tensor([0, 1, 2])], [shared, own],
        [table.indices[: shared[1]], table.indices[shared[1] :]], [table.last[:1], table.last[1:]],
        2, 2, 8, 4, q_data_type="float32",
    )  # fmt: skip
    out = wrapper.run(q, table.cache)
    keys = [torch.cat([table.keys[0], x]) for x in table.keys[1:]]
    values = [torch.cat([table.values[0], x]) for x in table.values[1:]]
    want, _ = oracle.batch(q, keys, values, [1, 1])
    check(out, want, EXACT)
