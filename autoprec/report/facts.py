"""What a profile is about, as names and values: the head of a report."""

from autoprec.budget import Budget
from autoprec.report import confidence
from autoprec.report.numbers import significant
from autoprec.types import Ceilings, Config, Device, Environment, Profile

_UNITS = {"cuda": "multiprocessors", "hip": "compute units", "cpu": "cores"}


def facts(profile: Profile, label: str = "") -> tuple[tuple[str, str], ...]:
    """Device, versions, ceilings, budget, and how the profile was recorded."""
    found = [
        ("profile", label),
        ("device", device(profile.environment.device)),
        ("versions", f"autoprec {profile.autoprec_version}, {versions(profile.environment)}"),
        ("variables", variables(profile.environment)),
        ("ceilings", ceilings(profile.ceilings)),
        ("budget", f"{Budget.parse(profile.budget)} on every input family"),
        ("bounds", confidence.fact(profile)),
        ("recorded", f"{profile.created_at} by {profile.recorded_by or 'a command not recorded'}"),
    ]
    return tuple((name, value) for name, value in found if value)


def device(it: Device) -> str:
    """Such as ``NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB``."""
    units = f"{it.units} {_UNITS.get(it.kind, 'units')}"
    return f"{it.name} ({it.kind} {it.capability}), {units}, {it.memory_gib:g} GiB"


def versions(it: Environment) -> str:
    """Such as ``torch 2.13.0, triton 3.7.1, driver 580.82, CUDA 13.0, python 3.12.11``."""
    named = [
        ("torch", it.torch),
        ("triton", it.triton or "missing"),
        ("driver", it.driver),
        ("CUDA", it.cuda),
        ("python", it.python),
    ]
    return ", ".join(f"{name} {version}" for name, version in named if version)


def variables(it: Environment) -> str:
    """The environment variables that change results or times, as ``NAME=value``."""
    return " ".join(f"{name}={value}" for name, value in sorted(it.variables.items()))


def ceilings(it: Ceilings) -> str:
    """Such as ``copy 3030 GB/s; matrix product fp32 51.0, bf16 785 TFLOP/s``."""
    rates = ", ".join(f"{dtype} {significant(rate)}" for dtype, rate in it.gemm_tflops.items())
    copy = f"copy {significant(it.copy_gb_s)} GB/s"
    return f"{copy}; matrix product {rates} TFLOP/s" if rates else copy


def config_text(config: Config) -> str:
    """A launch configuration in one line, such as ``block_q=128 num_warps=8``."""
    return " ".join(f"{name}={value}" for name, value in config.items())
