"""Draws that are kept: made once, and not more of them than there is room for."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from fake_kernels import fake, workload

from autoprec import registry
from autoprec.kernels.interface import Kernel
from autoprec.probe import lineup
from autoprec.probe import measure as measuring
from autoprec.probe.drawn import Draw, Drawn
from autoprec.probe.effort import Effort
from autoprec.probe.families import FAMILIES, Family, Inputs
from autoprec.probe.measure import measure
from autoprec.types import Measurement, Workload

CPU = torch.device("cpu")
EFFORT = Effort(rounds=(1,), samples=2, rows=8, groups=2)


def made(name: str, log: list[str]) -> Callable[[], Draw]:
    def make() -> Draw:
        log.append(name)
        return Draw(cast(Any, name), cast(Any, None))

    return make


def test_what_is_kept_is_made_once() -> None:
    log: list[str] = []
    drawn = Drawn(100)
    first = drawn.get("a", 50, made("a", log))
    assert drawn.get("a", 50, made("again", log)) is first
    assert log == ["a"]


def test_the_oldest_make_room() -> None:
    log: list[str] = []
    drawn = Drawn(100)
    for name in ("a", "b", "c", "c", "b", "a"):
        assert drawn.get(name, 50, made(name, log)).call == name
    assert log == ["a", "b", "c", "a"]
    drawn.get("large", 101, made("large", log))  # and is not kept
    drawn.get("large", 101, made("large", log))
    assert log[4:] == ["large", "large"]
    assert Drawn(0).get("a", 1, made("none", log)).call == "none"


def test_where_memory_is_short_what_is_kept_goes_first() -> None:
    log: list[str] = []
    drawn = Drawn(100)
    drawn.get("a", 50, made("a", log))
    failures = [torch.OutOfMemoryError()]

    def short() -> Draw:
        if failures:
            raise failures.pop()
        return made("b", log)()

    assert drawn.get("b", 50, short).call == "b"
    drawn.get("a", 50, made("again", log))
    assert log == ["a", "b", "again"]
    drawn.clear()

    def none() -> Draw:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        drawn.get("c", 50, none)


def test_workloads_that_differ_in_their_batch_share_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rows_of(share: float, *workloads: Workload) -> tuple[list[Measurement], Counter[Any]]:
        seeds: Counter[Any] = Counter()

        def listens(name: str) -> Family:
            def draw(it: Workload, seed: int, device: torch.device) -> Inputs:
                seeds[it.kv_len, seed, name] += 1
                return FAMILIES[name].draw(it, seed, device)

            return replace(FAMILIES[name], draw=draw)

        monkeypatch.setattr(measuring, "_FOR_DRAWS", share)
        rows = list(
            measure(
                workloads, device=CPU, paths=("fp32",), effort=EFFORT,
                deadline=time.monotonic() + 60, observe=lambda event: None,
                families={name: listens(name) for name in ("gauss", "outlier", "tiny")},
            )
        )  # fmt: skip
        return rows, seeds

    kernels: tuple[Kernel, ...] = (fake("one"), fake("two"))
    monkeypatch.setattr(lineup, "BASELINES", ())
    monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))
    both = workload(batch=1), workload(batch=3)
    shared, once = rows_of(0.1, *both)
    alone, twice = rows_of(0.0, *both)
    assert once
    assert set(once.values()) == {1}
    assert {it for it in twice if it in once} == set(once)
    assert max(twice.values()) >= 2
    # kept or drawn anew: the same errors to the last digit
    assert [row.bounds for row in shared] == [row.bounds for row in alone]
    assert [row.errors for row in shared] == [row.errors for row in alone]
    other, _ = rows_of(0.1, replace(both[0], kv_len=90))
    assert other[0].bounds != shared[0].bounds
