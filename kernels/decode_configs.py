"""The launch configurations of decode."""

import math
from collections.abc import Sequence

import triton

from autoprec.kernels.interface import Target
from autoprec.types import Config, Dtype, Workload

MAX_ROWS = 64
"""Most rows of a tile, which are the tokens of the query heads that share a KV head."""

# block_kv, num_warps, num_stages; the first of each list fits on every chip that the kernel claims
_TILES = ((32, 4, 2), (64, 4, 3), (64, 8, 3), (64, 8, 4), (64, 2, 3), (128, 4, 2))
_TILES_FP32 = ((32, 4, 2), (64, 8, 3), (64, 4, 3), (64, 4, 2), (64, 8, 4))
_TILES_ABOVE_128 = ((16, 4, 2), (16, 8, 2), (32, 8, 2), (64, 8, 2))
_WAVES = (1, 2, 4)  # programs for each multiprocessor
_STEADY_WAVES = 4
_LEAST_SPLIT = 128
_CONSISTENT_SPLIT = 256


def configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    """Those worth trying for a path on a workload, the safest first."""
    return [
        {"block_kv": block_kv, "split": split, "num_warps": warps, "num_stages": stages}
        for split in sorted(_useful_splits(workload, target))
        for block_kv, warps, stages in _tiles_of(workload)
    ]


def consistent(path: str, workload: Workload, target: Target) -> Config:
    """The safest tile; rows of one token in a tile, so that the number of tokens moves nothing."""
    block_kv, warps, stages = _tiles_of(workload)[0]
    return {
        "block_kv": block_kv, "split": _CONSISTENT_SPLIT, "num_warps": warps,
        "num_stages": stages, "block_rows": max(16, triton.next_power_of_2(workload.group)),
    }  # fmt: skip


def carried(config: Config, measured: Workload, workload: Workload, target: Target) -> Config:
    """With more keys longer splits, so that programs are as many as were measured.

    With fewer keys splits stay: a cache has room for partial results of all its capacity.
    """
    split, useful = int(config["split"]), _useful_splits(workload, target)
    doublings = round(math.log2(_keys(workload) / _keys(measured)))
    wanted = min(split << max(doublings, 0), max(split, *useful))
    return config if wanted == split else {**config, "split": wanted}


def steady(config: Config, workload: Workload, target: Target) -> Config:
    """As many splits as keep the chip busy, of whatever length a request's keys make of them."""
    rows = triton.cdiv(workload.q_len * workload.group, MAX_ROWS)
    programs = target.units * _STEADY_WAVES
    splits = max(1, triton.cdiv(programs, workload.batch * workload.kv_heads * rows))
    return {**config, "splits": int(splits), "split": _LEAST_SPLIT}


def _tiles_of(workload: Workload) -> tuple[tuple[int, int, int], ...]:
    if max(workload.head_dim, workload.head_dim_v) > 128:
        return _TILES_ABOVE_128
    return _TILES_FP32 if workload.input_dtype is Dtype.FP32 else _TILES


def _useful_splits(workload: Workload, target: Target) -> set[int]:
    """Keys of a split, such that programs keep the chip busy."""
    whole = triton.next_power_of_2(workload.kv_len)
    wanted = (triton.cdiv(_keys(workload), target.units * waves) for waves in _WAVES)
    splits = {min(whole, max(_LEAST_SPLIT, triton.next_power_of_2(keys))) for keys in wanted}
    if splits == {whole} and whole > _LEAST_SPLIT:  # heads enough: two, for a shorter tail
        splits.add(whole // 2)
    return splits


def _keys(workload: Workload) -> int:
    """Those that are read, of all heads of all requests."""
    seen = workload.kv_len
    if workload.window is not None:
        seen = min(seen, workload.window + workload.q_len - 1)
    return workload.batch * workload.kv_heads * seen
