"""What is measured where kernels are compiled beforehand, as for a GPU."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from fake_kernels import fake
from measuring import DECODE, by_path, run

from autoprec.kernels.interface import Call, Kernel, Launch, Target
from autoprec.probe import device as devices
from autoprec.probe import lineup
from autoprec.probe import measure as probe
from autoprec.probe.compile import Built
from autoprec.probe.contender import Contender
from autoprec.probe.events import Event, Remark
from autoprec.types import Config, Status, Workload


class FakePool:
    """Answers at once with what a configuration asks for."""

    def __init__(self, target: Target) -> None:
        self.submitted: list[Config] = []
        self.with_lse: list[bool] = []

    def __enter__(self) -> "FakePool":
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def submit(
        self, kernel: Kernel, path: str, it: Workload, config: Config, *, with_lse: bool = True
    ) -> Future[Built]:
        self.submitted.append(config)
        self.with_lse.append(with_lse)
        future: Future[Built] = Future()
        if config["build"] != "never":
            shared = 1 << 20 if config["build"] == "large" else 1000
            reason = "PTXASError: no" if config["build"] == "broken" else ""
            future.set_result(Built(shared_bytes=shared, reason=reason))
        return future


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakePool]]:
    """A CPU that has its kernels compiled, like a GPU."""
    pools: list[FakePool] = []
    target = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)

    def start(target: Target) -> FakePool:
        pools.append(FakePool(target))
        return pools[-1]

    monkeypatch.setattr(devices, "target", lambda device: target)
    monkeypatch.setattr(probe, "CompilePool", start)
    monkeypatch.setattr(lineup, "BASELINES", ())
    yield pools
    assert all(pool.closed for pool in pools)


def compiled(*builds: str, name: str = "jit", path: str = "fp32") -> Kernel:
    kernel = fake(name, paths=(path,), configs=tuple({"build": build} for build in builds))
    return Kernel(**{**vars(kernel), "device": "triton", "launches": lambda call, path, config: []})


def test_configurations_are_compiled_beforehand(
    have: Callable[..., None], gpu: list[FakePool]
) -> None:
    have(compiled("fine", "large"), compiled("fine", name="other", path="bf16"))
    events: list[Event] = []
    rows = run(events=events)
    assert [row.status for row in rows] == [Status.OK, Status.OK]
    assert rows[0].config == {"build": "fine"}
    # the first of each path, then the second
    assert gpu[0].submitted == [{"build": "fine"}, {"build": "fine"}, {"build": "large"}]
    # what is too large for a chip is nothing to remark on
    assert not [event for event in events if isinstance(event, Remark)]


def test_what_gives_no_log_sum_exp_is_compiled_for_that(
    have: Callable[..., None], gpu: list[FakePool]
) -> None:
    def without(*asked: Any) -> list[Contender]:
        found = lineup.line_up(*asked)
        for contender in found:
            contender.with_lse = False
        return found

    have(compiled("fine"))
    for line_up in (lineup.line_up, without):
        (row,) = run(paths=("fp32",), line_up=line_up)
        assert row.status is Status.OK
    assert [pool.with_lse for pool in gpu] == [[True], [False]]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("build", "status", "reason"),
    [
        ("broken", Status.FAILED, "PTXASError: no"),
        ("large", Status.UNSUPPORTED,
         "a block needs 1048576 bytes of shared memory, and sm_90 has 232448"),
        ("never", Status.SKIPPED, "it was not compiled before the time was up"),
    ],
)  # fmt: skip
def test_what_is_not_compiled_is_not_run(
    build: str, status: Status, reason: str, have: Callable[..., None]
) -> None:
    have(compiled(build), compiled("fine", name="other", path="bf16"))
    rows = by_path(run(seconds=2))
    assert (rows["fp32"].status, rows["fp32"].reason) == (status, reason)
    assert rows["bf16"].status is Status.OK


@pytest.mark.usefixtures("gpu")
def test_a_configuration_that_does_not_compile_is_said(have: Callable[..., None]) -> None:
    have(compiled("broken", "fine"))
    events: list[Event] = []
    assert by_path(run(events=events, paths=("fp32",)))["fp32"].config == {"build": "fine"}
    assert [event for event in events if isinstance(event, Remark)] == [
        Remark(f"{DECODE}, fp32 by jit: a configuration was left out: PTXASError: no.")
    ]


def roomy(*gib: float, name: str = "roomy") -> Kernel:
    """A kernel whose configurations take so much memory for partial results."""
    kernel = fake(name, configs=tuple({"build": "fine", "mib": int(g * 1024)} for g in gib))

    def launches(call: Call, path: str, config: Config) -> list[Launch]:
        assert call.q.device.type == "meta"  # nothing is allocated to find out
        partials = torch.empty(int(config["mib"]), 1 << 20, dtype=torch.uint8, device="meta")
        return [Launch(None, (1,), {"PARTIALS": partials})]

    return dataclasses.replace(kernel, device="triton", launches=launches)


@pytest.mark.usefixtures("gpu")
def test_a_configuration_that_needs_too_much_workspace_is_not_run(
    have: Callable[..., None],
) -> None:
    have(roomy(3.5, 0.5, 2.0), roomy(3.5, 2.0, name="large"))
    events: list[Event] = []
    small, large = run(paths=("fp32",), max_workspace_gib=1.0, events=events)
    assert (small.status, small.config["mib"]) == (Status.OK, 512)
    assert (large.status, large.reason) == (
        Status.UNSUPPORTED, "it needs 2 GiB of workspace, and at most 1 GiB are allowed",
    )  # fmt: skip
    assert not [event for event in events if isinstance(event, Remark)]  # as it was asked
    (row,) = run(paths=("fp32",), max_workspace_gib=0.5)[:1]
    assert row.status is Status.OK  # exactly as much as is allowed
