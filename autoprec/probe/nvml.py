"""What NVIDIA's management library (NVML) says of a GPU: clocks, power, who else uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

GIB = 1 << 30
Answer = TypeVar("Answer")

# Bits of nvmlDeviceGetCurrentClocksEventReasons that slow a GPU down. Idling is none of them.
_THROTTLE_REASONS = {
    0x002: "application clocks set by the user",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "clocks synchronised with another GPU",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "external power brake",
    0x100: "display clock setting",
}


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What a device is doing at the moment; None for what cannot be told.

    Attributes:
        sm_clock_mhz: Clock of the multiprocessors; likewise memory_clock_mhz.
        temperature_c: Temperature, degrees Celsius.
        power_w: Power drawn; power_cap_w is the most that it may draw.
        throttle_reasons: Why the clocks are lower than they could be; () where they are not.
        other_processes: Processes beside this one that hold memory of the device.
        memory_free_gib: Memory that can still be allocated.
        note: A sentence on why something is not known, or "".
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    other_processes: tuple[str, ...] | None = None
    memory_free_gib: float | None = None
    note: str = ""


def read(uuid: str, memory_free_gib: float, own_pid: int) -> DeviceState:
    """Ask NVML about a GPU.

    Args:
        uuid: The GPU's, without ``GPU-``; its number will not do, CUDA_VISIBLE_DEVICES changes it.
        memory_free_gib: Passed on.
        own_pid: This process, which holds memory of the GPU.
    """

    def ask(nvml: Any) -> DeviceState:
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

        def get(query: str, *arguments: int) -> Any:
            try:
                return getattr(nvml, query)(handle, *arguments)
            except (nvml.NVMLError, AttributeError):  # this GPU, driver or pynvml cannot tell
                return None

        power, cap = get("nvmlDeviceGetPowerUsage"), get("nvmlDeviceGetEnforcedPowerLimit")
        reasons = get("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is not None:
            reasons = tuple(words for bit, words in _THROTTLE_REASONS.items() if reasons & bit)
        processes = get("nvmlDeviceGetComputeRunningProcesses")
        return DeviceState(
            sm_clock_mhz=get("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=get("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            temperature_c=get("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1e3,
            power_cap_w=None if cap is None else cap / 1e3,
            throttle_reasons=reasons,
            other_processes=None if processes is None else _others(processes, own_pid),
            memory_free_gib=memory_free_gib,
        )

    answer = _with_nvml(ask)
    if isinstance(answer, str):
        return DeviceState(memory_free_gib=memory_free_gib, note=answer)
    return answer


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where NVML cannot tell."""
    answer = _with_nvml(lambda nvml: (nvml.nvmlSystemGetDriverVersion(),))
    return None if isinstance(answer, str) else str(answer[0])


def _with_nvml(ask: Callable[[Any], Answer]) -> Answer | str:
    """What ``ask`` returns, given the pynvml module ready for use; or a sentence why not."""
    try:
        import pynvml
    except ImportError as error:
        return f"clocks, power and other processes are not known: {error}."
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"clocks, power and other processes are not known: NVML says {error}."
    try:
        return ask(pynvml)
    except pynvml.NVMLError as error:
        return f"clocks, power and other processes are not known: NVML says {error}."
    finally:
        pynvml.nvmlShutdown()


def _others(processes: list[Any], own_pid: int) -> tuple[str, ...]:
    """Name the processes that are not this one."""
    pids = {process.pid for process in processes}
    if pids and own_pid not in pids:
        # In a container NVML gives the host's numbers: one of these is us, nobody knows which.
        count = len(pids) - 1
        return (f"{count} of unknown number",) if count else ()
    return tuple(
        f"process {process.pid}"
        + (f" ({process.usedGpuMemory / GIB:.1f} GiB)" if process.usedGpuMemory else "")
        for process in processes
        if process.pid != own_pid
    )
