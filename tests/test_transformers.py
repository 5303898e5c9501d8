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
from tiny_models import CONFIGS, DECODERS
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers_plans import (
    BUDGETS,
    DEVICES,
    inference,
    off,
    padded_tokens,
    plan_of,
    profile,
    tokens,
)

from autoprec import transformers as ours
from autoprec.plan import sdpa, torch_op
from autoprec.plan.plan import Plan


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with inference():
        yield


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
