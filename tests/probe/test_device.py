import dataclasses
import os
import platform
from types import SimpleNamespace

import pytest
import torch

from autoprec.errors import InputError
from autoprec.kernels.interface import Target
from autoprec.probe import device, nvml
from autoprec.probe.nvml import DeviceState
from autoprec.types import Device

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with an H100, as torch describes one."""
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=9,
        minor=0,
        total_memory=85_000_000_000,
        multi_processor_count=132,
        shared_memory_per_block_optin=232448,
        uuid="1234",
        gcnArchName="gfx942:sramecc+:xnack-",
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    return properties


def test_resolves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve("cpu") == device.resolve("auto") == CPU


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("text", ["auto", "cuda", "cuda:0"], ids=["auto", "plain", "numbered"])
def test_resolves_a_gpu(text: str) -> None:
    assert device.resolve(text) == GPU


def test_an_unknown_device_is_refused() -> None:
    for text in ("gpu", "cuda:", "cuda:-1", "", "cpu:0"):
        with pytest.raises(InputError) as error:
            device.resolve(text)
        assert error.value.sentence == (
            f"the device {text!r} is not one of auto, cpu, cuda and cuda:N."
        )


def test_a_gpu_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as error:
        device.resolve("cuda")
    assert str(error.value) == (
        f"the device 'cuda' is not here: torch {torch.__version__} sees no GPU. Try: the device cpu"
    )


@pytest.mark.usefixtures("one_gpu")
def test_an_index_beyond_the_last_gpu_is_refused() -> None:
    with pytest.raises(InputError) as error:
        device.resolve("cuda:3")
    assert str(error.value) == (
        "the device 'cuda:3' is not here: torch sees 1 GPU. Try: the device cuda:0"
    )


def test_describes_the_cpu() -> None:
    it = device.describe(CPU)
    assert (it.kind, it.capability, it.units) == ("cpu", platform.machine(), device.cores())
    assert it.name
    assert it.memory_gib > 0
    assert device.target(CPU) == Target(
        kind="cpu", arch=platform.machine(), shared_bytes=0, units=device.cores()
    )


def test_describes_a_cpu_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(device.Path, "read_text", no_proc)
    assert device.describe(CPU).name == (platform.processor() or platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert device.free_bytes(CPU) == memory


def test_a_containers_limit_bounds_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: object) -> str:
        return "1000\n" if "cgroup" in str(path) else "MemAvailable:    4096 kB\n"

    monkeypatch.setattr(device.Path, "read_text", read)
    assert device.free_bytes(CPU) == 1000
    monkeypatch.setattr(
        device.Path,
        "read_text",
        lambda path: "max\n" if "cgroup" in str(path) else "MemAvailable:    4096 kB\n",
    )
    assert device.free_bytes(CPU) == 4096 * 1024


def test_describes_a_gpu(one_gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    assert device.describe(GPU) == Device(
        kind="cuda", name="NVIDIA H100 80GB HBM3", capability="9.0", memory_gib=79.2, units=132
    )
    h100 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
    assert device.target(GPU) == h100
    del one_gpu.shared_memory_per_block_optin  # a torch that does not say
    assert device.target(GPU) == h100
    one_gpu.major, one_gpu.minor = 8, 6
    assert device.target(GPU) == dataclasses.replace(h100, arch="sm_86", shared_bytes=101376)


@pytest.mark.usefixtures("one_gpu")
def test_describes_an_amd_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert device.describe(GPU).kind == "hip"
    assert device.target(GPU) == Target(kind="hip", arch="gfx942", shared_bytes=65536, units=132)
    assert device.state(GPU) == DeviceState(
        memory_free_gib=4.0,
        note="clocks and power are read through NVML, which knows NVIDIA's GPUs only.",
    )


@pytest.mark.usefixtures("one_gpu")
def test_the_state_of_a_gpu_is_asked_for_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    asked: list[object] = []
    monkeypatch.setattr(nvml, "read", lambda *arguments: asked.extend(arguments))
    device.state(GPU)
    assert asked == ["1234", 4.0, os.getpid()]


def test_the_state_of_a_cpu_is_its_free_memory() -> None:
    state = device.state(CPU)
    assert state.memory_free_gib is not None
    assert state == DeviceState(memory_free_gib=state.memory_free_gib)


def test_the_environment_names_versions_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    it = device.environment(CPU)
    assert it.torch == torch.__version__
    assert (it.driver, it.cuda) == (None, None)
    assert it.variables["NVIDIA_TF32_OVERRIDE"] == "1"
    assert "TRITON_F32_DEFAULT" not in it.variables
    assert it.kernels == device.kernels_digest()


def test_a_missing_triton_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise device.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(device.importlib.metadata, "version", missing)
    assert device.environment(CPU).triton is None


@pytest.mark.usefixtures("one_gpu")
def test_the_environment_of_a_gpu_names_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(nvml, "driver_version", lambda: "580.65")
    it = device.environment(GPU)
    assert (it.driver, it.cuda) == ("580.65", "13.0")


def test_the_digest_changes_with_a_kernel(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = device.kernels_digest()
    assert before == device.kernels_digest()
    folder = device.Path(str(tmp_path))
    monkeypatch.setattr(device.resources, "files", lambda package: folder)
    (folder / "a.py").write_text("x = 1\n")
    (folder / "notes.txt").write_text("not a kernel\n")
    one = device.kernels_digest()
    (folder / "notes.txt").write_text("still none\n")
    assert device.kernels_digest() == one != before
    (folder / "a.py").write_text("x = 2\n")
    assert device.kernels_digest() != one


@pytest.mark.parametrize(
    ("load", "note"),
    [
        (2.4, ""),
        (2.6, "other processes keep the CPU busy, and times are longer and less even for it."),
    ],
)
def test_a_busy_cpu_is_said(monkeypatch: pytest.MonkeyPatch, load: float, note: str) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    assert device.state(CPU).note == note
