"""Which launches of a decode overlap, and on which devices."""

from collections.abc import Iterator
from typing import Any

import kernel_cases
import pytest
import torch
from fake_kernels import workload

from autoprec import registry
from autoprec.kernels import overlap
from autoprec.kernels.interface import Target
from autoprec.probe.inputs import blank_call
from autoprec.types import Dtype

DECODE = registry.kernel("triton-decode")
CONFIG = {"block_kv": 32, "split": 64, "num_warps": 4, "num_stages": 2}
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    asked = overlap.on_device
    asked.cache_clear()
    yield
    asked.cache_clear()


def a_gpu(patch: pytest.MonkeyPatch, *, major: int, hip: str | None = None) -> None:
    """Have torch say of every GPU what it would say of one, and have kernels compiled."""
    patch.setattr(overlap.knobs.runtime, "interpret", False)
    patch.setattr(torch.version, "hip", hip)
    patch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))


def target(arch: str, kind: str = "cuda") -> Target:
    return Target(kind=kind, arch=arch, shared_bytes=65536, units=100)


def arguments(kv_len: int) -> list[dict[str, Any]]:
    """Those of each launch of a decode, on tensors without memory."""
    assert DECODE.launches is not None
    call = blank_call(workload(kv_len=kv_len))
    return [launch.arguments for launch in DECODE.launches(call, "fp32", CONFIG)]


@pytest.mark.parametrize(("major", "possible"), [(8, False), (9, True), (10, True), (12, True)])
def test_nvidia_has_it_from_9_0_on(
    major: int, possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gpu(monkeypatch, major=major)
    assert overlap.on_device(GPU) is possible
    assert overlap.on_target(target(f"sm_{major}0")) is possible


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_no_gpu_has_not(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, major=9)
    assert not overlap.on_device(torch.device(device))


def test_amd_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, major=9, hip="6.4")
    assert not overlap.on_device(GPU)
    assert not overlap.on_target(target("gfx942", "hip"))


def test_the_interpreter_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, major=9)
    monkeypatch.setattr(overlap.knobs.runtime, "interpret", True)
    assert not overlap.on_device(GPU)


@pytest.mark.parametrize("possible", [False, True])
def test_the_merge_overlaps_the_split_and_nothing_else_does(
    possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "on_device", lambda device: possible)
    split, merge = arguments(kv_len=256)
    assert (split["TELLS"], split["PARTIAL"]) == (possible, True)
    assert "launch_pdl" not in split
    assert merge["WAITS"] is possible
    assert merge.get("launch_pdl") == (True if possible else None)


def test_one_split_has_nothing_behind_it_to_tell() -> None:
    (alone,) = arguments(kv_len=64)
    assert alone["PARTIAL"] is False  # without which the kernel does not look at TELLS


@pytest.mark.parametrize("made_for", [False, True])
@pytest.mark.parametrize(
    ("chip", "kind", "possible"),
    [("sm_80", "cuda", False), ("sm_89", "cuda", False), ("sm_90", "cuda", True),
     ("sm_120", "cuda", True), ("gfx942", "hip", False)],
)  # fmt: skip
def test_launches_are_compiled_as_the_chip_runs_them(
    chip: str, kind: str, possible: bool, made_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "on_device", lambda device: made_for)
    split, merge = (overlap.compiled_for(it, target(chip, kind)) for it in arguments(kv_len=256))
    assert split["TELLS"] is possible
    assert merge["WAITS"] is possible
    assert ("launch_pdl" in merge, "launch_pdl" in split) == (possible, False)


def test_other_launches_are_compiled_as_they_are() -> None:
    given = {"X": None, "num_warps": 4}
    assert overlap.compiled_for(given, target("sm_90")) == given


def test_the_interpreter_computes_what_it_did() -> None:
    """Pieces that do nothing: two launches on the CPU are as good as one."""
    case = {"input": Dtype.FP32, "lengths": (1, 250), "heads": (4, 2), "dims": (32, 32),
            "layout": "sliced"}  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=2)
    calls = [kernel_cases.guarded(q, k, v, out_dtype=torch.float32).call for _ in range(2)]
    for call, split in zip(calls, (64, 256), strict=True):
        DECODE.run(call, "fp32", {**CONFIG, "split": split})
    assert torch.allclose(calls[0].out, calls[1].out, rtol=0, atol=1e-6)
