"""Models of transformers on a plan, against eager attention in fp64 and token by token."""

import gc
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import made_up
import pytest
import tiny_models
import torch
from exact import cpu_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS, DECODERS
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import (
    AttentionMaskInterface,
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from autoprec import registry
from autoprec import transformers as ours
from autoprec.errors import InputError, UnsupportedError
from autoprec.plan import sdpa, torch_op
from autoprec.plan.plan import Plan
from autoprec.plan.sight import Sight
from autoprec.probe import device as devices
from autoprec.types import Phase, Profile

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])

BUDGETS = {"fp32": 1e-6, "bf16": 1e-2}
KERNELS = {"cpu": ("cpu-blocked", "cpu-blocked"), "cuda": ("triton-prefill", "triton-decode")}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """No gradients; and one thread, since several only wait for one another on so little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def profile(path: str, device: str) -> Profile:
    """One in which a path alone was measured, by the kernels that have every feature."""
    target = devices.target(torch.device(device))
    rows = []
    for phase, kernel in zip((Phase.PREFILL, Phase.DECODE), KERNELS[device], strict=True):
        workload = made_up.workload(phase=phase, kv_len=1024, head_dim=16)
        config = dict(registry.kernel(kernel).configs(path, workload, target)[0])
        rows.append(
            made_up.measurement(
                path, 1.0, BUDGETS[path] / 2, workload=workload, kernel=kernel, config=config
            )
        )
    budget = f"rel_l2<={BUDGETS[path]}"
    if device == "cpu":
        return cpu_profile(rows, budget=budget)
    environment = devices.environment(torch.device(device))
    return made_up.profile(rows, budget=budget, environment=environment)


def plan_of(path: str, device: str) -> Plan:
    return Plan(profile(path, device), torch.device(device))


def tokens(device: str, batch: int = 1, length: int = 20) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(2, 97, (batch, length), generator=draw).to(device)


def off(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def amplification(name: str, device: str, ids: Tensor, expected: Tensor) -> float:
    """How much larger the logits' relative error is than that of every attention's output."""
    size = 1e-4
    model = tiny_models.model(name, "eager", torch.float64).to(device)
    draw = torch.Generator(device).manual_seed(2)

    def disturb(module: Any, inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        noise = torch.randn(output[0].shape, generator=draw, dtype=torch.float64, device=device)
        return output[0] + size * output[0].norm() / noise.norm() * noise, *output[1:]

    for module in model.modules():
        if type(module).__name__.endswith("Attention") and hasattr(module, "scaling"):
            module.register_forward_hook(disturb)
    return off(model(input_ids=ids).logits, expected) / size


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NotHere(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "autoprec.transformers")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("autoprec.transformers")
    assert str(caught.value) == (
        "autoprec.transformers needs Hugging Face's transformers, and here: No module named "
        "'transformers'. Try: pip install 'autoprec[transformers]'"
    )
    assert caught.value.name == "transformers"


class _NotHere:
    """Finds no transformers, wherever they lie."""

    def find_spec(self, name: str, *rest: object) -> None:
        if name == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@DEVICES
@pytest.mark.parametrize("path", BUDGETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_as_the_budget_says(name: str, path: str, device: str) -> None:
    ids = tokens(device, batch=2)
    expected = tiny_models.model(name, "eager", torch.float64).to(device)(input_ids=ids).logits
    eager = off(tiny_models.model(name, "eager").to(device)(input_ids=ids).logits, expected)
    model = tiny_models.model(name, "eager").to(device)
    applied = ours.apply(model, plan_of(path, device))
    got = off(model(input_ids=ids).logits, expected)
    # the budget's, of random directions, within a factor of four; fp32's own error elsewhere, twice
    predicted = BUDGETS[path] * amplification(name, device, ids, expected)
    assert got <= 4 * predicted + 2 * eager
    if path == "bf16":
        assert got > 10 * eager  # it did run
    assert (applied.missed, len(applied.calls)) == ([], 2)


@DEVICES
@pytest.mark.parametrize("name", DECODERS)
def test_generation_is_eagers_token_by_token(name: str, device: str) -> None:
    ids = tokens(device)
    how = {"max_new_tokens": 64, "do_sample": False}
    expected = tiny_models.model(name, "eager").to(device).generate(ids, **how)
    model = tiny_models.model(name, "eager").to(device)
    applied = ours.apply(model, plan_of("fp32", device))
    assert torch.equal(model.generate(ids, **how), expected)
    assert set(applied.calls.values()) == {64}


@DEVICES
@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_static_cache_gives_the_same_tokens(name: str, device: str, padded: bool) -> None:
    ids, mask = padded_tokens(device) if padded else (tokens(device), None)
    model = tiny_models.model(name, "eager").to(device)
    ours.apply(model, plan_of("fp32", device))
    how = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    # compiled on a GPU by transformers itself, which another test is for
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids, **how, **static), model.generate(ids, **how))


def padded_tokens(device: str) -> tuple[Tensor, Tensor]:
    """Three prompts of 20, 9 and 1 tokens, padded on the left."""
    ids = tokens(device, batch=3)
    mask = torch.ones_like(ids)
    for row, length in enumerate((20, 9, 1)):
        mask[row, : 20 - length] = 0
    return ids * mask, mask


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


@DEVICES
@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_compiled_without_a_break(name: str, device: str) -> None:
    ids, mask = padded_tokens(device)
    model = tiny_models.model(name, "eager").to(device)
    applied = ours.apply(model, plan_of("fp32", device))
    expected = model(input_ids=ids, attention_mask=mask).logits
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        got = compiled(input_ids=ids, attention_mask=mask).logits
    shown = mask.bool()
    assert off(got[shown], expected[shown].double()) < 1e-5
    assert list(applied.calls.values()) == [3, 3]
    torch.compiler.reset()


@DEVICES
@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_layers_compiled_one_by_one(name: str, device: str) -> None:
    ids, mask = padded_tokens(device)
    model = tiny_models.model(name, "eager").to(device)
    applied = ours.apply(model, plan_of("fp32", device))
    expected = model(input_ids=ids, attention_mask=mask).logits
    torch.compiler.reset()
    for layer in model.model.layers:
        layer.compile(backend="aot_eager")
    got = model(input_ids=ids, attention_mask=mask).logits
    shown = mask.bool()
    assert off(got[shown], expected[shown].double()) < 1e-5
    assert list(applied.calls.values()) == [2, 2]
    torch.compiler.reset()


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # its compiler advises TF32
@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("padded", [False, True])
def test_generation_that_transformers_compiles_itself(name: str, padded: bool) -> None:
    ids, mask = padded_tokens("cuda") if padded else (tokens("cuda"), None)
    model = tiny_models.model(name, "eager").to("cuda")
    ours.apply(model, plan_of("fp32", "cuda"))
    how = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    expected = model.generate(ids, **how)
    assert torch.equal(model.generate(ids, **how, cache_implementation="static"), expected)
    torch.compiler.reset()


def test_the_operator_is_one_that_torch_accepts() -> None:
    q, k, v = (torch.randn(2, heads, 5, dim) for heads, dim in ((4, 16), (2, 16), (2, 8)))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    with sdpa.use(plan_of("fp32", "cpu")):
        for seen, causal in ((mask, False), (None, True)):
            torch.library.opcheck(
                torch_op.attention,
                (q, k, v, seen, torch.zeros(4), causal, False, None, 3, 2.0, torch_op.NOBODY),
            )


def test_a_name_for_from_config_after_register() -> None:
    ours.register()
    ours.register()
    assert AttentionInterface()["autoprec"] is ours.attention
    assert AttentionMaskInterface()["autoprec"] is ours.mask
    plan = plan_of("fp32", "cpu")
    with sdpa.use(plan):
        tiny_models.model("llama", "autoprec")(input_ids=tokens("cpu"))
    assert plan.stats()["calls"] == {"fp32": 2}


def test_what_was_not_reached_is_named() -> None:
    model = tiny_models.model("llama", "eager")
    applied = ours.apply(model, plan_of("fp32", "cpu"))
    assert str(applied) == (
        "0 calls of 0 attention modules; not reached: model.layers.0.self_attn, "
        "model.layers.1.self_attn"
    )
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    model(input_ids=tokens("cpu"))
    assert str(applied) == "1 calls of 1 attention modules; not reached: model.layers.1.self_attn"
    assert applied.calls == {"model.layers.0.self_attn": 1}
    assert applied.missed == ["model.layers.1.self_attn"]


def test_a_model_that_is_gone_is_forgotten() -> None:
    gc.collect()
    before = len(torch_op._callers)
    model = tiny_models.model("llama", "eager")
    ours.apply(model, plan_of("fp32", "cpu"))
    assert len(torch_op._callers) > before
    del model
    gc.collect()
    assert len(torch_op._callers) == before


def test_layers_run_the_plan_of_their_budget() -> None:
    fp32, bf16 = (profile(path, "cpu").measurements for path in BUDGETS)
    fast = [made_up.measurement(
        "bf16", 0.5, 5e-3, workload=row.workload, kernel=row.kernel, config=row.config
    ) for row in bf16]  # fmt: skip
    both = cpu_profile([*fp32, *fast], budget="rel_l2<=0.01,layer1:rel_l2<=1e-6")
    model = tiny_models.model("llama", "eager")
    plan = Plan(both, torch.device("cpu"), guard="sample")
    applied = ours.apply(model, plan)
    model(input_ids=tokens("cpu"))
    assert [own.stats()["calls"] for own in applied.plans] == [{"bf16": 1}, {"fp32": 1}]
    assert [own.guard for own in applied.plans] == ["sample", "sample"]


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
