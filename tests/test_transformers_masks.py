"""Windows, padding and chunks of models of transformers: what queries see."""

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import DECODERS
from transformers import DynamicCache
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sdpa_mask,
    sliding_window_causal_mask_function,
)
from transformers_plans import DEVICES, inference, off, padded_tokens, plan_of, tokens

from autoprec import transformers as ours
from autoprec.plan.sight import Sight


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with inference():
        yield


@DEVICES
@pytest.mark.parametrize("name", DECODERS)
def test_padded_batches_are_as_unpadded_ones(name: str, device: str) -> None:
    ids, mask = padded_tokens(device)
    model = tiny_models.model(name, "eager").to(device)
    ours.apply(model, plan_of("fp32", device))
    how = {"max_new_tokens": 5, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, **how)
    for row in range(3):
        own = ids[row : row + 1, mask[row].bool()]
        assert torch.equal(model.generate(own, **how)[0, own.shape[1] :], together[row, 20:])


@DEVICES
def test_padded_batches_of_an_encoder(device: str) -> None:
    ids, mask = padded_tokens(device)
    ids, mask = ids.flip(1), mask.flip(1)
    model = tiny_models.model("bert", "eager").to(device)
    ours.apply(model, plan_of("fp32", device))
    together = model(input_ids=ids, attention_mask=mask).logits
    for row in range(3):
        length = int(mask[row].sum())
        alone = model(input_ids=ids[row : row + 1, :length]).logits[0]
        assert off(together[row, :length], alone.double()) < 1e-5


# the name that transformers has for it, until 5.40
OLD_NAME = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


@OLD_NAME
@DEVICES
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_in_chunks(name: str, device: str, padded: bool) -> None:
    ids, mask = padded_tokens(device) if padded else (tokens(device), None)
    model = tiny_models.model(name, "eager").to(device)
    ours.apply(model, plan_of("fp32", device))
    shown = torch.ones_like(ids) if mask is None else mask
    whole = model(input_ids=ids, attention_mask=shown).logits
    cache = DynamicCache(config=model.config)
    chunks = [
        model(
            input_ids=ids[:, first:last],
            attention_mask=shown[:, :last],
            position_ids=torch.arange(first, last, device=device)[None],
            past_key_values=cache,
        ).logits
        for first, last in ((0, 11), (11, 18), (18, 20))
    ]
    real = shown.bool()
    assert off(torch.cat(chunks, 1)[real], whole[real].double()) < 1e-5


@OLD_NAME
def test_windows_and_padding_write_no_mask_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(*_: Any, **__: Any) -> None:
        raise AssertionError("a mask was written out")

    monkeypatch.setattr(ours, "sdpa_mask", dense)
    monkeypatch.setattr(Sight, "dense", dense)
    ids, mask = padded_tokens("cpu")
    for name in ("gemma3", "mistral"):
        model = tiny_models.model(name, "eager")
        ours.apply(model, plan_of("fp32", "cpu"))
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, :15], attention_mask=mask[:, :15], past_key_values=cache)
        model(input_ids=ids[:, 15:], attention_mask=mask, past_key_values=cache)


WINDOWED = sliding_window_causal_mask_function(5)


@settings(max_examples=150, deadline=None)
@given(
    batch=st.integers(1, 3), q_len=st.integers(1, 7), before=st.integers(0, 9),
    after=st.integers(0, 3), kv_offset=st.integers(0, 4), padded=st.sampled_from((0, 1, 9)),
    function=st.sampled_from((causal_mask_function, WINDOWED)),
)  # fmt: skip
def test_a_sight_is_the_mask_that_is_written_out(
    batch: int, q_len: int, before: int, after: int, kv_offset: int, padded: int, function: Any
) -> None:
    kv_len = before + q_len + after
    padding = None
    if padded:
        # as long as the tokens so far, or shorter than the keys of a static cache
        padding = torch.ones(batch, kv_offset + before + q_len, dtype=torch.bool)
        padding[0, : min(padded, padding.shape[1] - 1)] = False
    asked: dict[str, Any] = {
        "batch_size": batch, "q_length": q_len, "kv_length": kv_len,
        "q_offset": kv_offset + before, "kv_offset": kv_offset, "mask_function": function,
        "attention_mask": padding, "local_size": 5 if function is WINDOWED else None,
    }  # fmt: skip
    got = ours.mask(**asked)
    want = sdpa_mask(**asked, allow_is_causal_skip=False)
    assert want is not None
    if got is None:
        aligned = torch.ones(q_len, kv_len, dtype=torch.bool).tril(0 if q_len > 1 else kv_len)
        assert torch.equal(want, aligned.expand_as(want))
        return
    assert isinstance(got, Sight) or q_len == 1
    assert got.shape == want.shape
    assert (got.dtype, got.device, len(got.shape), got.ndim) == (torch.bool, want.device, 4, 4)
    assert torch.equal(got, want)
    assert torch.equal(got[:, :, -1:], want[:, :, -1:])  # whoever looks at it has it whole
    assert torch.equal(torch.where(got, 1.0, 0.0), want.float())


@pytest.mark.parametrize(
    "function",
    [
        bidirectional_mask_function,
        or_masks(causal_mask_function, bidirectional_mask_function),
        and_masks(causal_mask_function, WINDOWED),
        chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.int)),
    ],
)
def test_other_masks_are_transformers_own(function: Any) -> None:
    padding = torch.ones(2, 9, dtype=torch.bool)
    padding[0, :2] = False
    asked = {"batch_size": 2, "q_length": 9, "kv_length": 9, "mask_function": function}
    got = ours.mask(**asked, attention_mask=padding)
    assert not isinstance(got, Sight)
    want = sdpa_mask(**asked, attention_mask=padding)
    assert torch.equal(got, want)
