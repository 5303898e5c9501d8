"""Calls like one before are bound once, and every difference that Triton looks at is one."""

from typing import Any

import gpu
import pytest
import torch
from exact import Recorder, inputs, naive

from autoprec.kernels.interface import Call, Launch, Planes, Prepared, run_launches
from autoprec.plan.execute import run_bound
from autoprec.plan.request import Request
from autoprec.types import Dtype


class Decided:
    """Stands for a decision whose kernel can be bound."""

    path, config = "bf16", {"block": 64}

    def __init__(self, recorder: Recorder) -> None:
        def launches(call: Call, path: str, config: Any) -> list[Launch]:
            return [Launch(call, (1,), {})]

        self.kernel = recorder.kernel("exact", launches=launches)


class Again:
    """Stands for what can be run again, but for the third time."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def run(self, tensors: Any, stream: int) -> bool:
        self.ran.append(tensors)
        return len(self.ran) != 3


def call(**changes: Any) -> Call:
    q, k, v = inputs(q_len=1)
    values = {"q": q, "k": k, "v": v, "out": torch.empty(2, 4, 1, 8), "lse": None,
              "diagonal": 6, "sm_scale": 0.5} | changes  # fmt: skip
    return Call(**values)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    from autoprec.kernels import launches
    from autoprec.plan import execute as module

    found: list[Again] = []

    def bind(*arguments: Any) -> Again:
        found.append(Again())
        return found[-1]

    monkeypatch.setattr(launches, "bind", bind)
    monkeypatch.setattr(module, "_stream", lambda device: 0)
    return found


def test_the_same_is_bound_once_and_what_fails_runs(made: list[Again], recorder: Recorder) -> None:
    bound: dict[object, Any] = {}
    decided: Any = Decided(recorder)
    for _ in range(4):
        run_bound(bound, decided, call())
    assert len(made) == 1
    assert len(made[0].ran) == 3
    (fallen,) = recorder.calls  # the third
    want, _ = naive(fallen.q, fallen.k, fallen.v, causal=True, sm_scale=0.5)
    torch.testing.assert_close(fallen.out.double(), want, rtol=1e-6, atol=1e-6)


DIFFERENT: dict[str, Any] = {
    "scale": {"sm_scale": 0.25},
    "an lse": {"lse": torch.empty(2, 4, 1)},
    "strides": {"out": torch.empty(2, 1, 4, 8).transpose(1, 2).contiguous().mT.contiguous().mT},
    "alignment": {"out": torch.empty(65)[1:].view(2, 4, 1, 8)},
    "workspace": {"workspace": torch.empty(8)},
    "tokens of the same strides": {name: torch.empty(2, 2, 7, 8)[:, :, :6] for name in "kv"},
    "a counter": {"lost": torch.zeros(1, dtype=torch.int32)},
    "a condition": {"only_if": torch.zeros(1, dtype=torch.int32)},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_bound_anew(made: list[Again], recorder: Recorder, name: str) -> None:
    bound: dict[object, Any] = {}
    decided: Any = Decided(recorder)
    run_bound(bound, decided, call())
    run_bound(bound, decided, call(**DIFFERENT[name]))
    assert len(made) == 2


def test_a_smaller_workspace_in_the_same_place_is_bound_anew(
    made: list[Again], recorder: Recorder
) -> None:
    bound: dict[object, Any] = {}
    decided: Any = Decided(recorder)
    buffer = torch.empty(8)
    for space in (buffer, buffer[:4], buffer[:8]):
        run_bound(bound, decided, call(workspace=space))
    assert [len(it.ran) for it in made] == [1, 0]


def planes() -> Prepared:
    """Such as a kernel has made of K and V."""
    k, v = (Planes(torch.empty(2, 2, 2, 7, 8), torch.empty(2, 2, 1)) for _ in range(2))
    return Prepared(k, v, [])


@pytest.mark.parametrize("name", ["lost", "only_if", "prepared"])
def test_what_guards_and_callers_make_anew_is_bound_once(
    made: list[Again], recorder: Recorder, name: str
) -> None:
    bound: dict[object, Any] = {}
    decided: Any = Decided(recorder)
    given = [planes() if name == "prepared" else torch.zeros(4, dtype=torch.int32)[:1]
             for _ in range(2)]  # fmt: skip
    for it in given:
        run_bound(bound, decided, call(**{name: it}))
    (again,) = made
    (handed,) = again.ran
    last = given[-1]
    wanted: list[torch.Tensor | None] = [last] if isinstance(last, torch.Tensor) else [
        last.k.data, last.k.inverse, last.v.data, last.v.inverse
    ]  # fmt: skip
    assert all(any(it is one for it in handed) for one in wanted)
    run_bound(bound, decided, call())
    assert len(made) == 2


def test_no_more_is_kept_than_is_of_use(made: list[Again], recorder: Recorder) -> None:
    bound: dict[object, Any] = {}
    decided: Any = Decided(recorder)
    for i in range(200):
        run_bound(bound, decided, call(sm_scale=1.0 + i))
    assert len(bound) <= 64


@pytest.mark.cuda
@pytest.mark.parametrize("kv_len", [512, 4096])
def test_the_host_on_a_gpu(kv_len: int) -> None:
    """A decode costs the host at most 10 us beyond Triton's own launches of its kernels."""
    plan = gpu.plan_of({Dtype.FP32: "bf16x3"}, head_dim=128)
    q = torch.randn(1, 32, 1, 128, device="cuda")
    k, v = (torch.randn(1, 8, kv_len, 128, device="cuda") for _ in range(2))
    out = torch.empty_like(q)
    plan.decode(q, k, v, causal=True, out=out)
    first = out.clone()
    decision = plan.runner.resolve(Request(True), q, k, v).decision
    assert decision is not None
    assert decision.kernel.launches is not None
    space = torch.empty(1 << 24, device="cuda")
    bare = decision.kernel.launches(
        Call(q=q, k=k, v=v, out=out, lse=None, diagonal=kv_len - 1, sm_scale=128**-0.5,
             workspace=space),
        decision.path, decision.config,
    )  # fmt: skip

    launching = gpu.host_us(lambda: run_launches(bare))
    mine = gpu.host_us(lambda: plan.decode(q, k, v, causal=True, out=out))
    torch.testing.assert_close(out, first, rtol=0, atol=0)
    print(f"plan.decode {mine:.1f} us, {len(bare)} bare launches {launching:.1f} us")
    assert mine <= launching + 10
