"""fp16's range: what it cannot hold is counted, and nothing else; NaN and infinity as in fp32."""

import math
import threading
from collections.abc import Callable

import made_up
import pytest
import torch
from exact import cpu_profile, naive
from interpreted import plan_of
from torch import Tensor

from autoprec.plan.plan import Plan
from autoprec.probe import device as devices

# A row of fp16x3 is right to 2^-20 (the budget of the path), against 2^-22 of fp32 here.
ACCURATE = 2.0**-20
PHASES = {"prefill": 20, "decode": 3}

Change = Callable[[Tensor, Tensor, Tensor], object]


@pytest.fixture(autouse=True)
def _triton() -> None:
    pytest.importorskip("triton")


def draw(q_len: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, tokens, 16, generator=generator) for tokens in (q_len, 100, 100))
    return q, k, v


def spread(x: Tensor, shape: tuple[int, ...]) -> None:
    """Factors of 1e-8 to 1e8."""
    generator = torch.Generator().manual_seed(2)
    x *= 10 ** (16 * torch.rand(shape, generator=generator) - 8)


def heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    for x, sizes in ((q, (1e-30, 1e30)), (k, (1e30, 1e-30)), (v, (1e-30, 1e30))):
        x *= torch.tensor(sizes)[:, None, None]


def zeros(q: Tensor, k: Tensor, v: Tensor) -> None:
    q[:, :, :2] = 0
    k[:, :, :32] = 0
    v[:, :, 32:64] = 0
    v[:, :, 70] = 0


ordinary: dict[str, Change] = {
    "gauss": lambda q, k, v: None,
    "heads": heads,
    "zeros": zeros,
    "large": lambda q, k, v: v.mul_(3e36),
    "tiny": lambda q, k, v: v.mul_(1e-35),
}
wide: dict[str, Change] = {
    "tokens of v": lambda q, k, v: spread(v, (1, 2, 100, 1)),
    "tokens of k": lambda q, k, v: spread(k, (1, 2, 100, 1)),
    "elements of k": lambda q, k, v: spread(k, (1, 2, 100, 16)),
    "elements of q": lambda q, k, v: spread(q, q.shape),
    "one key": lambda q, k, v: k[:, :, 50].mul_(2.0**-22),
    "one value": lambda q, k, v: v[:, :, 50].mul_(2.0**-22),
    "tiles of v": lambda q, k, v: v[:, :, :64].mul_(1e-8),
    "tiny tiles of v": lambda q, k, v: v[:, :, :64].mul_(1e-36),
}


def errors(got: Tensor, want: Tensor) -> Tensor:
    return (got.double() - want).norm(dim=-1) / want.norm(dim=-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ordinary)
def test_what_fits_is_accurate_and_not_counted(
    name: str, phase: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    q, k, v = draw(PHASES[phase])
    ordinary[name](q, k, v)
    got = plan.attention(q, k, v, causal=causal)
    assert errors(got, naive(q, k, v, causal=causal)[0]).max() <= ACCURATE
    assert plan.stats() == {"calls": {"fp16x3": 1}, "range": 0, "fell": {}, "drift": {}}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", wide)
def test_what_does_not_is_counted(name: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    q, k, v = draw(PHASES[phase])
    wide[name](q, k, v)
    assert plan.attention(q, k, v, causal=False).isfinite().all()
    if phase == "decode" and name.endswith("tiles of v"):
        return  # a split has one size there, and splits are merged in fp32
    assert plan.stats()["range"] > 0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_zero_that_was_none_is_counted(
    which: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^-40 of a tile's largest is the first to vanish: scaled, it is half of fp16's least."""
    for exponent, lost in ((-38, 0), (-40, 1)):
        plan = plan_of("fp16x3", monkeypatch)
        tensors = {name: torch.ones(1, 1, n, 16) for name, n in
                   (("q", PHASES[phase]), ("k", 100), ("v", 100))}  # fmt: skip
        tensors[which][0, 0, 0, 3] = 2.0**exponent
        plan.attention(**tensors, causal=False)
        # every split reads the queries
        assert plan.stats()["range"] == lost * (2 if (which, phase) == ("q", "decode") else 1)


def test_preparing_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    q, k, v = draw(40)
    k[0, 0, 0, 0] = 1e-20
    held = plan.prepare_kv(k, v, q_len=40)
    assert plan.stats() == {"calls": {}, "range": 1, "fell": {}, "drift": {}}
    for _ in range(2):
        plan.append(q, held, causal=True)
    assert plan.stats() == {"calls": {"fp16x3": 2}, "range": 1, "fell": {}, "drift": {}}


def test_other_paths_count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("bf16x3", monkeypatch)
    q, k, v = draw(40)
    spread(k, (1, 2, 100, 16))
    plan.attention(q, k, v, causal=False)
    assert plan.stats() == {"calls": {"bf16x3": 1}, "range": 0, "fell": {}, "drift": {}}


def test_a_cpu_kernel_counts_too() -> None:
    target = devices.target(torch.device("cpu"))
    assert target.kind == "cpu"
    rows = [
        made_up.measurement("fp16", 1.0, 4e-4, kernel="cpu-blocked",
                            workload=made_up.workload(kv_len=128, head_dim=16),
                            config={"block_q": 64, "block_kv": 64})
    ]  # fmt: skip
    plan = Plan(cpu_profile(rows), torch.device("cpu"))
    q, k, v = draw(100)
    plan.prefill(q, k, v, causal=True)
    assert plan.stats()["range"] == 0
    k[0, 1, 0, 0] = 1e-20
    plan.prefill(q, k, v, causal=False)
    assert plan.stats() == {
        "calls": {"fp16": 2},
        "range": 2,
        "fell": {},
        "drift": {},
    }  # two blocks of queries read it


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("which", ["q", "k", "v"])
@pytest.mark.parametrize("path", ["fp16x3", "bf16x3", "bf16x6", "tf32x3", "fp16"])
def test_finite_where_fp32_is(
    path: str, which: str, value: float, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key at -inf to some queries and +inf to others has no weight, or all of it."""
    q, k, v = draw(PHASES[phase])
    {"q": q, "k": k, "v": v}[which][0, 0, 1, 3] = value
    want = plan_of("fp32", monkeypatch).attention(q, k, v, causal=False).isfinite()
    got = plan_of(path, monkeypatch).attention(q, k, v, causal=False).isfinite()
    assert torch.equal(got, want)
    # one sign of q's gives the key no weight, so that something is compared
    assert which != "k" or math.isnan(value) or (want[0, 0].any() and not want[0, 0].all())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [1e8, 1.3e8, 2e8])
def test_logits_that_differ_by_less_than_the_shift(
    size: float, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around 2^27 fp32 numbers are 16 apart: 2^16 times a probability is beyond fp16."""
    q, k, v = draw(PHASES[phase])
    got = plan_of("fp16x3", monkeypatch).attention(q * size, k, v, causal=False)
    assert got.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_scale_beyond_fp32_is_no_nan(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys at -inf, 1e30 * -1e30, beside keys of zero: fp32 is finite."""
    q, k, v = draw(40)
    q, k = q.abs() * 1e30, -k.abs() * 1e30
    k[:, :, ::2] = 0
    want = plan_of("fp32", monkeypatch).attention(q, k, v, causal=causal)
    got = plan_of("fp16x3", monkeypatch).attention(q, k, v, causal=causal)
    assert want.isfinite().all()
    assert errors(got, want.double()).max() <= ACCURATE


def test_threads_count_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = plan_of("fp16x3", monkeypatch)._runner.counts

    def work() -> None:
        for _ in range(5000):
            counts.called("fp16x3")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.read() == {"calls": {"fp16x3": 20000}, "range": 0, "fell": {}, "drift": {}}
