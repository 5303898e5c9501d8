"""Runs that are begun ahead of their results: in order, in time, and without what they hold."""

import gc
import time
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_kernels import fake, right, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe import lineup, trial, tryout
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import Attempt, DroppedError, Told, Tried, ahead
from autoprec.probe.contender import Contender
from autoprec.probe.effort import Effort
from autoprec.probe.families import chosen
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import call_of, draw
from autoprec.probe.measure import measure
from autoprec.types import Config, Conversion, Measurement, Phase, Role, Status, Workload

CPU = torch.device("cpu")
EFFORT = Effort(rounds=(1, 1), samples=4, rows=8, groups=2)


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in the registry's place; no baselines."""
    monkeypatch.setattr(lineup, "BASELINES", ())

    def put(*kernels: Kernel) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))

    return put


def run(shape: Workload | None = None, effort: Effort = EFFORT) -> list[Measurement]:
    return list(
        measure(
            [shape or workload()],
            device=CPU,
            paths=("fp32",),
            effort=effort,
            deadline=time.monotonic() + 60,
            observe=lambda event: None,
            families=chosen(("outlier",)),
        )
    )


def attempt(kernel: Kernel, shape: Workload | None = None) -> Attempt:
    it = shape or workload()
    contender = Contender(
        role=Role.CANDIDATE, path="fp32", name=kernel.name, workload=it, kernel=kernel,
        conversion=Conversion.NONE,
    )  # fmt: skip
    call = call_of(it, *draw(it, "gauss", 0, CPU))
    oracle = Oracle(call, "gauss", rows=8, groups=2, seed=0)
    return contender.begin({}, call, oracle)


def gives_nan(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    call.out[0, 0, 0, 0] = float("nan")


class Late:
    """An attempt whose result takes a while; counts how many have begun without one."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.begun = self.over = self.most = 0

    def tasks(self, count: int) -> Iterator[tuple[int, Callable[[], Attempt]]]:
        for number in range(count):
            yield number, self.begin

    def begin(self) -> Any:
        self.begun += 1
        self.most = max(self.most, self.begun - self.over)
        return self

    def result(self) -> None:
        time.sleep(self.takes_s)
        self.over += 1


def test_results_come_in_order_each_with_its_own_key() -> None:
    good, bad = fake("good"), fake("bad", gives_nan)

    def refused() -> Attempt:
        raise DroppedError(Status.SKIPPED, "no time.")

    kinds = [lambda: attempt(good), lambda: attempt(bad), refused] * 5
    found = list(ahead(enumerate(kinds)))
    assert [key for key, _ in found] == list(range(15))
    for key, outcome in found:
        if key % 3 == 0:
            assert isinstance(outcome, Tried)
            assert outcome.errors["rel_l2"] < 2**-23
        else:
            assert isinstance(outcome, DroppedError)
            assert outcome.reason == (
                "NaN or infinity in 1 of 4 rows looked at, on gauss", "no time"
            )[key % 3 - 1]  # fmt: skip


def test_of_what_takes_long_no_more_is_begun_than_is_waited_for() -> None:
    quick, slow = Late(0.0), Late(0.11)
    assert len(list(ahead(quick.tasks(30)))) == 30
    begun = []
    for _ in ahead(slow.tasks(14)):
        begun.append(slow.begun)
    assert quick.most == 9
    assert begun == list(range(1, 15))  # one after the other


class InOrder(Late):
    """Attempts on a device that does them in turn, and tells of each as soon as it is over."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(takes_s)
        self.free_at = time.monotonic()

    def begin(self) -> Any:
        super().begin()
        self.free_at = max(self.free_at, time.monotonic()) + self.takes_s
        done_at = self.free_at

        def result() -> None:
            time.sleep(max(0.0, done_at - time.monotonic()))
            self.over += 1

        return types.SimpleNamespace(result=result)


def test_a_device_that_works_in_turn_is_ahead_only_of_what_is_quick() -> None:
    quick, slow = InOrder(0.001), InOrder(0.11)
    assert len(list(ahead(quick.tasks(30)))) == 30
    assert quick.most == 9
    assert len(list(ahead(slow.tasks(6)))) == 6
    assert slow.most == 1


def test_numbers_are_told_by_name() -> None:
    numbers = torch.tensor([1.0, 2.0], dtype=torch.float64)
    one = torch.tensor(3.0, dtype=torch.float64)
    assert Told(numbers, holes=None, share=one).result() == ([1.0, 2.0], {"share": 3.0})
    assert Told(numbers).result() == ([1.0, 2.0], {})


@pytest.mark.cuda
def test_a_result_waits_for_nothing_that_is_queued_behind_it() -> None:
    numbers = torch.ones(2, dtype=torch.float64, device="cuda")
    told = Told(numbers)
    torch.cuda._sleep(2_000_000_000)  # a second and more
    began = time.monotonic()
    assert told.result() == ([1.0, 1.0], {})
    assert time.monotonic() - began < 0.5
    torch.cuda.synchronize()


def test_where_the_first_one_comes_to_nothing_the_next_is_tried_though_it_is_late(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def picky(call: Call, path: str, config: Config) -> None:
        if call.q.shape[2] == 1 and call.k.shape[2] == 64:
            tried.append(int(config["n"]))
        if config["n"] == 0:
            raise RuntimeError("no")
        (gives_nan if config["n"] == 1 else right)(call, path, config)

    monkeypatch.setattr(tryout, "_TRIED_BY", -1.0)
    have(fake("picky", picky, configs=tuple({"n": n} for n in range(4))))
    (row,) = run()
    assert (row.status, row.config) == (Status.OK, {"n": 2})
    assert set(tried) == {0, 1, 2}  # the fourth was not needed


def test_where_the_last_winner_fails_the_others_are_tried(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_one(self: Harness, contender: Contender, fastest_s: float) -> list[int]:
        return [2]

    def picky(call: Call, path: str, config: Config) -> None:
        if config["n"] != 1:
            raise RuntimeError("no")
        right(call, path, config)

    monkeypatch.setattr(Harness, "worth_trying", last_one)
    have(fake("picky", picky, configs=tuple({"n": n} for n in range(3))))
    (row,) = run()
    assert (row.status, row.config) == (Status.OK, {"n": 1})


def test_neither_what_lost_nor_what_failed_holds_the_inputs(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def some_fail(call: Call, path: str, config: Config) -> None:
        given.append(weakref.ref(call.k))
        (gives_nan if config["n"] == 1 else right)(call, path, config)
        if config["n"] == 2:
            raise RuntimeError("no")

    def listens(*_: Any) -> None:
        alive.append(sum(it() is not None for it in given))

    monkeypatch.setattr(trial, "check_edges", listens)
    have(fake("some", some_fail, configs=tuple({"n": n} for n in range(5))))
    gc.collect()
    gc.disable()  # no cycle keeps anything either
    try:
        assert run()[0].status is Status.OK
    finally:
        gc.enable()
    assert alive == [0]


def test_what_is_run_for_its_errors_alone_can_be_let_go() -> None:
    kept: list[weakref.ref[Any]] = []

    def repeat(call: Call, path: str, config: Config) -> Callable[[], None]:
        def again() -> None:
            right(call, path, config)

        kept.append(weakref.ref(again))
        return again

    begun = attempt(replace(fake("one"), repeat=repeat))
    assert kept[0]() is begun.run
    light = begun.for_errors()
    assert light.out is light.call.out
    del begun
    assert kept[0]() is None
    assert light.result().errors["rel_l2"] < 2**-23
    with pytest.raises(AssertionError, match="run for its errors alone"):
        light.run()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_lse_that_is_not_finite_is_found_in_rows_that_are_not_looked_at(value: float) -> None:
    def wrong_lse(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        call.lse[0, 1, [40, 41]] = value

    shape = workload(phase=Phase.PREFILL, q_len=100, kv_len=100)
    begun = attempt(fake("bad", wrong_lse), shape)
    with pytest.raises(DroppedError, match="NaN or infinity in 2 of 400 rows, on gauss"):
        begun.result()
