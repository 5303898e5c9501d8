"""The attention function that models of transformers call, called by itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor
from transformers_plans import inference, plan_of, tokens

from autoprec import transformers as ours
from autoprec.errors import InputError, UnsupportedError
from autoprec.plan import sdpa
from autoprec.plan.sight import Sight


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with inference():
        yield


class Bare(torch.nn.Module):
    is_causal = True


class PagedAttentionCache:
    """The name of what transformers' continuous batching hands on."""


def attend(q_len: int = 4, kv_len: int = 4, mask: Tensor | None = None, **how: Any) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    q = torch.randn(2, 2, q_len, 16, generator=draw)
    k, v = torch.randn(2, 2, 2, kv_len, 16, generator=draw)
    with sdpa.use(plan_of("fp32", "cpu")):
        out, weights = ours.attention(Bare(), q, k, v, mask, scaling=0.25, **how)
    assert weights is None
    assert out.is_contiguous()
    return out


@pytest.mark.parametrize("bools", [False, True])
def test_a_bias_joins_the_logits(bools: bool) -> None:
    bias = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    additive = torch.zeros(4, 4).masked_fill(~seen, float("-inf"))
    expected = attend(mask=(bias + additive).expand(2, -1, -1, -1))
    torch.testing.assert_close(attend(position_bias=bias), expected)
    mask = (seen if bools else additive).expand(2, 1, 4, 4)
    torch.testing.assert_close(attend(mask=mask, position_bias=bias), expected)
    sight = Sight((2, 4, 6), 0, None, None, torch.device("cpu"))
    longer = torch.nn.functional.pad(bias, (0, 2))
    got = attend(kv_len=6, mask=sight, position_bias=longer)
    torch.testing.assert_close(got, attend(kv_len=6, mask=(longer + torch.nn.functional.pad(
        additive, (0, 2), value=float("-inf"))).expand(2, -1, -1, -1)))  # fmt: skip


def test_without_a_mask_a_causal_one_is_aligned_upper_left() -> None:
    seen = torch.ones(2, 1, 3, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(3, 7), attend(3, 7, seen))
    torch.testing.assert_close(attend(1, 7), attend(1, 7, torch.ones_like(seen)[:, :, :1]))
    torch.testing.assert_close(attend(3, 7, is_causal=False), attend(3, 7, torch.ones_like(seen)))
    windowed = seen & ~torch.ones_like(seen).tril(-2)
    torch.testing.assert_close(attend(3, 7, sliding_window=2), attend(3, 7, windowed))


def test_what_no_kernel_does_is_refused() -> None:
    refused = [
        ({"dropout": 0.1}, "dropout is 0.1, and no kernel here drops anything. Try: model.eval()"),
        ({"output_attentions": True},
         "attention weights are asked for, and no kernel here keeps them. "
         'Try: attn_implementation="eager"'),
        ({"cache": PagedAttentionCache()},
         "continuous batching is asked for, and its cache is not read here. "
         'Try: attn_implementation="sdpa" for generate_batch'),
    ]  # fmt: skip
    for how, sentence in refused:
        with pytest.raises(UnsupportedError) as caught:
            attend(**how)  # type: ignore[arg-type]
        assert str(caught.value) == sentence
    model = tiny_models.model("llama", "eager")
    ours.apply(model, plan_of("fp32", "cpu"))
    with torch.enable_grad(), pytest.raises(UnsupportedError) as caught:
        model(input_ids=tokens("cpu"))
    assert str(caught.value) == (
        "a gradient is asked for, and no kernel here computes one. Try: torch.no_grad()"
    )
    with pytest.raises(InputError, match=r"^model must be a transformers.PreTrainedModel, got "):
        ours.apply(torch.nn.Linear(1, 1), plan_of("fp32", "cpu"))  # type: ignore[arg-type]
