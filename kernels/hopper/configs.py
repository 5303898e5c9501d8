"""The launch configurations of the Hopper prefill kernel, and the sizes that it takes."""

from collections.abc import Sequence

from autoprec.kernels.interface import Target
from autoprec.paths import PATHS
from autoprec.types import Config, Layout, Workload

# block_q, block_kv, num_stages and, where programs take one block after the other, how many of them
# a multiprocessor has; by the parts of K and V and of P, for head dims up to 64, 128 and 256
_Tiles = tuple[tuple[int, ...], ...]
_TILES: dict[tuple[int, int], dict[int, _Tiles]] = {
    (1, 1): {
        64: ((192, 128, 3, 1), (192, 128, 2, 1), (256, 64, 6, 1)),
        128: ((128, 128, 2, 1),),
        256: ((128, 64, 2, 1),),
    },
    (1, 2): {
        64: ((128, 128, 2, 1), (128, 64, 3, 1)),
        128: ((128, 64, 3, 1), (128, 64, 2, 1)),
    },
    (2, 2): {
        64: ((128, 64, 2), (128, 128, 2), (128, 64, 2, 1)),
        128: ((128, 64, 2), (128, 64, 2, 1)),
    },
}
# Short prompts of short heads have too few tiles to fill three groups' pipelines. Small pages come
# in many copies, and the place of a ragged block takes a while to find: two stages do not last.
_TILES_SHORT: _Tiles = ((256, 64, 6, 1), (128, 128, 3, 1), (192, 128, 3, 1))
_TILES_FAR: _Tiles = ((128, 128, 3, 1), (128, 128, 2, 1))
# Where there is a multiprocessor for each block, a program for each begins sooner than one that is
# told what to do.
_TILES_AT_ONCE: _Tiles = ((128, 128, 2),)
# Under a window or a soft cap three groups that hold 128 keys each would spill in their loops.
_TILES_NARROW: _Tiles = ((128, 128, 3, 1), (192, 64, 5, 1), (256, 64, 6, 1))


def configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    """Those worth trying for a path on a workload, the safest first."""
    most = _most(path, workload)
    tiles = _of_parts(path)[most]
    if (PATHS[path].parts, PATHS[path].p_parts) == (1, 1):
        if most == 64 and (workload.window is not None or workload.soft_cap is not None):
            tiles = _TILES_NARROW
        elif most == 64 and workload.kv_len <= 2048:
            tiles = _TILES_SHORT
        elif most == 128 and workload.layout is not Layout.CONTIGUOUS:
            tiles = _TILES_FAR
        elif most == 128 and _blocks(workload) <= target.units:
            tiles = _TILES_AT_ONCE
    return [_config(sizes) for sizes in tiles]


def consistent(path: str, workload: Workload, target: Target) -> Config:
    """That of consistent mode: it rests on path and head dims alone, not on lengths or layout."""
    return _config(_of_parts(path)[_most(path, workload)][0])


def limits(path: str, workload: Workload) -> list[str]:
    """What the kernel does not take of a workload, in sentences."""
    dim, most = max(workload.head_dim, workload.head_dim_v), max(_of_parts(path))
    if dim > most:
        return [f"hopper-prefill takes head dims up to {most} for {path}, not {dim}"]
    rows = 2 * workload.batch * workload.kv_heads * (workload.kv_len + 128)
    return [f"hopper-prefill counts rows of planes in 32 bits, not {rows}"] if rows >> 31 else []


def _of_parts(path: str) -> dict[int, _Tiles]:
    return _TILES[PATHS[path].parts, PATHS[path].p_parts]


def _most(path: str, workload: Workload) -> int:
    """The largest head dim of those that have the workload's configurations."""
    dim = max(workload.head_dim, workload.head_dim_v)
    return next(most for most in _of_parts(path) if dim <= most)


def _blocks(workload: Workload) -> int:
    """Blocks of 128 queries."""
    return workload.batch * workload.q_heads * -(-workload.q_len // 128)


def _config(sizes: tuple[int, ...]) -> Config:
    names = "block_q", "block_kv", "num_stages", "programs_per_sm"
    return dict(zip(names, sizes, strict=False))
