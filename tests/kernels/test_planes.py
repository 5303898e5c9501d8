"""Planes of K and V that lie far apart, as those of large tensors do."""

import mmap
import sys
from dataclasses import replace

import pytest
import torch
from exact import inputs

from autoprec import registry
from autoprec.kernels.interface import Call, Launch, run_launches

_PLANE = 1 << 30  # elements: an int32, and twice it is none
_NORESERVE = 0x4000  # mmap.MAP_NORESERVE of Linux, which Python names from 3.13 on


@pytest.mark.skipif(sys.platform != "linux", reason="maps 10 GiB, of which it uses a few pages")
def test_third_planes_beyond_int32() -> None:
    """The numbers are small here; only where they are written and read is far away."""
    room = mmap.mmap(
        -1, 2 * (2 * _PLANE + 3 * _PLANE),
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE,
    )  # fmt: skip
    memory = torch.frombuffer(room, dtype=torch.bfloat16)
    far = {"k": memory[2 * _PLANE :], "v": memory[2 * _PLANE + 4096 :]}
    q, k, v = inputs(1, 1, 1, 16, 16, 16, 16)
    kernel = registry.kernel("triton-prefill")
    config = {"block_q": 16, "block_kv": 16, "num_warps": 4, "num_stages": 2}
    call = Call(q=q, k=k, v=v, out=torch.empty_like(q), lse=None, diagonal=0, sm_scale=0.25)
    assert kernel.launches is not None
    near = replace(call, out=torch.empty_like(q))
    kernel.run(near, "bf16x6", config)
    convert, attend = kernel.launches(call, "bf16x6", config)
    places = {"k_plane": _PLANE, "v_plane": _PLANE}
    run_launches([
        _with(convert, K_PLANES=far["k"], V_PLANES=far["v"], **places),
        _with(attend, K=far["k"], V=far["v"], **places),
    ])  # fmt: skip
    assert torch.equal(call.out, near.out)


def _with(launch: Launch, **changes: object) -> Launch:
    assert launch.arguments.keys() >= changes.keys()
    return replace(launch, arguments=launch.arguments | changes)
