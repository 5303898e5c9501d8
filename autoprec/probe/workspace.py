"""Memory that a run takes beyond its inputs and outputs: measured, or known beforehand."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from autoprec.kernels.interface import Call, Launch


class Peak:
    """The most memory allocated at any moment since, beyond what was allocated before.

    By PyTorch's allocator, which is what kernels here and PyTorch's own take memory from. What it
    keeps cached is not counted: another run gets it.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin to count; on a CPU, where PyTorch keeps no books, there is nothing to count."""
        self._device = device
        self._before = 0
        if device.type != "cpu":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    def bytes(self, *, less: int) -> int | None:
        """The peak until now; None on a CPU.

        Args:
            less: Bytes allocated in the meantime that do not count.
        """
        if self._device.type == "cpu":
            return None
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._before - less)


def planned_bytes(launches: Sequence[Launch], call: Call) -> int:
    """Bytes that launches read or write beside a call's own tensors, before any of them runs.

    Args:
        launches: A kernel's, of the call; tensors of the device ``meta`` have their sizes too.
        call: The call.
    """
    own = {_place(t) for t in (call.q, call.k, call.v, call.out, call.lse) if t is not None}
    sizes = {
        _place(tensor): tensor.untyped_storage().nbytes()
        for launch in launches
        for value in launch.arguments.values()
        for tensor in _tensors(value)
    }
    return sum(size for place, size in sizes.items() if place not in own)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if hasattr(value, "block_shape"):  # a tensor descriptor
        value = value.base
    if isinstance(value, torch.Tensor):
        yield value


def _place(tensor: torch.Tensor) -> int:
    """What is the same for all views of a tensor, and different for others while it lives."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]
