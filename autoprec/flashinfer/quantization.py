"""Bits of boolean masks packed into bytes, as FlashInfer and NumPy pack them."""

import torch
from torch import Tensor

from autoprec.errors import InputError


def packbits(x: Tensor, bitorder: str = "big") -> Tensor:
    """Pack a mask, eight elements a byte, the last byte filled up with zeros.

    Args:
        x: ``[n]``, bool, or numbers of which 0 is false.
        bitorder: ``big``: the first element is a byte's highest bit; ``little``: its lowest.

    Returns:
        uint8 ``[(n + 7) // 8]``.

    Raises:
        InputError: x is not one-dimensional, or the order is neither.
    """
    if x.ndim != 1:
        raise InputError(f"x {tuple(x.shape)} must have one dimension.", "x.contiguous().view(-1)")
    if bitorder not in ("big", "little"):
        raise InputError(f"bitorder must be big or little, got {bitorder!r}.")
    places = torch.arange(8, dtype=torch.int32, device=x.device)
    if bitorder == "big":
        places = places.flip(0)
    bits = torch.nn.functional.pad((x != 0).to(torch.int32), (0, -x.shape[0] % 8))
    return (bits.view(-1, 8) << places).sum(1).to(torch.uint8)


def segment_packbits(x: Tensor, indptr: Tensor, bitorder: str = "big") -> tuple[Tensor, Tensor]:
    """Pack segments of a mask, each from the start of a byte. Waits for the device.

    Args:
        x: ``[indptr[-1]]``, bool, or numbers of which 0 is false.
        indptr: int32 or int64 ``[segments + 1]``: segment i is ``x[indptr[i]:indptr[i+1]]``.
        bitorder: As for ``packbits``.

    Returns:
        uint8 ``[bytes]``, and int32 ``[segments + 1]``: where the bytes of each segment start.

    Raises:
        InputError: As for ``packbits``, or x is not as long as indptr says.
    """
    if x.ndim != 1:
        raise InputError(f"x {tuple(x.shape)} must have one dimension.", "x.contiguous().view(-1)")
    starts = indptr.to(x.device, torch.int64)
    packed = torch.zeros_like(starts)
    packed[1:] = ((starts.diff() + 7) // 8).cumsum(0)
    elements, nbytes = torch.stack((starts[-1], packed[-1])).tolist()
    if elements != x.shape[0]:
        raise InputError(f"x has {x.shape[0]} elements, and indptr ends with {elements}.")
    bits = torch.zeros(8 * nbytes, dtype=torch.bool, device=x.device)
    element = torch.arange(elements, device=x.device)
    segment = torch.searchsorted(starts[1:], element, right=True)
    bits[8 * packed[segment] + element - starts[segment]] = x != 0
    return packbits(bits, bitorder), packed.to(torch.int32)
