"""The device that is measured: which one, what it is, and what it is doing."""

import hashlib
import importlib.metadata
import os
import platform
import re
from importlib import resources
from pathlib import Path

import torch

from autoprec.errors import InputError
from autoprec.kernels.interface import Target
from autoprec.probe import nvml
from autoprec.probe.nvml import GIB, DeviceState
from autoprec.types import Device, Environment

_BUSY = "other processes keep the CPU busy, and times are longer and less even for it."

# Environment variables that change what is computed or how long it takes.
_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "DISABLE_ADDMM_CUDA_LT",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_F32_DEFAULT",
    "TRITON_INTERPRET",
    "TRITON_OVERRIDE_ARCH",
)

# Shared memory a block may ask for, by architecture, for a torch that does not say.
_SHARED_BYTES = {"sm_80": 166912, "sm_87": 166912, "sm_90": 232448, "sm_100": 232448,
                 "sm_103": 232448, "gfx950": 163840}  # fmt: skip
_SHARED_BYTES_LEAST = {"cuda": 101376, "hip": 65536}


def resolve(text: str) -> torch.device:
    """The device that a person named.

    Args:
        text: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, or ``cuda:N``.

    Raises:
        InputError: It is none of these, or is not here.
    """
    if text == "cpu" or (text == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    match = re.fullmatch(r"(?:auto|cuda(?::(\d{1,4}))?)", text)
    if match is None:
        raise InputError(
            f"the device {text!r} is not one of auto, cpu, cuda and cuda:N.", "the device auto"
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"the device {text!r} is not here: torch {torch.__version__} sees no GPU.",
            "the device cpu",
        )
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    if index >= count:
        raise InputError(
            f"the device {text!r} is not here: torch sees {count} GPU{'s' * (count > 1)}.",
            f"the device cuda:{count - 1}",
        )
    return torch.device("cuda", index)


def describe(device: torch.device) -> Device:
    """What a device is."""
    if device.type == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Device(
            kind="cpu",
            name=_cpu_name(),
            capability=platform.machine(),
            memory_gib=round(memory / GIB, 1),
            units=cores(),
        )
    properties = torch.cuda.get_device_properties(device)
    hip = torch.version.hip is not None
    return Device(
        kind="hip" if hip else "cuda",
        name=properties.name,
        capability=_gcn(properties.gcnArchName)
        if hip
        else f"{properties.major}.{properties.minor}",
        memory_gib=round(properties.total_memory / GIB, 1),
        units=properties.multi_processor_count,
    )


def target(device: torch.device) -> Target:
    """A device as kernels are chosen and compiled for it."""
    it = describe(device)
    if it.kind == "cpu":
        return Target(kind="cpu", arch=it.capability, shared_bytes=0, units=it.units)
    arch = it.capability if it.kind == "hip" else f"sm_{it.capability.replace('.', '')}"
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0)
    if not shared or it.kind == "hip":
        shared = _SHARED_BYTES.get(arch, _SHARED_BYTES_LEAST[it.kind])
    return Target(kind=it.kind, arch=arch, shared_bytes=shared, units=it.units)


def state(device: torch.device) -> DeviceState:
    """What a device is doing at the moment."""
    if device.type == "cpu":
        return DeviceState(memory_free_gib=free_bytes(device) / GIB, note=_BUSY if _busy() else "")
    free = free_bytes(device) / GIB
    if torch.version.hip is not None:
        return DeviceState(memory_free_gib=free, note="clocks and power are read through NVML, "
                           "which knows NVIDIA's GPUs only.")  # fmt: skip
    own_pid = os.getpid()  # asking for the free memory has made this process one of its users
    return nvml.read(str(torch.cuda.get_device_properties(device).uuid), free, own_pid)


def _busy() -> bool:
    """Whether more wants to run on the machine's cores than a thread of ours on each."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5
    except (AttributeError, OSError):  # not everywhere
        return False


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type != "cpu":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        available = None
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available is not None:
        free = int(available[1]) * 1024
    try:  # a container's limit
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free


def environment(device: torch.device) -> Environment:
    """Everything that measured times and errors depend on beside the workload."""
    try:
        triton: str | None = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    gpu = device.type != "cpu"
    return Environment(
        device=describe(device),
        python=platform.python_version(),
        torch=torch.__version__,
        triton=triton,
        driver=nvml.driver_version() if gpu and torch.version.hip is None else None,
        cuda=(torch.version.hip or torch.version.cuda) if gpu else None,
        kernels=kernels_digest(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def kernels_digest() -> str:
    """A digest of the installed kernels' sources, which changes when one of them does."""
    digest = hashlib.sha256()
    files = resources.files("autoprec.kernels").iterdir()
    for file in sorted((f for f in files if f.name.endswith(".py")), key=lambda f: f.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _gcn(name: str) -> str:
    return name.split(":")[0]  # gfx942:sramecc+:xnack- → gfx942
