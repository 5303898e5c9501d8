"""Compiled kernels launched again on other tensors, without binding their arguments anew.

Triton looks at every argument of every launch to find the kernel compiled for it. Where all that it
looks at is known to be as it was, the kernel that it found can be handed its arguments directly, of
which only addresses are new: those of the caller's tensors, and of memory that launches use among
themselves, which each run takes for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from triton import knobs

from autoprec.kernels.descriptors import Described, is_descriptor
from autoprec.kernels.interface import Launch
from autoprec.kernels.temporaries import Room, Temporaries

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class _Step:
    """A launch of a compiled kernel.

    Its places are (argument, which memory it lies in, how many bytes behind its beginning, the
    descriptor to be made of that address or None for the address itself).
    """

    kernel: Any
    run: Any
    grid: tuple[int, int, int]
    arguments: list[Any]
    places: tuple[tuple[int, int, int, Described | None], ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """Launches that can be run again. Threads may share it.

    Attributes:
        steps: One for each launch. Memory is numbered: the tensors, then the rooms.
        rooms: What a run takes on its stream and gives back there, once all is queued.
    """

    steps: tuple[_Step, ...]
    rooms: tuple[Room, ...]

    def run(self, tensors: Sequence[torch.Tensor | None], stream: int) -> bool:
        """Launch on the current stream of the current device; False where Triton must do it.

        Args:
            tensors: In place of those bound, in their order: their types, shapes and strides, and
                addresses that leave as much when divided by 16.
            stream: The address of the stream.
        """
        if _watched():
            return False
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        # held until all is queued: torch has it for others on this stream alone, behind that
        taken = [room.take() for room in self.rooms]
        addresses += [room.data_ptr() for room in taken]
        for step in self.steps:
            arguments = step.arguments.copy()
            for place, which, offset, described in step.places:
                address = addresses[which] + offset
                arguments[place] = address if described is None else described.at(address)
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
        tensors: Those that later runs replace. Arguments may begin where they do, and anywhere
            within one that is contiguous.
        constant: Those that lie where they are at every later run, which is the caller's to see to:
            they are not held. Arguments may lie within them, and within what launches name as
            temporary.
    """
    compiled = [launch.function[launch.grid](**launch.arguments) for launch in launches]
    known = [tensor.data_ptr() for tensor in tensors if tensor is not None]
    if len(set(known)) < len(known) or _watched():  # two may be apart the next time
        return None
    memory = _Memory(launches, tensors, constant)
    steps = []
    for launch, kernel in zip(launches, compiled, strict=True):
        step = _step(launch, kernel, memory)
        if step is None:
            return None
        steps.append(step)
    return Bound(tuple(steps), memory.rooms)


class _Memory:
    """Where the arguments of launches lie."""

    def __init__(
        self,
        launches: Sequence[Launch],
        tensors: Sequence[torch.Tensor | None],
        constant: Sequence[torch.Tensor | None],
    ) -> None:
        self._tensors = tensors
        self._addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        self._constant = constant
        self._temporaries = Temporaries(launches)
        self.rooms = self._temporaries.rooms

    def find(self, address: int) -> tuple[int, int] | None:
        """The number of the memory that an address lies in, and how far in; None: in none.

        Memory that stays where it is has the number -1.
        """
        if address in self._addresses:
            return self._addresses.index(address), 0
        if found := self._temporaries.find(address):
            return len(self._tensors) + found[0], found[1]
        if any(_within(address, tensor) for tensor in self._constant):
            return -1, 0
        around = [
            (number, address - tensor.data_ptr())
            for number, tensor in enumerate(self._tensors)
            if tensor is not None and _within(address, tensor) and tensor.is_contiguous()
        ]
        return around[0] if len(around) == 1 else None  # in two it may be meant for either


def _step(launch: Launch, kernel: Any, memory: _Memory) -> _Step | None:
    names = getattr(launch.function, "arg_names", None)
    if names is None or not all(hasattr(kernel, name) for name in ("function", "packed_metadata")):
        return None
    arguments, places = [], []
    for place, name in enumerate(names):
        if name not in launch.arguments:
            return None
        value = launch.arguments[name]
        described = Described(value) if is_descriptor(value) else None
        if described is not None or isinstance(value, torch.Tensor):
            address = (value if described is None else value.base).data_ptr()
            found = memory.find(address)
            if found is None:
                return None
            which, offset = found
            if which >= 0:
                places.append((place, which, offset, described))
            value = address if described is None else described.at(address)
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
