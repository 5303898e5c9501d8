"""Several configurations on a form of a cache: what of one of them is said of the whole row."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fake_kernels import fake, right, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel, Target
from autoprec.probe import caches, lineup, measure
from autoprec.probe.accuracy import Oracle
from autoprec.probe.contender import Contender
from autoprec.probe.effort import Effort
from autoprec.probe.families import FAMILIES
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import call_of, draw
from autoprec.probe.judge import LENIENT
from autoprec.probe.share import Share
from autoprec.types import Config, Conversion, Role, Status, Storage

CPU = torch.device("cpu")
GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)


class Clock:
    """A run takes as many milliseconds as its configuration says."""

    def __init__(self) -> None:
        self.ms = 0.0

    def sample_ms(self, call: Callable[[], object]) -> float:
        call()
        return self.ms


def timed(breaks: tuple[int, ...]) -> tuple[list[Contender], Contender]:
    """What is timed on a cache in bf16, where some configurations break once they are timed."""
    clock, runs = Clock(), dict.fromkeys((1, 2, 3), 0)

    def run(call: Call, path: str, config: Config) -> None:
        n = int(config["n"])
        runs[n] += 1
        if n in breaks and runs[n] > 1:
            raise RuntimeError("no")
        clock.ms = float(n)
        right(replace(call, k=call.k.float(), v=call.v.float()), path, config)

    it = workload()
    kernel = fake("reads", run, paths=("bf16",))
    kind = {"role": Role.CANDIDATE, "path": "bf16", "name": "reads", "workload": it}
    plain = Contender(**kind, kernel=kernel, conversion=Conversion.INCLUDED)  # type: ignore[arg-type]
    cached = Contender(
        **kind, kernel=kernel, conversion=Conversion.NONE, included=plain,  # type: ignore[arg-type]
        storage=Storage.BF16,
    )  # fmt: skip
    harness = Harness(
        device=CPU, target=GPU, timer=clock, seed=0,
        effort=Effort(rounds=(1, 2), samples=4, rows=8, groups=2),
        observe=lambda event: None, builds={}, patience_s=0.0, submit=None, judge=LENIENT,
        families={"gauss": FAMILIES["gauss"]}, max_workspace_gib=None,
    )  # fmt: skip
    call = call_of(it, *draw(it, "gauss", 0, CPU))
    oracle = Oracle(call, "gauss", rows=8, groups=2, seed=0)
    share = Share(time.monotonic() + 60, time.monotonic() + 60)
    near = {plain: [{"n": 2}, {"n": 1}, {"n": 3}]}
    builds = caches.compiling([plain, cached], {plain: {"n": 2}}, near, harness)
    return caches.measure([plain, cached], call, oracle, harness, share, builds), cached


@pytest.mark.parametrize(("breaks", "wins"), [((), 1), ((3,), 1), ((1,), 2), ((2, 3), 1)])
def test_a_configuration_that_breaks_costs_no_other(breaks: tuple[int, ...], wins: int) -> None:
    found, cached = timed(breaks)
    assert (cached.status, cached.reason, cached.best) == (Status.OK, "", {"n": wins})
    assert found == [cached]
    assert cached.samples == [float(wins)] * 7


def test_where_all_break_the_row_says_so() -> None:
    found, cached = timed((1, 2, 3))
    assert found == []
    assert (cached.status, cached.reason) == (Status.FAILED, "RuntimeError: no")


def test_a_pool_that_is_lent_forgets_what_was_not_compiled_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pool:
        forgotten = 0

        def submit(self) -> None:
            raise AssertionError("there is nothing to compile")

        def forget(self) -> None:
            self.forgotten += 1

    def none_at_all() -> tuple[tuple[Kernel, ...], dict[str, str]]:
        return (), {}

    monkeypatch.setattr(lineup, "BASELINES", ())
    monkeypatch.setattr(registry, "_load", none_at_all)
    monkeypatch.setattr(measure.devices, "target", lambda device: GPU)
    pool = Pool()
    rows = measure.measure(
        [workload()],
        device=CPU,
        paths=("fp32",),
        effort=Effort(rounds=(1,), samples=1, rows=8, groups=2),
        deadline=time.monotonic() + 60,
        observe=lambda event: None,
        pool=pool,  # type: ignore[arg-type]
    )
    assert next(rows).status is Status.UNSUPPORTED
    assert pool.forgotten == 0
    rows.close()  # type: ignore[attr-defined]
    assert pool.forgotten == 1
