"""Compiled kernels launched again on other tensors, without binding their arguments anew.

Triton looks at every argument of every launch to find the kernel compiled for it. Where all that it
looks at is known to be as it was, the kernel that it found can be handed its arguments directly, of
which only addresses are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from triton import knobs

from autoprec.kernels.interface import Launch

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class _Step:
    """A launch of a compiled kernel: places are (argument, which tensor's address it is)."""

    kernel: Any
    run: Any
    grid: tuple[int, int, int]
    arguments: list[Any]
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """Launches that can be run again. Threads may share it."""

    steps: tuple[_Step, ...]

    def run(self, tensors: Sequence[torch.Tensor | None], stream: int) -> bool:
        """Launch on a stream of the current device; False where Triton must do it.

        Args:
            tensors: In place of those bound, in their order: their types, shapes and strides, and
                addresses that leave as much when divided by 16.
            stream: The address of the stream.
        """
        if _watched():
            return False
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        for step in self.steps:
            arguments = step.arguments.copy()
            for place, which in step.places:
                arguments[place] = addresses[which]
            kernel = step.kernel
            step.run(*step.grid, stream, kernel.function, kernel.packed_metadata, None, None, None,
                     *arguments)  # fmt: skip
        return True


def bind(
    launches: Sequence[Launch],
    tensors: Sequence[torch.Tensor | None],
    constant: Sequence[torch.Tensor | None],
) -> Bound | None:
    """Launch as Triton does, and hold what it found; None where that cannot be used again.

    Args:
        launches: Of jit functions.
        tensors: Those that later runs replace.
        constant: Those that lie where they are at every later run, which is the caller's to see to:
            they are not held. Arguments may lie within them.
    """
    compiled = [launch.function[launch.grid](**launch.arguments) for launch in launches]
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    known = [address for address in addresses if address is not None]
    if len(set(known)) < len(known) or _watched():  # two may be apart the next time
        return None
    steps = []
    for launch, kernel in zip(launches, compiled, strict=True):
        step = _step(launch, kernel, addresses, constant)
        if step is None:
            return None
        steps.append(step)
    return Bound(tuple(steps))


def _step(
    launch: Launch,
    kernel: Any,
    addresses: Sequence[int | None],
    constant: Sequence[torch.Tensor | None],
) -> _Step | None:
    names = getattr(launch.function, "arg_names", None)
    if names is None or not all(hasattr(kernel, name) for name in ("function", "packed_metadata")):
        return None
    arguments, places = [], []
    for place, name in enumerate(names):
        if name not in launch.arguments:
            return None
        value = launch.arguments[name]
        if isinstance(value, torch.Tensor):
            address = value.data_ptr()
            if address in addresses:
                places.append((place, addresses.index(address)))
            elif not any(_within(address, tensor) for tensor in constant):
                return None
            value = address
        elif not isinstance(value, _PLAIN):
            return None
        arguments.append(value)
    x, y, z = (*launch.grid, 1, 1)[:3]
    return _Step(kernel, kernel.run, (x, y, z), arguments, tuple(places))


def _within(address: int, tensor: torch.Tensor | None) -> bool:
    if tensor is None:
        return False
    return tensor.data_ptr() <= address < tensor.data_ptr() + max(1, tensor.nbytes)


def _watched() -> bool:
    """Whether somebody, such as a profiler, has asked Triton to be told of launches."""
    runtime = knobs.runtime
    return _has_calls(runtime.launch_enter_hook) or _has_calls(runtime.launch_exit_hook)


def _has_calls(hook: Any) -> bool:
    """Whether a hook is one: None, and a chain of none, are not."""
    return hook is not None and bool(getattr(hook, "calls", True))
