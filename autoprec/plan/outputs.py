"""Where a call writes, checked: its type, and that nothing else of the call lies in its memory."""

import operator
from collections.abc import Hashable, Sequence

import torch

from autoprec.errors import InputError
from autoprec.kernels.interface import DTYPES, TORCH_DTYPES
from autoprec.plan.arguments import check_gradient
from autoprec.types import Dtype

_OUT_DTYPES: dict[Hashable, torch.dtype] = {dtype: dtype for dtype in DTYPES} | {
    dtype.value: TORCH_DTYPES[dtype] for dtype in Dtype
}


def check_out(out: object, shape: tuple[int, ...], *inputs: torch.Tensor) -> None:
    """Refuse an output that cannot be written as asked.

    Args:
        shape: What it must have, in the layout of the call.
        inputs: Tensors on the device it must be on, with which it must not share memory.

    Raises:
        InputError: As said.
        UnsupportedError: It requires a gradient.
    """
    if not isinstance(out, torch.Tensor):
        raise InputError(f"out must be a torch.Tensor, got {type(out).__name__}.")
    if out.is_nested or out.layout is not torch.strided:
        raise InputError("out is nested or sparse, and no kernel writes that.")
    if out.shape != shape:
        raise InputError(f"out {_shape(out)} must have the shape {shape}.")
    if out.device != inputs[0].device:
        raise InputError(
            f"out {_shape(out)} is on {out.device}, the inputs are on {inputs[0].device}."
        )
    check_memory("out", out, "an input", inputs)


def check_lse_out(
    lse: object,
    shape: tuple[int, ...],
    out: torch.Tensor,
    *inputs: torch.Tensor,
    name: str = "lse_out",
) -> None:
    """Refuse an LSE that cannot be written as asked.

    Args:
        shape: What it must have, whatever the layout of the call.
        out: On the device it must be on. With this and the inputs it must not share memory.
        name: What the caller calls it.

    Raises:
        InputError: As said.
        UnsupportedError: It requires a gradient.
    """
    if not isinstance(lse, torch.Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(lse).__name__}.")
    if lse.is_nested or lse.layout is not torch.strided:
        raise InputError(f"{name} is nested or sparse, and no kernel writes that.")
    if lse.shape != shape or lse.dtype != torch.float32 or lse.device != out.device:
        raise InputError(
            f"{name} must be float32 {tuple(shape)} on {out.device}, got {lse.dtype} {_shape(lse)} "
            f"on {lse.device}."
        )
    check_memory(name, lse, "out or an input", (out, *inputs))


def check_memory(
    name: str, written: torch.Tensor, whose: str, others: Sequence[torch.Tensor]
) -> None:
    """Refuse to write where a gradient is asked for, or to memory that the call uses already.

    Args:
        name: What the caller calls it.
        whose: Of whom ``others`` are, for the sentence.
        others: What the call reads, or writes as well.

    Raises:
        InputError: As said.
        UnsupportedError: It requires a gradient.
    """
    check_gradient(name, written)
    if not written.is_contiguous() and _overlaps_itself(written):
        raise InputError(
            f"{name} {_shape(written)} has strides {written.stride()}: its elements share memory.",
            "torch.empty of that shape",
        )
    if written.numel() and meets(written, others):
        raise InputError(
            f"{name} {_shape(written)} lies in the memory of {whose}.",
            f"an {name} of its own memory",
        )


def check_apart(name: str, read: torch.Tensor, whose: str, written: Sequence[torch.Tensor]) -> None:
    """Refuse a tensor that lies in memory which the call writes.

    Args:
        name: What the caller calls it.
        whose: Of whom ``written`` are, for the sentence.
        written: Tensors on its device.

    Raises:
        InputError: It lies there.
    """
    if read.numel() and meets(read, written):
        raise InputError(
            f"{name} {_shape(read)} lies in the memory of {whose}, which is written.",
            f"{name}.clone()",
        )


def meets(written: torch.Tensor, others: Sequence[torch.Tensor], nbytes: int | None = None) -> bool:
    """Whether the bytes of a tensor meet those of others; interleaved views count as meeting.

    Args:
        written: It has elements.
        others: Some may have none.
        nbytes: How many are written, from its first on; None: all.
    """
    first, last = _addresses(written)
    if nbytes is not None:
        last = first + nbytes
    for tensor in others:
        other_first, other_last = _addresses(tensor)
        if first < other_last and other_first < last and tensor.numel():
            return True
    return False


def output_dtype(
    asked: object, out: object, inputs: torch.dtype, *, name: str = "out_dtype"
) -> torch.dtype:
    """The output's type: as asked, else that of ``out``, else the inputs'.

    Args:
        asked: None, a torch.dtype or a name such as ``fp32``.
        name: What the caller calls it.

    Raises:
        InputError: It is none of the three, or it contradicts ``out``.
    """
    given = None
    if isinstance(out, torch.Tensor):
        given = out.dtype
        if given not in DTYPES:
            shape = "" if out.is_nested else f"{_shape(out)} "
            raise InputError(f"out {shape}is {given}; it must be float32, bfloat16 or float16.")
    if asked is None:
        asked = inputs if given is None else given
    dtype = _OUT_DTYPES.get(asked) if isinstance(asked, Hashable) else None
    if dtype is None:
        raise InputError(f"{name} must be fp32, bf16 or fp16, got {asked!r}.")
    if given is not None and given != dtype:
        raise InputError(f"out is {given}, but out_dtype is {dtype}.")
    return dtype


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether elements share memory; a few strange interleaved views count as if they did."""
    reach = 0  # the largest offset that the axes of smaller strides come to
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _addresses(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor that has elements, and of the one after the last."""
    first = tensor.data_ptr()
    if tensor.is_contiguous():  # most are, and this is asked at every call
        return first, first + tensor.nbytes
    strides = tensor.stride()
    reach = sum(map(operator.mul, strides, tensor.shape)) - sum(strides)
    return first, first + (reach + 1) * tensor.element_size()
