"""Errors of prompts of unequal lengths, and what becomes of kernels that are wrong on them."""

import math
from collections.abc import Callable
from dataclasses import replace

import exact_requests
import pytest
import torch
from fake_kernels import workload
from measuring import CPU, SMALL_EFFORT, by_path, run

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe import lineup
from autoprec.probe.inputs import call_of, draw, end_to_end, in_a_row
from autoprec.probe.request_oracle import RequestOracle
from autoprec.types import Config, Layout, Mask, Phase, Status

PROMPTS = workload(
    phase=Phase.PREFILL, batch=4, q_len=400, kv_len=400, layout=Layout.RAGGED, head_dim=16
)


def drawn(mask: Mask = Mask.CAUSAL) -> Call:
    it = replace(PROMPTS, mask=mask)
    return end_to_end(it, call_of(in_a_row(it), *draw(in_a_row(it), "gauss", 0, CPU)))


@pytest.mark.parametrize("mask", list(Mask))
def test_exact_results_have_no_error(mask: Mask) -> None:
    call = drawn(mask)
    exact_requests.run(call, "fp32", {})
    oracle = RequestOracle(call, "gauss", rows=16, groups=8, seed=0)
    errors = oracle.errors(call.out, call.lse)
    assert errors["row_rel_max"] < 2**-24 * math.sqrt(16)  # each element is rounded once, to fp32
    assert errors["lse_abs"] < 1e-6


def test_a_request_that_sees_another_is_found() -> None:
    call = drawn()
    one = replace(call, requests=None)  # one long prompt: all but the first are wrong
    exact_requests.run(one, "fp32", {})
    oracle = RequestOracle(call, "gauss", rows=16, groups=8, seed=0)
    assert oracle.errors(call.out, None)["rel_l2"] > 0.1


def test_a_row_is_found_in_its_request() -> None:
    call = drawn()
    oracle = RequestOracle(call, "gauss", rows=16, groups=8, seed=0)
    before = 0
    for number, length in enumerate(PROMPTS.lengths):
        for row in (0, length - 1):
            single, place, request = oracle.around((0, 3, before + row))
            assert (place, request) == ((0, 3, row), number)
            assert torch.equal(single.q[place], call.q[0, 3, before + row])
        before += length


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernel], None]:
    monkeypatch.setattr(lineup, "BASELINES", ())
    return lambda kernel: monkeypatch.setattr(registry, "_load", lambda: ((kernel,), {}))


def test_they_are_measured_as_they_lie(have: Callable[[Kernel], None]) -> None:
    seen = []

    def listens(call: Call, path: str, config: Config) -> None:
        exact_requests.run(call, path, config)
        if call.requests is not None and call.requests.q_starts is not None:
            seen.append(call.requests.kv_lens.tolist())

    have(replace(exact_requests.KERNEL, run=listens))
    row = by_path(run(PROMPTS, paths=("fp32",), effort=replace(SMALL_EFFORT, groups=8)))["fp32"]
    assert row.status is Status.OK, row.reason
    assert row.p50_ms is not None
    assert row.tflops == pytest.approx(PROMPTS.flops / row.p50_ms / 1e9)
    assert set(map(tuple, seen)) == {PROMPTS.lengths}


def test_a_wrong_row_names_its_request(have: Callable[[Kernel], None]) -> None:
    first = PROMPTS.lengths[0]

    def strays(call: Call, path: str, config: Config) -> None:
        exact_requests.run(call, path, config)
        if call.requests is not None and call.requests.q_starts is not None and path == "bf16":
            call.out[0, 1, first + 9] *= 2

    have(replace(exact_requests.KERNEL, run=strays))
    rows = by_path(run(PROMPTS, effort=replace(SMALL_EFFORT, rows=2)))
    assert rows["fp32"].status is Status.OK
    assert rows["bf16"].reason.startswith("row 9 of head 1 of request 1 is wrong on gauss: ")
