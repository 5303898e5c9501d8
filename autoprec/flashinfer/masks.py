"""Custom masks, packed as kernels read them: little-endian, each request from a byte on."""

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.quantization import packbits, segment_packbits
from autoprec.kernels.interface import PackedMask


def of_single(
    custom_mask: Tensor | None, packed: Tensor | None, q: Tensor, k: Tensor, kv_layout: str
) -> PackedMask | None:
    """The mask of one request.

    Args:
        custom_mask: ``[q_len, kv_len]``, or in one row.
        packed: The same, packed; used first.
        q: ``[q_len, q_heads, head_dim]``.
        k: Of the layout.

    Raises:
        InputError: It is too small or too large.
    """
    if custom_mask is None and packed is None:
        return None
    pairs = q.shape[0] * k.shape[0 if kv_layout == "NHD" else 1]
    if packed is None:
        assert custom_mask is not None
        if custom_mask.numel() != pairs:
            raise InputError(f"custom_mask {tuple(custom_mask.shape)} must have {pairs} elements, "
                             "one for each query and key.")  # fmt: skip
        packed = packbits(custom_mask.to(q.device).reshape(-1), bitorder="little")
    starts = torch.zeros(1, dtype=torch.int32, device=q.device)
    return PackedMask(_checked(packed.to(q.device), -(-pairs // 8)), starts)


def of_requests(
    custom_mask: Tensor | None, packed: Tensor | None, q_starts: Tensor, kv_lens: Tensor
) -> PackedMask | None:
    """The masks of requests.

    Args:
        custom_mask: Those of all requests in one row.
        packed: The same, packed; used first.
        q_starts: int64 ``[batch + 1]``, on the host.
        kv_lens: ``[batch]``, on the host.

    Raises:
        InputError: They are too small or too large.
    """
    if custom_mask is None and packed is None:
        return None
    pairs = q_starts.diff() * kv_lens
    ends = torch.nn.functional.pad(pairs.cumsum(0), (1, 0))
    if packed is None:
        assert custom_mask is not None
        if custom_mask.numel() != ends[-1]:
            raise InputError(
                f"custom_mask {tuple(custom_mask.shape)} must have {int(ends[-1])} elements, one "
                "for each query and key of each request."
            )
        return PackedMask(*segment_packbits(custom_mask.reshape(-1), ends, bitorder="little"))
    starts = torch.nn.functional.pad(((pairs + 7) // 8).cumsum(0), (1, 0)).to(torch.int32)
    return PackedMask(_checked(packed, int(starts[-1])), starts)


def _checked(packed: Tensor, nbytes: int) -> Tensor:
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.shape[0] < nbytes:
        raise InputError(
            f"packed_custom_mask must be uint8 of {nbytes} bytes in one row, got {packed.dtype} "
            f"{tuple(packed.shape)}."
        )
    return packed.contiguous()
