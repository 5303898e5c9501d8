"""How many draws captured heads are: each counts once, however often it is drawn."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_kernels import fake, workload
from safetensors.torch import save_file

from autoprec import registry
from autoprec.draws import confidence_of
from autoprec.probe import lineup
from autoprec.probe.captured import read
from autoprec.probe.effort import Effort
from autoprec.probe.events import Event, Working
from autoprec.probe.families import FAMILIES
from autoprec.probe.judge import Judge
from autoprec.probe.measure import measure
from autoprec.types import Measurement, Phase, Workload

CPU = torch.device("cpu")
DECODE = workload()
DRAWN = "drawing captured inputs"


@pytest.fixture(autouse=True)
def _one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_load", lambda: ((fake("one", paths=("fp32", "bf16")),), {}))
    monkeypatch.setattr(lineup, "BASELINES", ())


def measured(
    path: Path, heads: int, *, shape: Workload = DECODE, layers: int = 1, needed: int = 59,
    seconds: float = 60.0, events: list[Event] | None = None,
) -> Measurement:  # fmt: skip
    """What came of bf16, which alone gets all draws, on gauss and so many heads of each layer.

    A round has 16 pairs where 59 are needed; of gauss two of the whole workload come to them.
    """
    file = path / "captured.safetensors"
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (2 * heads, shape.head_dim), "k": (heads, shape.head_dim),
             "v": (heads, shape.head_dim_v)}  # fmt: skip
    tensors = {
        f"{layer}.{x}": torch.randn(count, 64, dim, generator=generator)
        for layer in range(layers)
        for x, (count, dim) in sizes.items()
    }
    save_file(tensors, file, {str(it): f'{{"layer": {it}}}' for it in range(layers)})
    rows = measure(
        [shape],
        device=CPU,
        paths=("fp32", "bf16"),
        effort=Effort(rounds=(1, 1), samples=4, rows=8, groups=2),
        deadline=time.monotonic() + seconds,
        observe=(events if events is not None else []).append,
        families={"gauss": FAMILIES["gauss"], **read(file).families(per_layer=layers > 1)},
        judge=Judge(
            needed=needed, shortlist=lambda rows: [row for row in rows if row.path == "bf16"]
        ),
    )
    return {row.path: row for row in rows}["bf16"]


def rounds(events: list[Event]) -> int:
    return [it.sentence for it in events if isinstance(it, Working)].count(DRAWN)


def test_heads_that_are_drawn_again_add_no_draws(tmp_path: Path) -> None:
    """20 heads, 16 in a round: a second round has the last four, and there is no third."""
    events: list[Event] = []
    row = measured(tmp_path, 20, events=events)
    assert (row.n_draws, row.captured) == (66, {"captured": 20})
    assert row.confidence == confidence_of(20)
    assert rounds(events) == 3  # the other path's look is one as well


def test_few_heads_take_one_round(tmp_path: Path) -> None:
    events: list[Event] = []
    row = measured(tmp_path, 5, events=events)
    assert (row.n_draws, row.captured) == (66, {"captured": 5})
    assert row.confidence == confidence_of(5)
    assert rounds(events) == 2


def test_heads_enough_are_draws_like_others(tmp_path: Path) -> None:
    row = measured(tmp_path, 70)
    assert (row.n_draws, row.captured) == (64, {})
    assert row.confidence == confidence_of(64)


def test_bands_of_queries_of_a_head_are_one_draw(tmp_path: Path) -> None:
    shape = replace(DECODE, phase=Phase.PREFILL, q_len=64, kv_len=64)
    row = measured(tmp_path, 20, shape=shape)
    assert (row.n_draws, row.captured) == (66, {"captured": 20})


def test_the_layer_with_the_fewest_heads_counts(tmp_path: Path) -> None:
    row = measured(tmp_path, 1, layers=2)
    assert (row.n_draws, row.captured) == (66, {"captured/0": 1, "captured/1": 1})
    assert row.confidence == confidence_of(1)


def test_heads_that_are_not_all_drawn_count_as_far_as_they_were(tmp_path: Path) -> None:
    row = measured(tmp_path, 40, needed=0)  # a first look
    assert row.captured == {}
    assert row.n_draws == 8
    assert row.confidence == confidence_of(8)
