"""Memory for partial results: a plan's own, and buffers that callers give."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.plan.outputs import meets

_NOTHING = torch.empty(0, dtype=torch.float32, device="cpu")


class Workspaces:
    """fp32 memory by thread, device and stream, kept between calls.

    Calls of one thread on one stream run one after another, so that they can share it. What was
    outgrown is kept, for a CUDA graph may write there; each is at least twice the one before.
    Graphs that were captured on one stream and are replayed on several at once must be given
    memory of their own.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: dict[tuple[int, torch.device, int], Tensor] = {}
        self._outgrown: list[Tensor] = []

    def take(self, device: torch.device, elements: int) -> Tensor:
        """At least so many elements, for calls on the current stream of a device."""
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        key = threading.get_ident(), device, stream
        held = self._held.get(key)
        if held is None or held.numel() < elements:
            size = elements
            if held is not None:
                size = max(size, 2 * held.numel())
                self._outgrown.append(held)
            with torch.inference_mode(False):  # kept for calls that may come outside of that mode
                held = torch.empty(size, dtype=torch.float32, device=device)
            self._held[key] = held
        return held


def as_fp32(buffer: Tensor, name: str = "workspace") -> Tensor:
    """The memory of a buffer of any type as fp32 numbers, from a multiple of 16 bytes on.

    Raises:
        InputError: It is no plain, contiguous tensor.
    """
    plain = isinstance(buffer, Tensor) and not buffer.is_nested and not buffer.is_quantized
    if not plain or not buffer.is_contiguous():
        raise InputError(f"{name} must be a contiguous tensor.")
    raw = buffer.view(-1).view(torch.uint8)
    first = -raw.data_ptr() % 16
    usable = max(0, raw.numel() - first) // 4 * 4
    return raw[first : first + usable].view(torch.float32) if usable else _NOTHING.to(raw.device)


def given(buffer: Tensor, elements: int, used: Sequence[Tensor]) -> Tensor:
    """A caller's buffer as fp32 numbers.

    Args:
        elements: What the call takes of it, from its beginning on.
        used: The other tensors of the call, the queries first.

    Raises:
        InputError: It is too small, elsewhere, or in the memory of one of them.
    """
    space, device = as_fp32(buffer), used[0].device
    if space.device != device:
        raise InputError(f"workspace is on {buffer.device}, q on {device}.")
    if space.numel() < elements:
        raise InputError(
            f"workspace has room for {4 * space.numel()} bytes, and this call needs "
            f"{4 * elements}.", "a larger one, or none: the plan has its own",
        )  # fmt: skip
    if elements and meets(space, used, 4 * elements):
        raise InputError(
            f"workspace {tuple(buffer.shape)} lies in the memory of an input or an output.",
            "a workspace of its own memory",
        )
    return space
