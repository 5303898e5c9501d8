"""What the doctor finds, on machines that lack something."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoprec import registry
from autoprec.probe import doctor, nvml
from autoprec.probe.doctor import Finding, State, compiled, look

CPU = torch.device("cpu")


def found(findings: Iterator[Finding], what: str) -> list[Finding]:
    return [it for it in findings if it.what == what]


def test_a_machine_as_it_should_be() -> None:
    findings = list(look(CPU, {}))
    assert {it.state for it in findings} == {State.OK}
    assert [it.what for it in findings] == [
        "python", "torch", "triton", "device", "variables", "kernels", "peers",
    ]  # fmt: skip


@pytest.mark.parametrize("name", doctor.VARIABLES)
def test_variables_that_change_results_are_named(name: str) -> None:
    (it,) = found(look(CPU, {name: "1"}), "variables")
    assert it.state is State.NOTE
    assert it.sentence.startswith(f"{name}=1: ")
    assert it.hint == f"unset {name}"


def test_every_variable_that_changes_results_is_recorded_too() -> None:
    from autoprec.probe.device import _VARIABLES

    assert set(doctor.VARIABLES) <= set(_VARIABLES)


def test_a_torch_without_the_gpu_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "driver_version", lambda: "580.82")
    (it,) = found(look(CPU, {}), "torch")
    assert it.state is State.PROBLEM
    assert it.sentence.endswith("there is an NVIDIA driver, but torch sees no GPU")


def test_a_triton_that_torch_does_not_come_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_triton_of_torch", lambda: "1.2.3")
    (it,) = found(look(CPU, {}), "triton")
    assert (it.state, it.hint) == (State.NOTE, "pip install triton==1.2.3")


def test_the_version_torch_asks_for_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["filelock", "triton==3.7.1; platform_system == 'Linux'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    assert doctor._triton_of_torch() == "3.7.1"


def test_a_kernel_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "broken_modules", lambda: {"decode": "decode is broken"})
    (it,) = found(look(CPU, {}), "kernels")
    assert (it.state, it.sentence) == (State.PROBLEM, "decode is broken")


def test_a_compiler_that_is_missing_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled("/nonexistent/cc", "", []) == "No such file or directory"
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'fatal error: no' >&2\nexit 1\n")
    failing.chmod(0o755)
    (it,) = doctor._compiler({"CC": str(failing)})
    assert (it.state, it.sentence) == (
        State.PROBLEM, f"{failing} does not work: fatal error: no",
    )  # fmt: skip
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (it,) = doctor._compiler({})
    assert it.sentence == "there is no C compiler, which Triton needs"


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here: apt-get install gcc")
def test_headers_are_looked_for_with_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: "/nonexistent")
    compiler, headers = doctor._compiler({"CC": "gcc"})
    assert (compiler.state, headers.state) == (State.OK, State.PROBLEM)
    assert headers.sentence.startswith("Python's headers are not in /nonexistent: ")
    assert headers.hint.startswith("apt-get install python3.")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    assert doctor._cache(variables).state is State.OK
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor._cache(variables).sentence == f"{tmp_path}/cache cannot be written"
