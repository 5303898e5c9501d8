"""Choices by layer: each held to what was captured of it, and to the families of no layer."""

import made_up
import pytest

from autoprec.budget import Budget
from autoprec.errors import BudgetError
from autoprec.plan.decide import Decider
from autoprec.policy.choose import choose
from autoprec.report.layers import sentences
from autoprec.types import Measurement, Profile

LAYERS = (1e-3, 6e-3, 2e-3, 2e-3, 7e-3)


def row(path: str, ms: float, *layers: float, gauss: float = 1e-3) -> Measurement:
    families = {f"captured/{n}": made_up.errors(it) for n, it in enumerate(layers)}
    return made_up.measurement(path, ms, 1.0, errors={"gauss": made_up.errors(gauss), **families})


def profile(**changes: object) -> Profile:
    rows = [row("bf16", 1.0, *LAYERS), row("fp16", 2.0, *(it / 8 for it in LAYERS))]
    return made_up.profile(rows, budget="rel_l2<=0.005", **changes)


def chosen(it: Profile, layer: int | None) -> str:
    choices, _ = choose(it.measurements, Budget.parse(it.budget), layer=layer)
    return choices[0].path


def test_a_layer_is_held_to_its_own() -> None:
    it = profile()
    assert chosen(it, None) == "fp16"
    assert [chosen(it, layer) for layer in range(5)] == ["bf16", "fp16", "bf16", "bf16", "fp16"]
    assert chosen(it, 5) == "fp16"  # of which nothing was captured: all of them count


def test_every_layer_is_held_to_other_families() -> None:
    rows = [row("bf16", 1.0, 1e-3, gauss=6e-3), row("fp16", 2.0, 1e-4)]
    assert chosen(made_up.profile(rows, budget="rel_l2<=0.005"), 0) == "fp16"


def test_a_plan_for_a_layer() -> None:
    it = profile()
    assert Decider.of(it, None, 0).choices[0].path == "bf16"
    assert Decider.of(it, None, 1).choices[0].path == "fp16"
    with pytest.raises(BudgetError):
        Decider.of(it, Budget.parse(1e-5), 0)


def test_the_report_says_which() -> None:
    assert sentences(profile()) == (
        "By layer, prefill b1 q4096 kv4096 32/8 d128 causal fp32: bf16 on layers 0, 2-3 and "
        "fp16 on layers 1, 4. A plan takes these with load_plan(layer=N).",
    )
    assert sentences(made_up.profile()) == ()


def test_layers_without_a_path_are_named() -> None:
    rows = [row("bf16", 1.0, 1e-3, 6e-3)]
    (sentence,) = sentences(made_up.profile(rows, budget="rel_l2<=0.005"))
    assert sentence.startswith(
        "By layer, prefill b1 q4096 kv4096 32/8 d128 causal fp32: bf16 on layer 0 and no path on "
        "layer 1."
    )
