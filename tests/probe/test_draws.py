"""Who gets how many draws, and what becomes of them."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fake_kernels import fake, right, workload
from measuring import DECODE, by_path, run

from autoprec.kernels.interface import Call
from autoprec.probe import trial
from autoprec.probe.events import Event, Measured
from autoprec.probe.judge import Judge
from autoprec.probe.share import Share
from autoprec.types import Config, Measurement, Phase, Role, Status


@pytest.mark.usefixtures("alone")
def test_the_worst_draw_counts(have: Callable[..., None]) -> None:
    calls: list[tuple[int, ...]] = []

    def drifting(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        calls.append(tuple(call.k.shape))
        if call.k.shape[0] == 4 and len([it for it in calls if it[0] == 4]) == 3:
            call.out[2].mul_(1.002)  # one request of the first draw after the first look

    have(fake("drifting", drifting))
    judge = Judge(needed=20, shortlist=lambda rows: rows)
    row = by_path(run(judge=judge, paths=("fp32",)))["fp32"]
    # 8 heads at a look, of two families; 8 more, and 8 more: 24 are enough for 20
    assert [it[0] for it in calls].count(4) == 6
    assert row.n_draws == 24
    assert row.confidence == pytest.approx(1 - 0.95**24)
    assert row.bounds["gauss"]["rel_l2"] == pytest.approx(2e-3, rel=1e-3)
    assert row.errors["gauss"]["rel_l2"] == pytest.approx(2e-3 / 2, rel=0.5)  # a quarter of it
    assert row.bounds["outlier"]["rel_l2"] < 1e-6


@pytest.mark.usefixtures("alone")
def test_a_first_look_is_all_that_others_get(have: Callable[..., None]) -> None:
    have(fake("one", paths=("fp32", "bf16")))
    judge = Judge(needed=59, shortlist=lambda rows: [row for row in rows if row.path == "bf16"])
    rows = by_path(run(judge=judge))
    assert (rows["fp32"].n_draws, rows["bf16"].n_draws) == (16, 64)


@pytest.mark.usefixtures("alone")
def test_time_that_is_left_at_the_end_goes_to_missing_draws(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(fake("one", paths=("fp32", "bf16")))
    given = iter([True])
    of_what_is_left = Share.of_what_is_left

    def first_gets_none(deadline: float, workloads: int, others_s: float) -> Share | None:
        if next(given, False):
            return Share(time.monotonic() - 1, deadline)
        return of_what_is_left(deadline, workloads, others_s)

    monkeypatch.setattr(Share, "of_what_is_left", first_gets_none)
    judge = Judge(needed=59, shortlist=lambda rows: rows)
    events: list[Event] = []
    rows = run(DECODE, dataclasses.replace(DECODE, kv_len=100), judge=judge, events=events)
    ours = [row for row in rows if row.role is Role.CANDIDATE and row.workload == DECODE]
    assert [(row.path, row.n_draws) for row in ours] == [
        ("fp32", 16), ("bf16", 16), ("fp32", 64), ("bf16", 64),
    ]  # fmt: skip
    assert [row.key for row in ours[:2]] == [row.key for row in ours[2:]]
    # what is measured is told of once
    assert len([event for event in events if isinstance(event, Measured)]) == len(rows) - 2


@pytest.mark.usefixtures("alone")
def test_where_no_memory_is_left_for_missing_draws_the_rows_stay(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(draws: Any, share: Share) -> None:
        raise torch.OutOfMemoryError

    have(fake("one"))
    monkeypatch.setattr(trial.Draws, "resume", no_memory)
    monkeypatch.setattr(trial.Trial, "unfinished", True)
    rows = run(paths=("fp32",))
    assert [(row.status, row.n_draws) for row in rows] == [(Status.OK, 8)] * 2


@pytest.mark.usefixtures("alone")
def test_who_is_worth_a_draw_is_asked_once_before_it(have: Callable[..., None]) -> None:
    asked: list[int] = []

    def all_of(rows: Sequence[Measurement]) -> Sequence[Measurement]:
        asked.append(len(rows))
        return rows

    have(fake("one"))
    row = by_path(run(judge=Judge(needed=59, shortlist=all_of), paths=("fp32",)))["fp32"]
    assert row.n_draws == 64
    assert asked == [1] * (4 * 2 + 1)  # four draws of two families, and then there are no more


@pytest.mark.usefixtures("alone")
def test_who_breaks_a_budget_makes_room_for_the_next(have: Callable[..., None]) -> None:
    def strays(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        if path == "bf16" and call.k.shape[0] == 8 and seen.append(1) is None and len(seen) > 2:
            call.out.mul_(2)

    def best(rows: Sequence[Measurement]) -> Sequence[Measurement]:
        return [row for row in rows if row.errors["gauss"]["rel_l2"] < 0.1][-1:]

    seen: list[int] = []
    have(fake("one", strays, paths=("fp32", "bf16")))
    rows = by_path(run(judge=Judge(needed=59, shortlist=best)))
    assert rows["bf16"].n_draws == 16  # it broke in the second round, on gauss
    assert rows["fp32"].n_draws == 64


@pytest.mark.usefixtures("alone")
def test_extreme_families_are_kept_apart(have: Callable[..., None]) -> None:
    have(fake("one"))
    row = by_path(run(families=("gauss", "extreme"), paths=("fp32",)))["fp32"]
    assert set(row.errors) == set(row.bounds) == {"gauss"}
    assert set(row.extremes) == {"resonant", "tiny", "large", "cancel"}


@pytest.mark.usefixtures("alone")
def test_a_prefill_is_drawn_in_bands(have: Callable[..., None]) -> None:
    bands: list[tuple[int, int | None]] = []

    def listens(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        bands.append((call.q.shape[2], call.diagonal))

    have(fake("one", listens))
    judge = Judge(needed=59, shortlist=lambda rows: rows)
    it = workload(phase=Phase.PREFILL, q_len=200, kv_len=200)
    row = by_path(run(it, judge=judge, paths=("fp32",), families=("gauss",)))["fp32"]
    # the effort looks at 8 rows: the last ones, the first ones, those between, and the last again
    assert bands[-4:] == [(8, 192), (8, 0), (8, 96), (8, 192)]
    assert row.n_draws == 66  # two of the whole workload and 16 of each band


@pytest.mark.usefixtures("alone")
def test_the_same_seed_gives_the_same_errors_to_the_last_digit(have: Callable[..., None]) -> None:
    have(fake("one", paths=("fp32", "bf16")))
    judge = Judge(needed=20, shortlist=lambda rows: rows)
    one, other = (by_path(run(judge=judge, families=("typical", "extreme"))) for _ in range(2))
    for path in ("fp32", "bf16"):
        a, b = one[path], other[path]
        assert (a.errors, a.bounds, a.extremes) == (b.errors, b.bounds, b.extremes)
