"""Baselines in the draws of a prefill: each band as what they have a mask for."""

import time
from collections.abc import Callable

import pytest
import torch
from fake_kernels import right, workload

from autoprec import registry
from autoprec.kernels.interface import Call
from autoprec.probe import lineup
from autoprec.probe.baselines import Baseline
from autoprec.probe.effort import Effort
from autoprec.probe.families import chosen
from autoprec.probe.judge import Judge
from autoprec.probe.measure import measure
from autoprec.probe.peer import causal
from autoprec.types import Phase, Status


def test_a_library_that_knows_one_diagonal_has_every_band(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys: list[int] = []

    def bind(call: Call, path: str) -> Callable[[], torch.Tensor]:
        causal(call, path)  # refuses what other libraries have no mask for
        keys.append(call.k.shape[2])

        def run() -> torch.Tensor:
            right(call, path, {})
            return call.out.clone()

        return run

    library = Baseline(
        name="library", device="any", paths=("sdpa-math",), phases=tuple(Phase), bind=bind,
        converts=lambda path, dtype: False, configs=lambda path, workload, target: ({},),
        run=right,
    )  # fmt: skip
    monkeypatch.setattr(lineup, "BASELINES", (library,))
    monkeypatch.setattr(registry, "_load", lambda: ((), {}))
    (row,) = measure(
        [workload(phase=Phase.PREFILL, q_len=200, kv_len=200)],
        device=torch.device("cpu"),
        paths=(),
        effort=Effort(rounds=(1, 1), samples=4, rows=8, groups=2),
        deadline=time.monotonic() + 60,
        observe=lambda event: None,
        families=chosen(("gauss",)),
        judge=Judge(needed=59, shortlist=lambda rows: rows),
    )
    assert (row.status, row.reason, row.n_draws) == (Status.OK, "", 66)
    # the whole twice; its last queries, the first ones, some between, and the last ones again
    assert keys == [200, 200, 200, 8, 104, 200]
