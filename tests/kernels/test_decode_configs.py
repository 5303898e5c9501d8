"""How decode's configurations are made for a workload, and brought from one to another."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from fake_kernels import workload

from autoprec import registry
from autoprec.kernels.interface import Target
from autoprec.types import Config, Dtype, Layout, Phase

compiling = pytest.importorskip("autoprec.probe.compile")
DECODE = registry.kernel("triton-decode")
H100 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
CONFIG: Config = {"block_kv": 64, "split": 2048, "num_warps": 4, "num_stages": 3}
AT_32K = workload(
    phase=Phase.DECODE, kv_len=32768, q_heads=32, kv_heads=8, head_dim=128, input_dtype=Dtype.BF16
)


def carried(config: Config = CONFIG, **changes: Any) -> Config:
    assert DECODE.carried is not None
    return DECODE.carried(config, AT_32K, replace(AT_32K, **changes), H100)


@pytest.mark.parametrize(
    "changes",
    [{}, {"kv_len": 40000}, {"kv_len": 8192, "batch": 4}, {"kv_len": 1024}, {"kv_len": 1},
     {"kv_len": 131072, "window": 4096}],
)  # fmt: skip
def test_a_configuration_stays_where_keys_are_no_more(changes: dict[str, int]) -> None:
    assert carried(**changes) is CONFIG


@pytest.mark.parametrize(
    ("changes", "split"),
    [
        ({"kv_len": 131072}, 8192),
        ({"kv_len": 100000}, 8192),  # the nearest power of two
        ({"batch": 4}, 8192),
        ({"batch": 64}, 32768),  # a request is not longer
        ({"kv_len": 999_999_999, "batch": 1000}, 1 << 30),
    ],
)
def test_programs_are_as_many_as_were_measured(changes: dict[str, int], split: int) -> None:
    assert carried(**changes) == {**CONFIG, "split": split}


def test_a_split_that_is_longer_than_any_stays() -> None:
    long = {**CONFIG, "split": 1 << 31}
    assert carried(long, kv_len=131072) is long


def test_a_window_is_all_that_is_split() -> None:
    splits = [
        {int(it["split"]) for it in DECODE.configs("bf16", replace(AT_32K, **it), H100)}
        for it in ({"window": 1024}, {"kv_len": 1024}, {})
    ]
    assert splits == [{128}, {128}, {512, 1024, 2048}]


def test_a_tile_of_fp32_is_not_so_large() -> None:
    sizes = [
        {int(it["block_kv"]) for it in DECODE.configs("bf16", replace(AT_32K, **it), H100)}
        for it in ({}, {"input_dtype": Dtype.FP32})
    ]
    assert [max(it) for it in sizes] == [128, 64]


def _shared_bytes(*layouts: dict[str, Any]) -> list[int]:
    """Shared memory of a block of what CONFIG compiles to, for each layout."""
    tasks = [
        compiling.Task(
            kernel=DECODE.name, path="bf16", workload=replace(AT_32K, **layout), config=CONFIG,
            target=H100,
        )
        for layout in layouts
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "autoprec.probe.compile_worker"], env=env, check=True,
        input=b"".join(compiling.TASKS.dump_json(it) + b"\n" for it in tasks), capture_output=True,
    )  # fmt: skip
    answers = [compiling.ANSWERS.validate_json(line) for line in done.stdout.splitlines()]
    assert [it.reason for it in answers] == ["" for _ in layouts]
    return [it.shared_bytes for it in answers]


def test_as_many_tiles_are_under_way_through_pages_as_without() -> None:
    contiguous, *paged = _shared_bytes(
        {},
        {"layout": Layout.PAGED, "page_size": 16},
        {"layout": Layout.PAGED, "page_size": 128},
    )
    tiles = 2 * 2 * 64 * 128 * 2  # two of K and two of V, of 16-bit numbers
    assert contiguous >= tiles
    for it in paged:
        assert contiguous <= it <= contiguous + 4096  # page numbers lie beside them
