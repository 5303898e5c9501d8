"""The launch configurations of the portable prefill kernel."""

from collections.abc import Sequence

from autoprec.kernels.interface import Target, converts
from autoprec.kernels.planes import key_bytes
from autoprec.types import Config, Workload

# block_q, block_kv, num_warps, num_stages, by the bytes of all parts of a key's element. The first
# of each list fits on every chip that the kernel claims.
_Tiles = tuple[tuple[int, int, int, int], ...]
_TILES: dict[int, _Tiles] = {
    2: ((64, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 2), (128, 64, 8, 3), (64, 32, 4, 3)),
    4: ((64, 32, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2)),
    6: ((32, 32, 4, 2), (64, 32, 4, 2), (128, 32, 8, 2)),
    8: ((32, 16, 4, 2), (64, 32, 8, 2), (128, 16, 8, 2)),
}
_TILES_ABOVE_128: dict[int, _Tiles] = {
    2: ((32, 32, 4, 2), (64, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
    4: ((32, 16, 4, 2), (128, 32, 8, 2)),
    6: ((16, 16, 4, 2),),
    8: ((16, 16, 4, 2),),
}
# Those of 16-bit operands on Hopper: two blocks a multiprocessor, one of which multiplies while the
# other takes its softmax, come first.
_TILES_SM_90: _Tiles = ((64, 64, 4, 3), (128, 64, 8, 3))
# With a fifth number, the products of queries and keys run a tile ahead of the softmax, and beside
# it where queries are multiplied as they lie in memory: those that are converted pass through
# registers, and such products are waited for at once. With a window, ptxas puts the exponentials
# after them.
_AHEAD_SM_90 = ((128, 64, 8, 3, 1),)
# fp32 multiplies without tensor cores: other tiles keep its operands in registers
_TILES_FP32: _Tiles = ((32, 32, 4, 2), (32, 64, 8, 2), (64, 64, 16, 2), (16, 64, 4, 2))
_TILES_FP32_ABOVE_128: _Tiles = ((32, 16, 4, 2), (16, 32, 4, 2), (32, 32, 8, 2))


def configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    """Those worth trying for a path on a workload and a chip, the safest first."""
    above = max(workload.head_dim, workload.head_dim_v) > 128
    tiles: Sequence[tuple[int, ...]]
    if path == "fp32":
        tiles = _TILES_FP32_ABOVE_128 if above else _TILES_FP32
    elif target.arch == "sm_90" and key_bytes(path) == 2 and not above:
        beside = workload.window is None and not converts(path, workload.input_dtype)
        tiles = (*_TILES_SM_90, *_AHEAD_SM_90) if beside else _TILES_SM_90
    else:
        tiles = (_TILES_ABOVE_128 if above else _TILES)[key_bytes(path)]
    names = ("block_q", "block_kv", "num_warps", "num_stages", "ahead")
    return [dict(zip(names, tile, strict=False)) for tile in tiles]


def consistent(path: str, workload: Workload, target: Target) -> Config:
    """That of consistent mode: the safest, which depends on nothing that a batch may change."""
    return configs(path, workload, target)[0]
