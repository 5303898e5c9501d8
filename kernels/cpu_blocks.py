"""What the CPU kernels are made of: fp32 products kept fp32, buffers, and rounding of operands."""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch

from autoprec.kernels.interface import DTYPES, TORCH_DTYPES, converts
from autoprec.types import Dtype

_fp32_lock = threading.Lock()
_fp32_found: list[str] = []


@contextlib.contextmanager
def fp32_products() -> Iterator[None]:
    """Keep PyTorch from computing fp32 products in bf16 or tf32, whatever is set, while inside.

    The setting belongs to the process. Of several threads inside, each takes back one value that
    was found, so that the last to leave restores what the first had found.
    """
    matmul = cast(Any, torch.backends.mkldnn).matmul
    with _fp32_lock:
        _fp32_found.append(matmul.fp32_precision)
        matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _fp32_lock:
            matmul.fp32_precision = _fp32_found.pop()


class Scratch:
    """Buffers by name, made once and used for every block: new memory costs more than the work."""

    def __init__(self) -> None:
        """Start with none."""
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised contiguous tensor; it shares memory with earlier ones of the name."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype, device="cpu")
        return buffer[:size].view(*shape)


def _fp16_scale(amax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The power of two that brings amax (fp32, finite) into [2^14, 2^15), and its inverse."""
    biased = (268 - (amax.view(torch.int32) >> 23)).clamp_(max=253)
    return (biased << 23).view(torch.float32), ((254 - biased) << 23).view(torch.float32)


def _largest(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The largest finite magnitude along axes, kept as axes of size 1."""
    amax = torch.maximum(x.amax(axes, keepdim=True), -x.amin(axes, keepdim=True))
    if not amax.isfinite().all():
        amax = x.abs().nan_to_num_(0.0, posinf=0.0).amax(axes, keepdim=True)
    return amax


def _loses(x: torch.Tensor, scale: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """How many tiles lose an element to zero, or hold tokens far below the scale's [2^14, 2^15)."""
    scaled = x.abs().nan_to_num_(0.0, posinf=0.0)
    present = scaled > 0
    scaled.mul_(scale)
    lost = (present & (scaled <= 2.0**-25)).any(-1)
    if -2 in axes:  # tokens share a scale
        lost |= present.any(-1) & (scaled.amax(-1) < 2.0**-9)
    return lost.any(-1).sum().to(torch.int32)


class Rounding:
    """Brings fp32 and 16-bit tensors onto the numbers of a path's operand type, held in fp32."""

    def __init__(
        self, path: str, dtype: torch.dtype, scratch: Scratch, lost: torch.Tensor | None = None
    ) -> None:
        """For q, k and v of a dtype; what it makes lies in scratch, one tensor for each name.

        Blocks that lose accuracy to fp16's range are counted in lost.
        """
        self._path = path
        self._lost = lost
        self._converts = converts(path, DTYPES[dtype])
        self._scratch = scratch

    def operand(self, x: torch.Tensor, name: str, axes: tuple[int, ...]) -> torch.Tensor:
        """A block of q, k or v ``[units, rows, dim]``; fp16 scales are shared along axes.

        Scaling by a power of two, rounding and scaling back is exact but for the rounding.
        """
        if x.dtype == torch.float32 and not self._converts:
            return x
        y = self._scratch.take(name, x.shape, torch.float32).copy_(x)
        if not self._converts:
            return y
        if self._path == "fp16":
            scale, inverse = _fp16_scale(_largest(y, axes))
            if self._lost is not None:
                self._lost += _loses(y, scale, axes)
            return self._round(y.mul_(scale)).mul_(inverse)
        if self._path == "tf32":
            # A NaN whose bits are all ones would overflow into zero.
            y.nan_to_num_(math.nan, posinf=math.inf, neginf=-math.inf)
        return self._round(y)

    def probabilities(self, p: torch.Tensor) -> torch.Tensor:
        """P rounded in place."""
        return p if self._path == "fp32" else self._round(p)

    def _round(self, x: torch.Tensor) -> torch.Tensor:
        if self._path == "tf32":  # to nearest, ties away from zero
            x.view(torch.int32).add_(0x1000).bitwise_and_(-0x2000)
            return x
        narrow = self._scratch.take("narrow", x.shape, TORCH_DTYPES[Dtype(self._path)])
        return x.copy_(narrow.copy_(x))
