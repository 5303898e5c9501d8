"""What has to be right before anything can be measured, each looked at by itself."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from autoprec import registry
from autoprec.probe import device as devices
from autoprec.probe import nvml, peers

_COMPILE_S = 30  # a compiler that takes longer hangs


class State(StrEnum):
    """How a finding stands."""

    OK = "ok"
    NOTE = "note"  # results differ from those of others, or something could be better
    PROBLEM = "problem"  # something does not work


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        state: How it stands.
        sentence: What was found.
        hint: What to do about it; "" where nothing is to be done.
    """

    what: str
    state: State
    sentence: str
    hint: str = ""


# Variables under which numbers or times are others than without, and what they do.
VARIABLES = {
    "NVIDIA_TF32_OVERRIDE": "0 forbids cuBLAS and cuDNN to use TF32, 1 makes them; baselines are "
    "other ones then",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "lets PyTorch's fp32 matrix products use TF32: sdpa-math "
    "and the fp32 ceiling are other ones then",
    "TRITON_F32_DEFAULT": "changes how Triton multiplies fp32 where a kernel does not say it; "
    "autoprec's kernels do",
    "TRITON_INTERPRET": "runs Triton's kernels in Python: thousands of times slower",
    "TRITON_DEFAULT_FP_FUSION": "changes which multiplications and additions are fused",
    "ONEDNN_DEFAULT_FPMATH_MODE": "lets fp32 on CPUs be computed with fewer bits",
    "CUDA_LAUNCH_BLOCKING": "waits for every kernel: times are longer",
}


def look(device: torch.device, variables: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Look at everything that measuring on a device needs.

    Args:
        device: Where.
        variables: The environment's.
    """
    yield _python()
    yield _torch(device)
    yield from _triton(device)
    if device.type != "cpu":
        yield from _compiler(variables)
        yield _cache(variables)
    yield from _gpu(device)
    yield from _variables(variables)
    yield from _kernels()
    yield _peers()


def _python() -> Finding:
    return Finding("python", State.OK, f"{platform.python_version()} on {platform.machine()}")


def _torch(device: torch.device) -> Finding:
    built = torch.version.hip or torch.version.cuda
    what = f"{torch.__version__}, built for {f'CUDA {built}' if built else 'CPUs only'}"
    if device.type == "cpu" and nvml.driver_version():
        return Finding(
            "torch", State.PROBLEM, f"{what}: there is an NVIDIA driver, but torch sees no GPU",
            "a torch that is built for CUDA, see pytorch.org, or CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    return Finding("torch", State.OK, what)


def _triton(device: torch.device) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        state = State.NOTE if device.type == "cpu" else State.PROBLEM
        yield Finding("triton", state, "not installed", "pip install triton, on Linux")
        return
    wanted = _triton_of_torch()
    if wanted and wanted != version:
        yield Finding(
            "triton", State.NOTE, f"{version}, and torch {torch.__version__} comes with {wanted}",
            f"pip install triton=={wanted}",
        )  # fmt: skip
    else:
        yield Finding("triton", State.OK, version)


def _triton_of_torch() -> str:
    """The version that torch asks for; "" where it asks for none."""
    pattern = re.compile(r"triton\s*[~=]=\s*([\d.]+)")
    found = filter(None, map(pattern.match, importlib.metadata.requires("torch") or ()))
    return next((match[1] for match in found), "")


def _compiler(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Triton compiles a small C module for each kernel, against Python's headers."""
    name = variables.get("CC") or next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), "")
    if not name:
        yield Finding(
            "compiler", State.PROBLEM, "there is no C compiler, which Triton needs",
            "apt-get install gcc, or CC=/path/to/compiler",
        )  # fmt: skip
        return
    said = compiled(name, "int main(void) { return 0; }", [])
    if said:
        yield Finding("compiler", State.PROBLEM, f"{name} does not work: {said}", "CC=…")
        return
    yield Finding("compiler", State.OK, name)
    include = sysconfig.get_path("include")
    said = compiled(name, "#include <Python.h>", [f"-I{include}"])
    if said:
        version = ".".join(platform.python_version_tuple()[:2])
        yield Finding(
            "headers", State.PROBLEM, f"Python's headers are not in {include}: {said}",
            f"apt-get install python{version}-dev",
        )  # fmt: skip
    else:
        yield Finding("headers", State.OK, f"{include}/Python.h")


def compiled(compiler: str, source: str, flags: list[str]) -> str:
    """What a compiler has against a source; "" for nothing."""
    try:
        done = subprocess.run(
            [compiler, "-x", "c", "-fsyntax-only", *flags, "-"],
            input=source, text=True, capture_output=True, timeout=_COMPILE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or f"it took longer than {_COMPILE_S} s"
    if not done.returncode:
        return ""
    return next(iter(done.stderr.strip().splitlines()), f"it exits with {done.returncode}")


def _cache(variables: Mapping[str, str]) -> Finding:
    """Where Triton keeps what it compiled."""
    home = Path(variables.get("TRITON_HOME") or Path.home())
    folder = Path(variables.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(there, os.W_OK):
        return Finding("kernel cache", State.OK, str(folder))
    return Finding(
        "kernel cache", State.PROBLEM, f"{folder} cannot be written", "TRITON_CACHE_DIR=/tmp/triton"
    )


def _gpu(device: torch.device) -> Iterator[Finding]:
    it = devices.describe(device)
    if device.type == "cpu":
        yield Finding("device", State.OK, f"{it.name}, {it.units} cores")
        return
    target = devices.target(device)
    runs = [row.name for row in registry.kernels() if not row.device_refusals(target)]
    if not runs:
        yield Finding("device", State.PROBLEM, f"no kernel runs on {it.name} ({target.arch})")
    else:
        yield Finding("device", State.OK, f"{it.name} ({target.arch})")
    driver = nvml.driver_version()
    if driver:
        yield Finding("driver", State.OK, driver)
    state = devices.state(device)
    if state.throttle_reasons:
        held = ", ".join(state.throttle_reasons)
        yield Finding("clocks", State.NOTE, f"held back: {held}", "cooling, or a higher power cap")
    if state.other_processes:
        others = ", ".join(state.other_processes)
        yield Finding("others", State.NOTE, f"the GPU is shared: {others}", "measuring alone")
    if state.note:
        yield Finding("nvml", State.NOTE, state.note)


def _variables(variables: Mapping[str, str]) -> Iterator[Finding]:
    found = {name: what for name, what in VARIABLES.items() if variables.get(name)}
    for name, what in found.items():
        sentence = f"{name}={variables[name]}: {what}"
        yield Finding("variables", State.NOTE, sentence, f"unset {name}")
    if not found:
        yield Finding("variables", State.OK, "none is set that changes results or times")


def _kernels() -> Iterator[Finding]:
    broken = registry.broken_modules()
    for sentence in broken.values():
        yield Finding("kernels", State.PROBLEM, sentence)
    if not broken:
        count = len(registry.kernels())
        digest = devices.kernels_digest()
        yield Finding("kernels", State.OK, f"{count} can be imported; digest {digest}")


def _peers() -> Finding:
    versions = peers.versions(peers.PEERS)
    return Finding("peers", State.OK, ", ".join(f"{name} {it}" for name, it in versions.items()))
