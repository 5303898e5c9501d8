"""Configurations: what breaks is a row or left out, and the fastest right one wins."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_kernels import fake, right, workload
from measuring import DECODE, by_path, run

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe import measure as probe
from autoprec.probe.events import Event, Remark
from autoprec.types import Config, Status


def breaks(call: Call, path: str, config: Config) -> None:
    raise RuntimeError("the device is on fire\nand more")


def refuses(call: Call, path: str, config: Config) -> None:
    raise UnsupportedError("not on Tuesdays.", "another day")


def gives_nan(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    call.out[0, 1, 0] = float("nan")


def writes_nothing(call: Call, path: str, config: Config) -> None:
    pass


def writes_the_lse_only(call: Call, path: str, config: Config) -> None:
    right(dataclasses.replace(call, out=torch.empty_like(call.out)), path, config)


def fails_on_outliers(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    if call.k.abs().max() > 10:
        call.out.fill_(float("inf"))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("kernel", "status", "reason"),
    [
        (breaks, Status.FAILED, "RuntimeError: the device is on fire"),
        (refuses, Status.UNSUPPORTED, "not on Tuesdays"),
        (gives_nan, Status.FAILED, "NaN or infinity in 1 of 4 rows looked at, on gauss"),
        (writes_nothing, Status.FAILED, "NaN or infinity in 4 of 4 rows looked at, on gauss"),
        (
            writes_the_lse_only,
            Status.FAILED,
            "NaN or infinity in 4 of 4 rows looked at, on gauss",
        ),
        (
            fails_on_outliers,
            Status.FAILED,
            "NaN or infinity in 16 of 16 rows looked at, on outlier",
        ),
    ],
)
def test_what_goes_wrong_is_one_row(
    kernel: Any, status: Status, reason: str, have: Callable[..., None]
) -> None:
    have(fake("bad", kernel), fake("good", paths=("bf16",)))
    rows = by_path(run(workload(kv_len=4000)))
    assert (rows["fp32"].status, rows["fp32"].reason) == (status, reason)
    assert rows["bf16"].status is Status.OK


@pytest.mark.usefixtures("alone")
def test_a_kernel_that_breaks_while_it_is_timed_is_one_row(have: Callable[..., None]) -> None:
    calls: list[None] = []

    def tires(call: Call, path: str, config: Config) -> None:
        calls.append(None)
        if len(calls) > 1:  # the first is the try, the second is timed
            raise RuntimeError("tired")
        right(call, path, config)

    have(fake("bad", tires), fake("good", paths=("bf16",)))
    rows = by_path(run())
    assert (rows["fp32"].status, rows["fp32"].reason) == (Status.FAILED, "RuntimeError: tired")
    assert rows["bf16"].status is Status.OK


def test_a_broken_configuration_is_left_out_and_said(have: Callable[..., None]) -> None:
    def picky(call: Call, path: str, config: Config) -> None:
        if config["block"] == 1:
            raise RuntimeError("too small")
        right(call, path, config)
        if config["block"] == 2:
            call.out.mul_(1.01)

    have(fake("picky", picky, configs=({"block": 1}, {"block": 2}, {"block": 3})))
    events: list[Event] = []
    row = by_path(run(events=events, paths=("fp32",)))["fp32"]
    assert (row.status, row.config) == (Status.OK, {"block": 3})
    first, second = (event.sentence for event in events if isinstance(event, Remark))
    assert (
        first == f"{DECODE}, fp32 by picky: a configuration was left out: RuntimeError: too small."
    )
    assert second == (
        f"{DECODE}, fp32 by picky: the configuration {{'block': 2}} was left out: its rel_l2 of "
        "1.00e-02 is over 4 times the best one's."
    )


@pytest.mark.usefixtures("alone")
def test_the_fastest_configuration_wins(have: Callable[..., None]) -> None:
    def sleepy(call: Call, path: str, config: Config) -> None:
        time.sleep(int(config["ms"]) / 1e3)
        right(call, path, config)

    have(fake("sleepy", sleepy, configs=({"ms": 60}, {"ms": 20}, {"ms": 40})))
    row = by_path(run(paths=("fp32",)))["fp32"]
    assert (row.config, row.n) == ({"ms": 20}, 4)
    assert row.p20_ms is not None
    assert row.p20_ms >= 20


@pytest.mark.usefixtures("alone")
def test_what_is_far_slower_is_timed_once(have: Callable[..., None]) -> None:
    def slow(call: Call, path: str, config: Config) -> None:
        time.sleep(0.3)
        right(call, path, config)

    have(fake("slow", slow), fake("quick", paths=("bf16",)))
    rows = by_path(run())
    assert (rows["fp32"].status, rows["fp32"].n, rows["bf16"].n) == (Status.OK, 1, 4)


@pytest.mark.usefixtures("alone")
def test_of_what_is_far_too_slow_the_last_winner_is_tried(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ms = {"slow": {1: 9.0, 2: 8.9, 3: 12.0}, "quick": {1: 1.0, 2: 1.1, 3: 1.2}}
    tried: list[tuple[int, str, int]] = []

    class Clock:
        ms = 0.0

        def sample_ms(self, call: Callable[[], object]) -> float:
            call()
            return self.ms

    clock = Clock()

    def kernel(name: str) -> Kernel:
        def run_it(call: Call, path: str, config: Config) -> None:
            clock.ms = ms[name][config["n"]] * call.k.shape[2] / 100  # type: ignore[index]
            tried.append((call.k.shape[2], name, config["n"]))  # type: ignore[arg-type]
            right(call, path, config)

        return fake(name, run_it, configs=tuple({"n": n} for n in ms[name]))

    monkeypatch.setattr(probe, "timer", lambda device: clock)
    have(kernel("slow"), kernel("quick"))
    run(DECODE, dataclasses.replace(DECODE, kv_len=300), paths=("fp32",))
    # the first workload is timed without knowing anything
    assert {it[1:] for it in tried if it[0] == 64} == {(name, n) for name in ms for n in (1, 2, 3)}
    assert {it[1:] for it in tried if it[0] == 300} == {
        ("slow", 2), ("quick", 1), ("quick", 2), ("quick", 3),
    }  # fmt: skip
