"""Caches in other forms than the inputs': which are measured, how, and what a row of one says."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from fake_kernels import fake, right, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel, Target, run_launches
from autoprec.paths import read_bytes
from autoprec.probe import caches, lineup
from autoprec.probe import device as devices
from autoprec.probe import measure as measuring
from autoprec.probe.compile import Built
from autoprec.probe.effort import Effort
from autoprec.probe.families import FAMILIES
from autoprec.probe.inputs import call_of, draw, in_layout
from autoprec.probe.measure import measure
from autoprec.probe.stored import forms, launches_of, stored
from autoprec.types import (
    Config,
    Conversion,
    Dtype,
    Layout,
    Measurement,
    Phase,
    Status,
    Storage,
    Workload,
)

CPU = torch.device("cpu")
GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
EFFORT = Effort(rounds=(1, 1), samples=4, rows=8, groups=2)
BF16, FP16, PLANES = Storage.BF16, Storage.FP16, Storage.PLANES
PATHS = ("fp32", "bf16", "fp16", "fp16x3")


def whole(call: Call) -> Call:
    """The call with K and V in fp32, of whatever form they were."""
    if call.halves is None:
        return replace(call, k=call.k.float(), v=call.v.float())
    halves = call.halves
    k, v = (
        (x[0].float() + x[1].float()) * inverse[..., None]
        for x, inverse in zip((halves.k, halves.v), halves.inverse, strict=True)
    )
    return replace(call, k=k, v=v, halves=None)


class Clock:
    """A run takes what the kernel says, not what it takes on a busy machine."""

    def __init__(self) -> None:
        self.ms = 1.0

    def sample_ms(self, call: Callable[[], object]) -> float:
        call()
        return self.ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what is measured."""
    clock = Clock()
    monkeypatch.setattr(measuring, "timer", lambda device: clock)
    return clock


def reading(name: str, clock: Clock | None = None) -> Kernel:
    """A kernel that reads caches of every form; n is its time, thrice that where it converts."""

    def run(call: Call, path: str, config: Config) -> None:
        if clock is not None:
            converts = call.halves is None and call.k.dtype is torch.float32
            clock.ms = float(config["n"]) * (3.0 if converts else 1.0)
        right(whole(call), path, config)

    everything = {Storage.FP32: PATHS, BF16: PATHS, FP16: PATHS, PLANES: ("fp16", "fp16x3")}
    return replace(fake(name, run, paths=PATHS, configs=({"n": 2}, {"n": 1})), forms=everything)


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in the registry's place; no baselines."""
    monkeypatch.setattr(lineup, "BASELINES", ())

    def put(*kernels: Kernel) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))

    return put


def run(
    shape: Workload, paths: tuple[str, ...] = PATHS, seconds: float = 60.0
) -> list[Measurement]:
    return list(
        measure(
            [shape],
            device=CPU,
            paths=paths,
            effort=EFFORT,
            deadline=time.monotonic() + seconds,
            observe=lambda event: None,
            families={name: FAMILIES[name] for name in ("gauss", "outlier", "tiny")},
        )
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fp32", []),
        ("tf32x3", []),
        ("bf16", [BF16]),
        ("bf16x3", []),
        ("fp16", [FP16, PLANES]),
        ("fp16x3", [PLANES]),
    ],
)
@pytest.mark.parametrize("phase", [Phase.DECODE, Phase.PREFILL, Phase.APPEND])
def test_a_path_is_measured_on_what_holds_its_parts(
    path: str, expected: list[Storage], phase: Phase
) -> None:
    kernel = registry.kernel("triton-decode" if phase is Phase.DECODE else "triton-prefill")
    shape = workload(phase=phase, q_len={Phase.DECODE: 1, Phase.APPEND: 20}.get(phase, 64))
    assert list(forms(kernel, path, shape, GPU)) == expected
    sixteen = replace(shape, input_dtype=Dtype.BF16)
    assert list(forms(kernel, path, sixteen, GPU)) == []


def test_forms_are_a_kernels_own() -> None:
    shape = workload(phase=Phase.PREFILL, q_len=64, head_dim=64)
    hopper = registry.kernel("hopper-prefill")
    assert list(forms(hopper, "fp16", shape, GPU)) == [FP16, PLANES]
    assert list(forms(hopper, "fp16x3", shape, GPU)) == [PLANES]
    assert list(forms(replace(hopper, forms={}), "fp16x3", shape, GPU)) == []


def test_rows_of_caches_follow_the_path(have: Callable[..., None], clock: Clock) -> None:
    have(reading("reads", clock))
    shape = workload()
    rows = {(row.path, row.storage): row for row in run(shape) if row.cached}
    assert list(rows) == [
        ("bf16", BF16), ("fp16", FP16), ("fp16", PLANES), ("fp16x3", PLANES),
    ]  # fmt: skip
    own = {row.path: row for row in run(shape) if not row.cached}
    for (path, storage), row in rows.items():
        assert (row.status, row.conversion) == (Status.OK, Conversion.AMORTISED)
        assert (row.n, row.p50_ms) == (7, 1.0)
        assert set(row.errors) == {"gauss", "outlier"}
        assert not row.extremes
        assert row.gb_s == pytest.approx(read_bytes(path, shape, storage) / 1e6)
        assert own[path].p50_ms == 3.0
        assert row.aside
        assert not row.prepared
    # errors are against the inputs as given: what the form rounds away counts
    assert rows["bf16", BF16].errors["gauss"]["rel_l2"] > 1e-3
    assert rows["fp16", FP16].errors["gauss"]["rel_l2"] > 1e-5
    assert rows["fp16x3", PLANES].errors["gauss"]["rel_l2"] < 2.0**-20


def test_the_configuration_is_the_one_that_won(have: Callable[..., None], clock: Clock) -> None:
    have(reading("reads", clock))
    rows = run(workload(), ("fp16x3",))
    assert [(row.storage, row.config, row.p50_ms) for row in rows] == [
        (Storage.FP32, {"n": 1}, 3.0), (PLANES, {"n": 1}, 1.0),
    ]  # fmt: skip


class Pool:
    """Compiles all, but for what is not to be."""

    def __init__(self, never: Config) -> None:
        self.never = never

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(
        self, kernel: Kernel, path: str, it: Workload, config: Config,
        storage: Storage | None = None, *, with_lse: bool = True, urgent: bool = False,
    ) -> Future[Built]:  # fmt: skip
        future: Future[Built] = Future()
        if storage is None or config != self.never:
            future.set_result(Built())
        return future


@pytest.mark.parametrize(("never", "best"), [(0, 2), (2, 4), (1, None)])
def test_on_a_gpu_those_near_the_winner_are_tried_on_each_form(
    never: int, best: int | None, have: Callable[..., None], clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own_ms, cache_ms = {1: 1.0, 2: 1.2, 3: 2.0, 4: 1.3}, {1: 1.0, 2: 0.7, 3: 0.1, 4: 0.9}

    def run_it(call: Call, path: str, config: Config) -> None:
        clock.ms = (own_ms if call.halves is None else cache_ms)[config["n"]]  # type: ignore[index]
        right(whole(call), path, config)

    monkeypatch.setattr(devices, "target", lambda device: GPU)
    monkeypatch.setattr(measuring, "CompilePool", lambda target: Pool({"n": never}))
    have(
        replace(
            reading("reads"), run=run_it, device="triton",
            configs=lambda path, it, target: [{"n": n} for n in own_ms],
            launches=lambda call, path, config: [],
        )
    )  # fmt: skip
    own, planes = run(workload(), ("fp16x3",), seconds=4.0)
    assert own.config == {"n": 1}
    if best is None:  # the winner is waited for
        assert planes.reason == "it was not compiled before the time was up"
    else:
        assert (planes.config, planes.p50_ms) == ({"n": best}, cache_ms[best])


def test_a_form_that_fails_leaves_the_path_alone(have: Callable[..., None]) -> None:
    kernel = reading("reads")

    def breaks(call: Call, path: str, config: Config) -> None:
        if call.halves is not None:
            raise RuntimeError("no planes")
        kernel.run(call, path, config)

    have(replace(kernel, run=breaks))
    own, planes = run(workload(), ("fp16x3",))
    assert own.status is Status.OK
    assert (planes.status, planes.reason) == (Status.FAILED, "RuntimeError: no planes")


def test_where_the_path_fails_so_do_its_forms(have: Callable[..., None]) -> None:
    def breaks(call: Call, path: str, config: Config) -> None:
        raise RuntimeError("no")

    have(replace(reading("reads"), run=breaks))
    rows = run(workload(), ("fp16x3",))
    assert [(row.status, row.reason) for row in rows] == [(Status.FAILED, "RuntimeError: no")] * 2


def test_what_does_not_fit_is_unsupported(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "free_bytes", lambda device: 1000)
    have(reading("reads"))
    own, planes = run(workload(), ("fp16x3",))
    assert own.status is Status.OK
    assert (planes.status, planes.reason, planes.lacked_memory) == (
        Status.UNSUPPORTED, "the cache needs 0.0 GiB, and 0.0 GiB are free", True,
    )  # fmt: skip


def test_forms_are_not_measured_without_time(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_TIMED_BY", -1.0)
    have(reading("reads"))
    own, planes = run(workload(), ("fp16x3",))
    assert own.status is Status.OK
    assert (planes.status, planes.reason) == (Status.SKIPPED, "there was no time for it")


@pytest.mark.parametrize("layout", list(Layout))
def test_planes_hold_the_inputs_in_every_layout(layout: Layout) -> None:
    shape = workload(batch=2, kv_len=37, layout=layout, page_size=8 if layout == "paged" else None)
    given = in_layout(shape, call_of(shape, *draw(shape, "outlier", 0, CPU)))
    held = stored(given, PLANES)
    assert stored(held, PLANES) is held
    assert held.requests is given.requests
    for mine, its in ((whole(held).k, given.k), (whole(held).v, given.v)):
        assert mine.shape == its.shape
        # 22 bits of the largest element of each token
        assert ((mine - its).abs().amax(-1) <= 2.0**-22 * its.abs().amax(-1)).all()


def test_a_decode_of_planes_is_as_accurate_as_of_fp32() -> None:
    kernel = registry.kernel("triton-decode")
    shape = workload(batch=2, kv_len=70)
    config = {"block_kv": 32, "split": 64, "num_warps": 4, "num_stages": 2}
    given = call_of(shape, *draw(shape, "gauss", 0, CPU))
    held = replace(stored(given, PLANES), out=torch.empty_like(given.out))
    kernel.run(given, "fp16x3", config)

    def off() -> float:
        kernel.run(held, "fp16x3", config)
        return float((held.out - given.out).norm() / given.out.norm())

    assert off() < 2.0**-20
    assert held.halves is not None
    held.halves.v[1].zero_()  # both planes are read
    assert off() > 2.0**-14


def test_what_is_compiled_fills_the_cache_too() -> None:
    kernel = registry.kernel("triton-decode")
    config = {"block_kv": 32, "split": 64, "num_warps": 4, "num_stages": 2}
    shape = workload()
    plain = launches_of(kernel, "fp16x3", shape, config, None)
    planes = launches_of(kernel, "fp16x3", shape, config, PLANES)
    assert len(planes) == len(plain) + 1
    assert [it.function.__name__ for it in planes][0] == "_append"
    run_launches([])  # nothing of it ran: its tensors have no memory
    assert planes[0].arguments["K"].device.type == "meta"


def test_bytes_read_of_a_cache() -> None:
    shape = workload(batch=3)  # 2 KV heads, head dim 32, 64 keys
    assert shape.token_bytes(Storage.FP32) == 2 * 64 * 4
    assert shape.token_bytes(BF16) == 2 * 64 * 2
    assert shape.token_bytes(PLANES) == 2 * (64 * 4 + 8)
    tokens = 3 * 64
    assert read_bytes("fp16x3", shape, PLANES) == tokens * 2 * (64 * 4 + 8)
    assert read_bytes("fp16", shape, PLANES) == tokens * 2 * (64 * 2 + 8)
    assert read_bytes("bf16", shape, BF16) == tokens * 2 * 64 * 2
