"""Compiling Triton kernels for a chip, whether it is here or not."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from autoprec.kernels.interface import Launch, Target
from autoprec.kernels.overlap import compiled_for


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one launch.

    Attributes:
        key: The name of the binary in Triton's cache on disk.
        shared_bytes: Shared memory a block needs.
        kernel: Triton's CompiledKernel.
    """

    key: str
    shared_bytes: int
    kernel: Any


def gpu_target(target: Target) -> GPUTarget:
    """Triton's name for a target.

    Args:
        target: Of kind ``cuda`` (arch ``sm_90``) or ``hip`` (arch ``gfx942``).
    """
    if target.kind == "cuda":
        return GPUTarget("cuda", int(target.arch.removeprefix("sm_")), 32)
    warp_size = 64 if target.arch.startswith("gfx9") else 32  # CDNA against RDNA
    return GPUTarget("hip", target.arch, warp_size)


class _Driver:
    """As much of a Triton driver as compiling asks for, with no device behind it."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target
        # A jit function keeps what it compiled by device number: one number for each target.
        digest = hashlib.sha256(f"{target.backend}{target.arch}".encode()).digest()
        self._number = int.from_bytes(digest[:4], "big")

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._number

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def offline(target: Target) -> Iterator[None]:
    """Have Triton compile for a target, and touch no device, inside the ``with``."""
    before = driver._active
    driver.set_active(_Driver(gpu_target(target)))
    try:
        yield
    finally:
        driver.set_active(before)


def compile_launches(launches: Sequence[Launch], target: Target) -> list[Compiled]:
    """Compile launches for a target, into Triton's cache.

    The tensors among their arguments may lie on any device, ``meta`` too: what Triton specialises
    on is their dtype and that their addresses divide by 16, as the addresses of new tensors do.

    Args:
        launches: As a kernel's ``launches`` gives them.
        target: The chip.

    Raises:
        Exception: Whatever the compiler raises.
    """
    with offline(target):
        kernels = [
            launch.function.warmup(**compiled_for(launch.arguments, target), grid=launch.grid)
            for launch in launches
        ]
    return [Compiled(kernel.hash, kernel.metadata.shared, kernel) for kernel in kernels]
