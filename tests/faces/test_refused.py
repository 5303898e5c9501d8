"""Arguments that no call takes: each is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact_requests import KERNEL
from flashinfer_cases import pages
from flashinfer_small import SPACE, K, Q, case

from autoprec import flashinfer, registry
from autoprec.errors import InputError, UnsupportedError
from autoprec.flashinfer.table import kv_lens_of


def planned(**changes: Any) -> flashinfer.BatchPrefillWithPagedKVCacheWrapper:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(SPACE)
    asked, table = case(), pages(case())
    wrapper.plan(
        asked.starts(asked.q_lens), table.indptr, table.indices, table.last, 2, 2, 8, 4,
        **{"q_data_type": "float32", **changes},
    )  # fmt: skip
    return wrapper


CACHE = torch.zeros(8, 2, 4, 2, 8)


WRONG: dict[str, tuple[Any, str]] = {
    "before plan": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE).run(Q, CACHE),
        "run was called before plan. Try: wrapper.plan(...) first",
    ),
    "another type": (
        lambda: planned(q_data_type=torch.bfloat16).run(torch.zeros(6, 2, 8), CACHE),
        "q is torch.float32, and torch.bfloat16 was planned. "
        "Try: plan(..., q_data_type=torch.float32)",
    ),
    "too many queries": (
        lambda: planned().run(torch.zeros(7, 2, 8), CACHE),
        "q (7, 2, 8) must have the shape (6, 2, 8), as planned.",
    ),
    "another page size": (
        lambda: planned().run(torch.zeros(6, 2, 8), torch.zeros(8, 2, 16, 2, 8)),
        "a page holds 16 keys, and page_size 4 was planned.",
    ),
    "other heads": (
        lambda: planned().run(torch.zeros(6, 2, 8), torch.zeros(8, 2, 4, 1, 8)),
        "k has 1 heads of 8, and 2 of 8 were planned.",
    ),
    "another window": (
        lambda: planned(window_left=3).run(torch.zeros(6, 2, 8), CACHE, window_left=4),
        "window_left is 4, and 3 was planned.",
    ),
    "another out": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, out=torch.zeros(6, 2, 8).half()),
        "out is torch.float16, and torch.float32 was planned.",
    ),
    "no tensor for an output": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, out=[0.0]),
        "out must be a torch.Tensor, got list.",
    ),
    "no tensor for queries": (
        lambda: planned().run([0.0], CACHE),
        "q must be a torch.Tensor, got list.",
    ),
    "no tensors for a cache": (
        lambda: planned().run(torch.zeros(6, 2, 8), (CACHE[:, 0], None)),
        "paged_kv_cache must be a torch.Tensor, got NoneType.",
    ),
    "no tensor for sinks": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, sinks=[0.0, 0.0]),
        "sinks must be a torch.Tensor, got list.",
    ),
    "no tensor for newest queries": (
        lambda: flashinfer.single_decode_with_kv_cache([0.0], K, K),
        "q must be a torch.Tensor, got list.",
    ),
    "no tensor for keys": (
        lambda: flashinfer.single_prefill_with_kv_cache(Q, None, K),
        "k must be a torch.Tensor, got NoneType.",
    ),
    "no number for a cap": (
        lambda: planned(logits_soft_cap=torch.tensor(30.0)),
        "logits_soft_cap must be a number, got tensor(30.).",
    ),
    "no tensor for a state": (
        lambda: flashinfer.merge_state(Q, Q[..., 0], Q, 0.0),
        "the other s must be a torch.Tensor, got float.",
    ),
    "no tensor for a workspace": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper([0]),
        "the workspace buffer must be a contiguous tensor.",
    ),
    "an out of another shape": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, out=torch.zeros(6, 16)),
        "out (6, 16) must have the shape (6, 2, 8).",
    ),
    "an out elsewhere": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, out=torch.zeros(6, 2, 8, device="meta")),
        "out (6, 2, 8) is on meta, the inputs are on cpu.",
    ),
    "another lse": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, lse=torch.zeros(2, 6), return_lse=True),
        "lse must be float32 (6, 2) on cpu, got torch.float32 (2, 6) on cpu.",
    ),
    "a scale on a device": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, k_scale="1"),
        "k_scale must be a number, got '1'.",
    ),
    "other sinks": (
        lambda: planned().run(torch.zeros(6, 2, 8), CACHE, sinks=torch.zeros(3)),
        "sinks (3,) on cpu must be (2,) on cpu.",
    ),
    "a falling indptr": (
        lambda: flashinfer.BatchPrefillWithRaggedKVCacheWrapper(SPACE).plan(
            torch.tensor([0, 4, 2]), torch.tensor([0, 1, 2]), 2, 2, 8
        ),
        "qo_indptr must start at 0 or above and never fall, got [0, 4, 2].",
    ),
    "a last page too long": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE).plan(
            torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([5]), 2, 2, 8, 4
        ),
        "last_page_len must lie within 0 and page_size 4, got [5].",
    ),
    "indptr and batch": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE).plan(
            torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([4, 4]), 2, 2, 8, 4
        ),
        "indptr has 2 numbers and last_page_len 2; it must have one more.",
    ),
    "lengths beyond a request's pages": (
        lambda: planned(seq_lens=torch.tensor([12, 0, 5])),
        "request 2 has 5 keys by seq_lens, and its pages have room for 4.",
    ),
    "lengths beside a falling indptr": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE).plan(
            torch.tensor([0, 2, 1]),
            torch.tensor([0, 1]),
            torch.tensor([4, 4]),
            2,
            2,
            8,
            4,
            seq_lens=torch.tensor([4, 4]),
        ),
        "indptr must start at 0 or above and never fall, got [0, 2, 1].",
    ),
    "a small mask": (
        lambda: planned(custom_mask=torch.ones(3, dtype=torch.bool)),
        "custom_mask (3,) must have 30 elements, one for each query and key of each request.",
    ),
    "small bits": (
        lambda: planned(packed_custom_mask=torch.ones(2, dtype=torch.uint8)),
        "packed_custom_mask must be uint8 of 5 bytes in one row, got torch.uint8 (2,).",
    ),
    "a layout": (
        lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE, "DHN"),
        "kv_layout must be NHD or HND, got 'DHN'.",
    ),
    "a precision": (
        lambda: flashinfer.single_decode_with_kv_cache(Q[0], K, K, precision="fp13"),
        "precision must be a Plan or one of fp32, tf32, tf32x3, fp16x3, bf16x3, bf16x6, bf16, "
        "bf16p2, fp16, fp16p2, got 'fp13'. Try: autoprec paths",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(kernels: str, name: str) -> None:
    act, sentence = WRONG[name]
    with pytest.raises(InputError) as caught:
        act()
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("which", ["k", "sinks", "page table", "mask", "workspace"])
@pytest.mark.parametrize("written", ["out", "lse"])
def test_what_a_call_uses_is_not_written(kernels: str, which: str, written: str) -> None:
    """One memory for what is written and something else that the call uses."""
    shape = (6, 2, 8) if written == "out" else (6, 2)
    memory = torch.zeros(shape)
    bits = memory.view(-1).view(torch.uint8)
    asked, table = case(), pages(case())
    space, sinks, mask, indices = SPACE, None, None, table.indices
    if which == "k":
        memory = CACHE.view(-1)[: memory.numel()].view(shape)
    elif which == "sinks":
        sinks = memory.view(-1)[:2]
    elif which == "page table":
        indices = memory.view(-1).view(torch.int32)[: len(indices)].copy_(indices)
    elif which == "mask":
        mask = bits[:5]
    else:
        space = bits
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(space)
    wrapper.plan(
        asked.starts(asked.q_lens), table.indptr, indices, table.last, 2, 2, 8, 4,
        q_data_type="float32", packed_custom_mask=mask,
    )  # fmt: skip
    whose = {"out": "an input", "lse": "out or an input"}[written]
    whose = "the workspace buffer" if which == "workspace" else whose
    with pytest.raises(InputError) as caught:
        wrapper.run(torch.zeros(6, 2, 8), CACHE, sinks=sinks, return_lse=True, **{written: memory})
    assert str(caught.value) == (
        f"{written} {shape} lies in the memory of {whose}. Try: an {written} of its own memory"
    )


def _sparse(x: torch.Tensor) -> torch.Tensor:
    return x.to_sparse()


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("q", lambda: planned().run(_sparse(torch.zeros(6, 2, 8)), CACHE)),
        ("sinks", lambda: planned().run(torch.zeros(6, 2, 8), CACHE, sinks=_sparse(Q[0, :, 0]))),
        ("paged_kv_cache", lambda: planned().run(torch.zeros(6, 2, 8), _sparse(CACHE))),
        ("v", lambda: flashinfer.single_prefill_with_kv_cache(Q, K, _sparse(K))),
    ],
)
def test_what_is_sparse_is_refused(kernels: str, name: str, act: Callable[[], object]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        act()
    assert str(caught.value) == f"{name} is nested or sparse, and no kernel takes that."


def test_what_is_read_is_not_written_over_by_partial_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = replace(KERNEL, workspace=lambda *_: 20)
    monkeypatch.setattr(registry, "_load", lambda: ((kernel,), {}))
    space, one = torch.zeros(60), torch.ones(1, dtype=torch.int32)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(space, precision="fp32")
    wrapper.plan(torch.tensor([0, 1]), 0 * one, one, 2, 2, 8, 4, q_data_type=torch.float32)
    q, cache = space.view(-1)[-16:].view(1, 2, 8), torch.zeros(1, 2, 4, 2, 8)
    wrapper.run(q, cache)  # the end is not used
    wrapper.plan(torch.tensor([0, 1]), 0 * one, one, 2, 2, 8, 4, q_data_type=torch.float32)
    with pytest.raises(InputError) as caught:
        wrapper.run(space[:16].view(1, 2, 8), cache)
    assert str(caught.value) == (
        "the workspace buffer lies in the memory of an input. Try: a workspace of its own memory"
    )


def test_the_gradient_of_sinks_is_refused(kernels: str) -> None:
    learned = torch.zeros(2, requires_grad=True)
    with pytest.raises(UnsupportedError) as caught:
        planned().run(torch.zeros(6, 2, 8), CACHE, sinks=learned)
    assert caught.value.sentence == (
        "sinks (2,) requires a gradient, and no kernel here computes one."
    )


def test_checked_mode_names_the_request(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = planned()
    monkeypatch.setenv("AUTOPREC_CHECK", "1")
    sentence = r"^request 0 has page \d at place \d, and the cache has the pages 0 to 0\.$"
    with pytest.raises(InputError, match=sentence):
        wrapper.run(torch.zeros(6, 2, 8), CACHE[:1])


def test_an_indptr_on_a_device_is_compared_with_lengths_in_checked_mode_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No number of a meta tensor can be read: it stands in for what would be waited for."""
    indptr, lens = torch.zeros(3, dtype=torch.int32, device="meta"), torch.tensor([12, 4])
    last = torch.tensor([4, 4])
    assert kv_lens_of(indptr, last, 4, lens).tolist() == [12, 4]
    monkeypatch.setenv("AUTOPREC_CHECK", "1")
    with pytest.raises(NotImplementedError, match="meta tensor"):
        kv_lens_of(indptr, last, 4, lens)
