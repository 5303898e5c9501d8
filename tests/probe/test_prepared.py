"""Rows of K and V prepared beforehand, beside those with the conversion inside the time."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fake_kernels import fake, preparing, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel, Prepared
from autoprec.probe import lineup, trial
from autoprec.probe import measure as measuring
from autoprec.probe.effort import Effort
from autoprec.probe.events import Event, Planned, Working
from autoprec.probe.families import chosen
from autoprec.probe.measure import measure
from autoprec.types import Config, Conversion, Measurement, Phase, Status, Workload

CPU = torch.device("cpu")
EFFORT = Effort(rounds=(1, 1), samples=4, rows=8, groups=2)
APPEND = workload(phase=Phase.APPEND, q_len=20, kv_len=64)
INCLUDED, AMORTISED = Conversion.INCLUDED, Conversion.AMORTISED


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in the registry's place; no baselines."""
    monkeypatch.setattr(lineup, "BASELINES", ())

    def put(*kernels: Kernel) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))

    return put


def run(
    *workloads: Workload, events: list[Event] | None = None, seconds: float = 60.0
) -> list[Measurement]:
    return list(
        measure(
            workloads or (APPEND,),
            device=CPU,
            paths=("bf16",),
            effort=EFFORT,
            deadline=time.monotonic() + seconds,
            observe=(events if events is not None else []).append,
            families=chosen(["outlier"]),
        )
    )


def test_a_second_row_leaves_the_conversion_out(have: Callable[..., None]) -> None:
    have(preparing("planes", takes_s=0.03, configs=({"n": 1}, {"n": 2})))
    events: list[Event] = []
    included, amortised = run(events=events)
    assert [row.conversion for row in (included, amortised)] == [INCLUDED, AMORTISED]
    assert (amortised.path, amortised.kernel, amortised.n) == ("bf16", "planes", 4)
    assert amortised.config == included.config  # there is no second search
    assert amortised.errors == included.errors  # of both families: it computes the same
    assert set(amortised.errors) == {"gauss", "outlier"}
    assert included.p20_ms is not None
    assert amortised.p50_ms is not None
    assert included.p20_ms >= 30
    assert amortised.p50_ms < included.p20_ms
    assert events[0] == Planned(2)
    assert [event.sentence for event in events if isinstance(event, Working)] == [
        "drawing gauss inputs",
        "trying 2 configurations",
        "timing 2 configurations of 1 paths",
        "drawing gauss inputs",
        "drawing outlier inputs",
    ]


def test_both_rows_are_timed_in_turn(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        def sample_ms(self, call: Callable[[], object]) -> float:
            call()
            return 1.0

    monkeypatch.setattr(measuring, "timer", lambda device: Clock())
    turns: list[bool] = []
    kernel = preparing("planes")

    def listens(call: Call, path: str, config: Config) -> None:
        turns.append(call.prepared is not None)
        kernel.run(call, path, config)

    have(replace(kernel, run=listens))
    run()
    # tried, searched; prepared, tried and sampled once; 4 samples of each; whole outputs, two
    # lengths that are not round and two families in turn
    assert turns[:4] == [False, False, True, True]
    timed = turns[4:]
    assert len(timed) == 2 * (4 + 1 + 2 + 2)
    assert all(one != other for one, other in zip(timed[:8], timed[1:8], strict=False))


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (preparing("planes"), workload()),  # decode
        (
            preparing("planes"),
            replace(APPEND, input_dtype=workload(input_dtype="bf16").input_dtype),
        ),
        (fake("reads", paths=("bf16",)), APPEND),
    ],
)
def test_where_nothing_is_prepared_there_is_one_row(
    kernel: Kernel, shape: Workload, have: Callable[..., None]
) -> None:
    have(kernel)
    (row,) = run(shape)
    assert row.conversion is not AMORTISED
    assert row.status is Status.OK


def test_where_the_kernel_fails_both_rows_say_so(have: Callable[..., None]) -> None:
    def breaks(call: Call, path: str, config: Config) -> None:
        raise RuntimeError("no")

    have(replace(preparing("planes"), run=breaks))
    assert [(row.status, row.reason) for row in run()] == [(Status.FAILED, "RuntimeError: no")] * 2


def test_where_preparing_fails_the_other_row_stands(have: Callable[..., None]) -> None:
    def breaks(k: torch.Tensor, v: torch.Tensor, path: str, config: Config) -> Prepared:
        if k.device.type == "meta":
            return kernel.prepare(k, v, path, config)  # type: ignore[misc]
        raise torch.OutOfMemoryError("no room")

    kernel = preparing("planes")
    have(replace(kernel, prepare=breaks))
    included, amortised = run()
    assert included.status is Status.OK
    assert (amortised.status, amortised.reason, amortised.lacked_memory) == (
        Status.FAILED, "OutOfMemoryError: no room", True,
    )  # fmt: skip


def test_planes_that_do_not_fit_are_unsupported(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = workload(phase=Phase.APPEND, q_len=20, kv_len=20_000, kv_heads=4)
    planes = large.kv_bytes // 2  # half the bytes, all of which are less than half of this:
    monkeypatch.setattr(trial, "free_bytes", lambda device: 2 * planes - 1)
    monkeypatch.setattr(trial.Trial, "_drop_what_does_not_fit", lambda self: None)
    have(preparing("planes"))
    included, amortised = run(large)
    assert included.status is Status.OK
    assert (amortised.status, amortised.reason, amortised.lacked_memory) == (
        Status.UNSUPPORTED, "K and V prepared need 0.0 GiB, and 0.0 GiB are free", True,
    )  # fmt: skip


def test_after_the_deadline_both_are_skipped(have: Callable[..., None]) -> None:
    have(preparing("planes"))
    assert [row.status for row in run(seconds=-1)] == [Status.SKIPPED] * 2
