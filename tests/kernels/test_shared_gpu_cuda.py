"""A GPU that turns from one process to another in the midst of a kernel changes no bit of it.

Barriers that nothing waited for once lay where rows' factors were kept, and what lay there was lost
whenever the GPU turned away: many launches gave NaN, and none where the process was alone.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import kernel_cases
import pytest
import torch

from autoprec import registry
from autoprec.types import Config

pytestmark = pytest.mark.cuda

_BUSY = """
import torch
x = torch.ones(4096, 4096, device="cuda")
print("busy", flush=True)
while True:
    for _ in range(20):
        y = x @ x
    torch.cuda.synchronize()
"""
TURNS, AT_ONCE = 40, 8  # launches without a pause, or the GPU turns away between them


@contextmanager
def shared_gpu() -> Iterator[None]:
    """Two other processes that keep the GPU busy."""
    others = [
        subprocess.Popen([sys.executable, "-P", "-c", _BUSY], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == b"busy\n"
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


# long enough to be interrupted; a group of fp16x3 keeps factors of its rows in shared memory
@pytest.mark.parametrize(
    ("path", "dtype", "kv_len"),
    [("fp16x3", torch.float32, 8192), ("bf16", torch.bfloat16, 16384)],
    ids=["fp16x3", "bf16"],
)
def test_no_bit_changes(path: str, dtype: torch.dtype, kv_len: int) -> None:
    row = registry.kernel("hopper-prefill")
    kernel_cases.target(row, "cuda")  # skips the test where the kernel does not run
    draw = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn((1, heads, kv_len, 128), generator=draw, device="cuda").to(dtype)
        for heads in (32, 8, 8)
    )
    first, *calls = (
        kernel_cases.guarded(q, k, v, out_dtype=dtype, diagonal=0).call for _ in range(1 + AT_ONCE)
    )
    config: Config = {"block_q": 128, "block_kv": 64, "num_stages": 2}
    row.run(first, path, config)
    assert not first.out.isnan().any()
    with shared_gpu():
        for _ in range(TURNS):
            for call in calls:
                call.out.fill_(torch.nan)
            for call in calls:
                row.run(call, path, config)
            assert all(torch.equal(call.out, first.out) for call in calls)
