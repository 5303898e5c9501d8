"""Memory stays flat over 100,000 calls of every kind, and their results stay right.

On a GPU; on a CPU a few hundred calls of the same kernels, interpreted, and leaks that are planted.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import gpu
import interpreted
import pytest
import torch
from compiled_ahead import compiled_ahead
from exact import cpu_profile
from soak import Soak, first_config, plans_of
from soak_plain import ON_A_CPU, ON_A_GPU
from torch import Tensor

from autoprec import registry
from autoprec.flashinfer import precision
from autoprec.kernels.interface import Target
from autoprec.plan import cached_resolve, run
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.run import Runner
from autoprec.plan.stats import Counts
from autoprec.plan.workspaces import Workspaces
from autoprec.probe import device as devices
from autoprec.types import Config, Phase, Workload

_INTERPRETED = Target(kind="cuda", arch="sm_80", shared_bytes=166912, units=108)
_CONFIGS: dict[str, Config] = {
    "triton-prefill": interpreted.CONFIGS[Phase.PREFILL],
    "triton-decode": {**interpreted.CONFIGS[Phase.DECODE], "block_kv": 16, "split": 16},
}


@pytest.fixture(scope="module")
def on_a_cpu() -> Iterator[Soak]:
    """Calls on a CPU, of plans that remember few shapes."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        yield _on_a_cpu(patch)


def _on_a_cpu(patch: pytest.MonkeyPatch) -> Soak:
    patch.setattr(devices, "target", lambda device: _INTERPRETED)
    patch.setattr(run, "_MAX_RESOLVED", 20)
    patch.setattr(precision, "_MAX_DECISIONS", 4)
    prompts = ("triton-prefill", "triton-prefill")

    def config(name: str, path: str, workload: Workload) -> Config:
        return _CONFIGS[name]

    environment = cpu_profile().environment
    return Soak(plans_of(prompts, ON_A_CPU.dim, config, environment, "cpu"), prompts, ON_A_CPU)


def _on_a_gpu() -> Soak:
    """Calls on a GPU; the second plan's prompts go by the Hopper kernel, where that runs."""
    target = devices.target(gpu.device())
    if refusals := registry.kernel("triton-decode").device_refusals(target):
        pytest.skip("; ".join(refusals))
    hopper = registry.kernel("hopper-prefill").device_refusals(target) == []
    prompts = ("triton-prefill", "hopper-prefill" if hopper else "triton-prefill")
    environment = devices.environment(gpu.device())
    plans = plans_of(prompts, ON_A_GPU.dim, first_config(target), environment, "cuda:0")
    return Soak(plans, prompts, ON_A_GPU)


def test_a_few_hundred_calls(on_a_cpu: Soak) -> None:
    on_a_cpu.run(100, every=10)
    before = on_a_cpu.held()
    on_a_cpu.run(300, every=10)
    assert on_a_cpu.grown(before) == []
    assert on_a_cpu.checks > 15


@pytest.mark.cuda
def test_a_hundred_thousand_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((run, "_MAX_RESOLVED"), (cached_resolve, "_MAX_DECIDED")):
        monkeypatch.setattr(module, name, 512)  # forgotten every so often
    with compiled_ahead():
        _on_a_gpu()
    soak = _on_a_gpu()
    soak.run(5_000, every=100)
    before = soak.held()
    soak.run(100_000, every=500)
    print(f"\n{soak.pace()}")  # for pytest -s
    assert soak.grown(before) == []
    before = soak.held()
    _keep_workspaces(monkeypatch)
    soak.run(500, every=100)
    assert any("bytes more allocated, 0 are" in sentence for sentence in soak.grown(before))


def _keep_workspaces(patch: pytest.MonkeyPatch) -> None:
    def take(self: Workspaces, device: torch.device, elements: int) -> Tensor:
        self._outgrown.append(torch.empty(elements, device=device))
        return self._outgrown[-1]

    patch.setattr(Workspaces, "take", take)


def _keep_shapes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Runner, "_keep", lambda self, key, resolved: self._resolved.update({key: resolved})
    )


def _keep_outputs(patch: pytest.MonkeyPatch) -> None:
    launch, kept = Runner._launch, []

    def launched(self: Runner, resolved: Any, q: Tensor, *rest: Any) -> None:
        kept.append(q.new_empty(1))
        launch(self, resolved, q, *rest)

    patch.setattr(Runner, "_launch", launched)


def _keep_host_memory(patch: pytest.MonkeyPatch) -> None:
    called, kept = Counts.called, []

    def counted(self: Counts, path: str) -> int:
        kept.append(b"x" * (1 << 20))
        return called(self, path)

    patch.setattr(Counts, "called", counted)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (_keep_workspaces, r"\d+ things in first plan\._runner\._workspaces\._outgrown, \d+ are"),
        (_keep_workspaces, r"\d+ bytes more allocated, 0 are allowed"),
        (_keep_shapes, r"\d+ things in first plan\._runner\._resolved, 20 are allowed"),
        (_keep_outputs, r"\d+ tensors more"),
        (_keep_host_memory, r"\d+ bytes more resident, 33554432 are allowed"),
    ],
)
def test_what_is_left_behind_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None],
    told: str,
    on_a_cpu: Soak,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = on_a_cpu.held()
    plant(monkeypatch)
    on_a_cpu.run(100, every=10)
    sentences = on_a_cpu.grown(before)
    assert any(re.match(told, sentence) for sentence in sentences), sentences


def _wrong_output(patch: pytest.MonkeyPatch) -> None:
    launch = Runner._launch

    def launched(self: Runner, resolved: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor,
                 *rest: Any) -> None:  # fmt: skip
        launch(self, resolved, q, k, v, out, *rest)
        out[..., 1] *= 1.1

    patch.setattr(Runner, "_launch", launched)


def _wrong_tokens(patch: pytest.MonkeyPatch) -> None:
    append = KVCache.append
    patch.setattr(KVCache, "append", lambda self, k, v: append(self, k, v.roll(1, -1)))


# The last of this file: caches that all share hold what they should not.
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (_wrong_output, r"^(output at|the output is off by)"),
        (_wrong_tokens, r"^a cache holds what did not come in"),
    ],
)
def test_what_is_wrong_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None],
    told: str,
    on_a_cpu: Soak,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=told):
        on_a_cpu.run(100, every=2)
