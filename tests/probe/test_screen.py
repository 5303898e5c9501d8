"""Kernels that are wrong in ways that a few sampled rows do not show."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_kernels import Run, fake, right, workload

from autoprec import registry
from autoprec import tune as tuning
from autoprec.budget import Budget
from autoprec.kernels.interface import Call, Kernel
from autoprec.policy.choose import choose
from autoprec.probe import lineup
from autoprec.probe.effort import Effort
from autoprec.probe.families import chosen
from autoprec.probe.measure import measure
from autoprec.probe.screen import edges
from autoprec.types import Config, Dtype, Measurement, Phase, Status, Workload

CPU = torch.device("cpu")
EFFORT = Effort(rounds=(1,), samples=2, rows=16, groups=4)
PREFILL = workload(phase=Phase.PREFILL, q_len=1024, kv_len=1024)
DECODE = workload(kv_len=256)


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in the registry's place; no baselines."""
    monkeypatch.setattr(lineup, "BASELINES", ())

    def put(*kernels: Kernel) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))

    return put


def run(
    *workloads: Workload, paths: tuple[str, ...] = ("fp32", "bf16"), budget: str = "1e-2",
    seed: int = 0, families: tuple[str, ...] = ("typical", "extreme"),
) -> dict[str, Measurement]:  # fmt: skip
    """Measure as ``tune`` does; the rows by path."""
    rows = measure(
        workloads,
        device=CPU,
        paths=paths,
        effort=EFFORT,
        deadline=time.monotonic() + 300,
        observe=lambda event: None,
        families=chosen(families),
        judge=tuning.judge(Budget.parse(budget), 0.5, allow_baselines=False, prunes=False),
        seed=seed,
    )
    return {row.path: row for row in rows}


def chosen_paths(rows: dict[str, Measurement], budget: str = "1e-2") -> list[str]:
    choices, _ = choose(list(rows.values()), Budget.parse(budget), confidence=0.5)
    return [choice.path for choice in choices]


def one_row_in_4096(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    if path == "bf16":
        call.out.view(-1, call.out.shape[-1])[4093::4096] *= 0.5


def nan_where_one_key_is_left(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    if path == "bf16" and call.k.shape[2] % 64 == 1:
        call.out[..., -1, :] = float("nan")


def truncated(call: Call, path: str, config: Config) -> None:
    """Bf16 by dropping the lower half of fp32, as a kernel that does not round would."""
    if path == "bf16":
        q, k, v = (
            (x.view(torch.int32) & -65536).view(torch.float32) for x in (call.q, call.k, call.v)
        )
        call = replace(call, q=q, k=k, v=v)
    right(call, "fp32", config)


def sixteen_bit_sums(call: Call, path: str, config: Config) -> None:
    """P V summed key by key in bf16."""
    right(call, path, config)
    if path != "bf16":
        return
    group = call.q.shape[1] // call.k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (call.k, call.v))
    s = call.sm_scale * call.q.double() @ k.mT
    if call.diagonal is not None:
        i, j = (torch.arange(n)[:, None] for n in s.shape[-2:])
        s = s.masked_fill(i + call.diagonal < j.T, float("-inf"))
    p = torch.softmax(s, -1)
    out = torch.zeros(call.out.shape, dtype=torch.bfloat16)
    for key in range(k.shape[2]):
        out += (p[..., key : key + 1] * v[:, :, key : key + 1]).to(torch.bfloat16)
    call.out.copy_(out)


def scaled_twice(call: Call, path: str, config: Config) -> None:
    """Every logit off by a thousandth, in the path fp32."""
    wrong = call if path == "bf16" else replace(call, sm_scale=call.sm_scale * 1.03)
    right(wrong, path, config)


def test_right_kernels_pass(have: Callable[..., None]) -> None:
    have(fake("right", paths=("fp32", "bf16")))
    for it in (PREFILL, DECODE):
        rows = run(it)
        assert {row.status for row in rows.values()} == {Status.OK}, rows["bf16"].reason
        assert set(rows["bf16"].extremes) == {"resonant", "tiny", "large", "cancel"}


def reason(kernel: Run, it: Workload, have: Callable[..., None], path: str = "bf16") -> str:
    """Why a row failed, beside another kernel that is right."""
    have(fake("bad", kernel, paths=("fp32", "bf16")))
    row = run(it)[path]
    assert row.status is Status.FAILED
    return row.reason


def test_one_row_in_4096_wrong(have: Callable[..., None]) -> None:
    found = reason(one_row_in_4096, PREFILL, have)
    assert found.startswith("row 1021 of head 3 of request 0 is wrong on gauss: its error of 5.0")
    assert found.endswith("times the median row's")
    assert chosen_paths(run(PREFILL)) == ["fp32"]


def test_the_most_accurate_one_may_be_the_one_that_is_wrong(have: Callable[..., None]) -> None:
    def wrong(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        if path == "fp32" and call.out.shape[2] == 1024:
            call.out[0, 2, 700] *= 0.9

    assert reason(wrong, PREFILL, have, "fp32").startswith(
        "row 700 of head 2 of request 0 is wrong on gauss: its error of 1.00e-01 is "
    )


def test_nan_at_one_key_more_than_whole_tiles(have: Callable[..., None]) -> None:
    assert reason(nan_where_one_key_is_left, DECODE, have) == (
        "on decode b1 q1 kv65 4/2 d32 causal fp32: "
        "NaN or infinity in 4 of 4 rows looked at, on gauss"
    )
    assert "kv65" in reason(nan_where_one_key_is_left, PREFILL, have)


def test_nan_in_a_row_that_is_not_sampled(have: Callable[..., None]) -> None:
    def hole(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        if path == "bf16" and call.out.shape[2] == 1024:
            call.out[0, 1, 333] = float("nan")

    assert reason(hole, PREFILL, have) == "NaN or infinity in 1 of 4096 rows, on gauss"


def test_operands_truncated(have: Callable[..., None]) -> None:
    """Twice the error of rounding, and biased: over a budget that rounding keeps to."""

    def bf16(seed: int) -> dict[str, Measurement]:
        return run(DECODE, paths=("bf16",), families=("gauss",), seed=seed)

    have(fake("right", paths=("bf16",)))
    budget = f"{1.4 * bf16(0)['bf16'].bounds['gauss']['rel_l2']:.3e}"
    assert chosen_paths(bf16(1), budget) == ["bf16"]
    have(fake("bad", truncated, paths=("bf16",)))
    assert chosen_paths(bf16(1), budget) == []


def test_sums_in_sixteen_bits(have: Callable[..., None]) -> None:
    found = reason(sixteen_bit_sums, workload(kv_len=1024), have)
    assert "times what its path gives, so it does not compute what the path says" in found


def test_less_than_the_path_says(have: Callable[..., None]) -> None:
    assert "does not compute what the path says" in reason(scaled_twice, DECODE, have, "fp32")


def test_above_the_certified_bound_is_a_bug(have: Callable[..., None]) -> None:
    def wrong(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        if path == "fp32" and call.v.abs().max() > 100:  # in the family large
            call.out.mul_(1.05)

    found = reason(wrong, DECODE, have, "fp32")
    assert "times the certified bound of its path on large, which is a bug" in found


@pytest.mark.parametrize("phase", list(Phase))
def test_edges_are_of_the_workloads_kind(phase: Phase) -> None:
    lengths: dict[str, Any] = {
        Phase.PREFILL: {"q_len": 1024, "kv_len": 1024},
        Phase.APPEND: {"q_len": 64, "kv_len": 1024},
        Phase.DECODE: {"q_len": 1, "kv_len": 1024},
    }[phase]
    it = workload(phase=phase, input_dtype=Dtype.BF16, batch=4, **lengths)
    for edge in edges(it):
        assert (edge.batch, edge.group, edge.input_dtype) == (1, it.group, Dtype.BF16)
        assert edge.kv_len % 64 in (1, 63)
