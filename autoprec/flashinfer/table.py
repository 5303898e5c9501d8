"""The page table of a wrapper: on the device, and in graph mode always in the same memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.page import get_seq_lens
from autoprec.plan import checked


@dataclass(frozen=True)
class Lengths:
    """Keys of each request, as the host knows them.

    Attributes:
        longest: No request has more; of graphs, none ever.
        mean: Rounded up, for looking up a choice.
    """

    longest: int
    mean: int


def lengths_of(kv_lens: Tensor) -> Lengths:
    """What the lengths of requests, on the host, come to.

    Raises:
        InputError: One is negative.
    """
    lens = kv_lens.tolist()
    for request, length in enumerate(lens):
        if length < 0:
            raise InputError(f"request {request} has {length} keys.")
    return Lengths(max(lens, default=0), -(-sum(lens) // max(1, len(lens))))


class Held:
    """int32 tensors by name, on a device; for graphs each stays where it was first put."""

    def __init__(self, device: torch.device, fixed: bool, **buffers: Tensor | None) -> None:
        """Start with the caller's buffers.

        Args:
            fixed: Whether graphs read them, so that all must stay where they are.
            buffers: Those of the caller; used where ``fixed``, and then each must be there.

        Raises:
            InputError: A buffer is missing or cannot hold what is written to it.
        """
        self._device = device
        self._fixed = fixed
        self._tensors: dict[str, Tensor] = {}
        if not fixed:
            return
        for name, buffer in buffers.items():
            if not isinstance(buffer, Tensor):
                raise InputError(f"{name} must be a tensor where use_cuda_graph is set.")
            if buffer.dtype != torch.int32 or buffer.device != device:
                raise InputError(
                    f"{name} must be int32 on {device}, got {buffer.dtype} on {buffer.device}."
                )
            if buffer.ndim != 1 or not buffer.is_contiguous():
                raise InputError(f"{name} {tuple(buffer.shape)} must be one contiguous row.")
            self._tensors[name] = buffer

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name."""
        return self._tensors[name]

    def room(self, name: str) -> int:
        """Numbers that the caller's buffer of a name has room for; 0 where there is none."""
        return self._tensors[name].shape[0] if self._fixed else 0

    def put(self, name: str, value: Tensor, *, non_blocking: bool = True) -> Tensor:
        """Have a value under a name, and return where it is.

        Raises:
            InputError: It is larger than the buffer that graphs read.
        """
        held = self._tensors.get(name)
        if not self._fixed or held is None:
            with torch.inference_mode(False):  # what comes later may come outside of that mode
                held = value.to(self._device, torch.int32, non_blocking=non_blocking).contiguous()
                if self._fixed and held.data_ptr() == value.data_ptr():
                    held = held.clone()  # the caller's own may change
            self._tensors[name] = held
            return held
        if value.shape[0] > held.shape[0]:
            raise InputError(
                f"{name} has room for {held.shape[0]} numbers, and {value.shape[0]} are given.",
                "a larger buffer",
            )
        part = held[: value.shape[0]]
        if part.data_ptr() != value.data_ptr() or value.dtype != torch.int32:
            # a copy from pageable memory is done when it returns, asked for or not
            part.copy_(value, non_blocking=non_blocking)
        return held


def check_table(indptr: Tensor, indices: Tensor, last_page_len: Tensor) -> int:
    """Refuse a page table that cannot be one; the batch.

    Raises:
        InputError: As said.
    """
    for name, tensor in (
        ("indptr", indptr), ("indices", indices), ("last_page_len", last_page_len),
    ):  # fmt: skip
        _check_row(name, tensor)
    batch = last_page_len.shape[0]
    if indptr.shape[0] != batch + 1:
        raise InputError(
            f"indptr has {indptr.shape[0]} numbers and last_page_len {batch}; it must have one "
            "more."
        )
    return batch


def check_starts(name: str, indptr: Tensor, batch: int) -> Tensor:
    """Where requests start, int64 on the host, refused where it cannot be; waits for the device.

    Raises:
        InputError: As said.
    """
    _check_row(name, indptr)
    if indptr.shape[0] != batch + 1 or batch < 0:
        raise InputError(f"{name} has {indptr.shape[0]} numbers for a batch of {batch}; it must "
                         "have one more.")  # fmt: skip
    starts = indptr.to("cpu", torch.int64)
    if starts[0] < 0 or (starts.diff() < 0).any():
        raise InputError(f"{name} must start at 0 or above and never fall, got {_few(starts)}.")
    return starts


def kv_lens_of(
    indptr: Tensor, last_page_len: Tensor, page_size: int, seq_lens: Tensor | None
) -> Tensor:
    """Keys of each request, int64 on the host; waits for the device.

    An indptr on a device is not read where seq_lens say as much, but in checked mode.

    Raises:
        InputError: indptr does not rise, a last page holds more than there is room, or seq_lens
            does not fit.
    """
    batch = last_page_len.shape[0]
    if seq_lens is not None:
        if seq_lens.numel() != batch:
            raise InputError(f"seq_lens {tuple(seq_lens.shape)} is not for a batch of {batch}.")
        lens = seq_lens.to("cpu", torch.int64).reshape(-1)
        if indptr.device.type == "cpu" or checked.enabled():
            _check_room(lens, check_starts("indptr", indptr, batch).diff() * page_size)
        return lens
    starts = check_starts("indptr", indptr, batch)
    last = last_page_len.to("cpu", torch.int64)
    if ((last < 0) | (last > page_size)).any():
        raise InputError(
            f"last_page_len must lie within 0 and page_size {page_size}, got {_few(last)}."
        )
    # a request without pages has no keys, whatever is said of its last page
    return get_seq_lens(starts, last, page_size).masked_fill_(starts.diff() == 0, 0)


def _check_room(lens: Tensor, room: Tensor) -> None:
    """Refuse lengths beyond the keys that the pages of each request have room for."""
    for request in (lens > room).nonzero().flatten().tolist():
        raise InputError(
            f"request {request} has {lens[request]} keys by seq_lens, and its pages have room for "
            f"{room[request]}."
        )


def _check_row(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 1 or tensor.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"{name} must be int32 or int64 and have one dimension, got {tensor.dtype} "
            f"{tuple(tensor.shape)}."
        )


def _few(numbers: Tensor) -> str:
    """The first numbers of a tensor."""
    shown = ", ".join(str(number) for number in numbers[:8].tolist())
    return f"[{shown}, ...]" if numbers.shape[0] > 8 else f"[{shown}]"
