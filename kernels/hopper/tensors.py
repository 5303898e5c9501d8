"""Tensors as the copy engine takes them, and whether it does."""

import torch
import triton
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from autoprec.kernels.interface import Call, converts
from autoprec.types import Layout, Workload

PAGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024)  # tokens of a page that tiles are made of


def page_of(call: Call) -> int:
    """Tokens of a page; 0 where there are none."""
    if call.requests is None or call.requests.pages is None:
        return 0
    return int(call.k.shape[2])


def padded(head_dim: int) -> int:
    """Elements of a row of a tile: a power of two, and 64 at least."""
    return max(64, int(triton.next_power_of_2(head_dim)))


def in_16_bytes(x: torch.Tensor) -> bool:
    """Whether every row of a tensor begins at a multiple of 16 bytes and lies without gaps."""
    elements = 16 // x.element_size()
    whole = all(stride % elements == 0 for stride in x.stride()[:3])
    return x.stride(3) == 1 and whole and x.data_ptr() % 16 == 0


def takes(x: torch.Tensor) -> bool:
    """Whether the copy engine takes a tensor: addresses and strides of whole 16 bytes."""
    return in_16_bytes(x) and min(x.stride()) > 0


def gathers(path: str, workload: Workload) -> bool:
    """Whether K and V are brought together from pages, which the copy engine cannot bring.

    Rows of caches without gaps are taken for granted; others may be brought together even so.
    """
    if workload.layout is not Layout.PAGED:
        return False
    whole = all(dim % 8 == 0 for dim in (workload.head_dim, workload.head_dim_v))
    converted = converts(path, workload.input_dtype)
    return converted or workload.page_size not in PAGES or not whole


def descriptor(parts: torch.Tensor, block_kv: int, block_d: int) -> TensorDescriptor:
    """Parts ``[parts, batch, heads, tokens, dim]`` for the copy engine, which reads tiles of them.

    What lies beyond the tokens and the dim comes out as zeros.
    """
    dtype = gl.float16 if parts.dtype == torch.float16 else gl.bfloat16
    block = [1, 1, block_kv, block_d]
    layout = gl.NVMMASharedLayout.get_default_for(block, dtype)
    return TensorDescriptor.from_tensor(parts.flatten(0, 1), block, layout)
