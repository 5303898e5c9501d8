"""What ``autoprec --version`` says."""

import platform
from importlib import metadata

import autoprec
from autoprec.probe import nvml


def text() -> str:
    """The version, and in a second line what else a result depends on; nothing heavy is loaded."""
    named = {name: _installed(name) for name in ("torch", "triton")}
    named["python"] = platform.python_version()
    if driver := nvml.driver_version():
        named["driver"] = driver
    others = ", ".join(f"{name} {version or 'missing'}" for name, version in named.items())
    return f"autoprec {autoprec.__version__}\n{others}\n"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
