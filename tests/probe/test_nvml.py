import sys
from types import SimpleNamespace
from typing import Any

import pytest

from autoprec.probe import nvml
from autoprec.probe.nvml import DeviceState


class FakeNVMLError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    """As much of pynvml as is asked, for a busy H100."""

    def handle(uuid: str) -> str:
        assert uuid == "GPU-1234"
        return "handle"

    def clock(handle: str, kind: str) -> int:
        return {"sm": 1755, "memory": 2619}[kind]

    answers = {
        "NVMLError": FakeNVMLError,
        "NVML_CLOCK_SM": "sm",
        "NVML_CLOCK_MEM": "memory",
        "NVML_TEMPERATURE_GPU": "gpu",
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65",
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 54,
        "nvmlDeviceGetPowerUsage": lambda handle: 312_500,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x1 | 0x4 | 0x40,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=11, usedGpuMemory=2 << 30),
            SimpleNamespace(pid=12, usedGpuMemory=3 << 29),
            SimpleNamespace(pid=13, usedGpuMemory=None),
        ],
    }
    return SimpleNamespace(**(answers | changes))


def fails(*arguments: object) -> None:
    raise FakeNVMLError("Not Supported")


def test_reads_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert nvml.read("1234", 70.0, own_pid=11) == DeviceState(
        sm_clock_mhz=1755,
        memory_clock_mhz=2619,
        temperature_c=54,
        power_w=312.5,
        power_cap_w=700.0,
        throttle_reasons=("power cap", "hardware thermal slowdown"),
        other_processes=("process 12 (1.5 GiB)", "process 13"),
        memory_free_gib=70.0,
    )
    assert nvml.driver_version() == "580.65"


def test_what_one_gpu_cannot_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_nvml(
        nvmlDeviceGetPowerUsage=fails,
        nvmlDeviceGetComputeRunningProcesses=fails,
        nvmlDeviceGetTemperature=fails,
    )
    del fake.nvmlDeviceGetCurrentClocksEventReasons  # an old pynvml
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    state = nvml.read("1234", 70.0, own_pid=11)
    assert (state.power_w, state.power_cap_w, state.sm_clock_mhz) == (None, 700.0, 1755)
    assert (state.temperature_c, state.throttle_reasons, state.other_processes) == (None,) * 3
    assert state.note == ""


def test_in_a_container_one_of_the_processes_is_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert nvml.read("1234", 1.0, own_pid=99).other_processes == ("2 of unknown number",)
    alone = fake_nvml(
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [
            SimpleNamespace(pid=11, usedGpuMemory=None)
        ]
    )
    monkeypatch.setitem(sys.modules, "pynvml", alone)
    assert nvml.read("1234", 1.0, own_pid=99).other_processes == ()


@pytest.mark.parametrize("query", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_failing_nvml_is_a_sentence(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**{query: fails}))
    assert nvml.read("1234", 2.0, own_pid=11) == DeviceState(
        memory_free_gib=2.0,
        note="clocks, power and other processes are not known: NVML says Not Supported.",
    )


def test_a_missing_nvml_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # makes the import fail
    state = nvml.read("1234", 2.0, own_pid=11)
    assert state.note.startswith("clocks, power and other processes are not known: ")
    assert nvml.driver_version() is None


def test_nvml_is_shut_down_also_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = fake_nvml(
        nvmlDeviceGetHandleByUUID=fails,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    nvml.read("1234", 2.0, own_pid=11)
    assert calls == ["init", "shutdown"]
