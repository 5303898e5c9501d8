"""Two launches of which the second begins before the first has ended, where the device has that.

NVIDIA calls it programmatic dependent launch, and has it from compute capability 9.0 on: of the
time between the end of one kernel and the first instruction of the next, most passes while the
first still runs. The first tells early that the second may come; the second, which Triton must
launch as one that does, waits for the end of the first and sees all that it wrote.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

from autoprec.kernels.interface import Target

_CAPABILITY = 9  # and later
# The constexprs by which the first and the second of two such launches are told.
_TELLS, _WAITS = "TELLS", "WAITS"


@triton.jit
def tell(TELLS: tl.constexpr):
    """Let the next launch begin, once every program of this one has come here or ended."""
    if TELLS:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait(WAITS: tl.constexpr):
    """Wait until the launch before has ended and what it wrote is there.

    Every program does so before it reads, and before it returns: whoever comes next waits for this
    launch alone, and takes what was before it as ended too.
    """
    if WAITS:
        tl.extra.cuda.gdc_wait()


def first(possible: bool) -> dict[str, Any]:
    """Arguments of the launch that the next one overlaps, which calls ``tell``.

    It is itself launched as any other, and calls ``tell`` only where ``second``'s is behind it:
    what else comes next may not know to wait.
    """
    return {_TELLS: possible}


def second(possible: bool) -> dict[str, Any]:
    """Arguments of the launch behind it, which calls ``wait``."""
    return {_WAITS: True, "launch_pdl": True} if possible else {_WAITS: False}


@functools.cache
def on_device(device: torch.device) -> bool:
    """Whether launches on a device overlap; not in Triton's interpreter, nor without memory."""
    if device.type != "cuda" or torch.version.hip is not None or knobs.runtime.interpret:
        return False
    return torch.cuda.get_device_capability(device)[0] >= _CAPABILITY


def on_target(target: Target) -> bool:
    """Whether launches overlap on a kind of device."""
    arch = target.arch.removeprefix("sm_")
    return target.kind == "cuda" and int(arch) >= 10 * _CAPABILITY


def compiled_for(arguments: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """A launch's arguments as they are on a kind of device, whatever its tensors lie on."""
    mine = {name: value for name, value in arguments.items() if name != "launch_pdl"}
    if _TELLS in mine:
        mine |= first(on_target(target))
    if _WAITS in mine:
        mine |= second(on_target(target))
    return mine
