"""What torch puts into a cache on a CPU is what the kernel puts there."""

from importlib.util import find_spec
from itertools import pairwise

import made_up
import pytest
import torch
from exact import cpu_profile, naive
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import Requests, run_launches
from autoprec.plan import cpu_append
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Phase

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")

HEADS, DIM, DIM_V = 2, 16, 24


def requests(lengths: list[int], starts: list[int] | None, page_size: int | None) -> Requests:
    width = 4  # pages of a request, of which there are more than there is room for tokens
    pages = None
    if page_size is not None:
        order = torch.randperm(
            width * len(lengths), generator=torch.Generator().manual_seed(3)
        ).to(torch.int32)  # fmt: skip
        pages = order
    return Requests(
        kv_lens=torch.tensor(lengths, dtype=torch.int32),
        kv_starts=None if pages is None
        else torch.arange(0, width * len(lengths), width, dtype=torch.int32),
        pages=pages,
        q_starts=None if starts is None else torch.tensor(starts, dtype=torch.int32),
        max_q_len=5 if starts is None else max(b - a for a, b in pairwise(starts)),
        max_kv_len=32,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("page_size", [None, 8])
@pytest.mark.parametrize("starts", [None, [0, 3, 3, 9], [2, 3, 7, 8]])
def test_the_kernel_and_torch_write_the_same(
    dtype: torch.dtype, page_size: int | None, starts: list[int] | None
) -> None:
    from autoprec.kernels import kv_cache

    lengths = [7, 34, 20]  # the second's last tokens are beyond the room
    table = requests(lengths, starts, page_size)
    draw = torch.Generator().manual_seed(0)
    shape = (3, HEADS, 5) if starts is None else (1, HEADS, 10)
    k, v = (torch.randn((*shape, dim), generator=draw) for dim in (DIM, DIM_V))
    k[0, 0, 2, 3], v[0, 1, 2, 0] = 1e-30, 1e30  # lost to fp16
    places = (3, HEADS, 32) if page_size is None else (12, HEADS, page_size)

    def caches() -> list[Tensor]:
        return [torch.full((*places, dim), torch.nan, dtype=dtype) for dim in (DIM, DIM_V)]

    want, got = caches(), caches()
    counted = [torch.zeros(1, dtype=torch.int32) for _ in range(2)]
    run_launches([kv_cache.append(k, v, *want, table, lost=counted[0])])
    cpu_append.append(k, v, *got, table, lost=counted[1])
    for one, other in zip(want, got, strict=True):
        assert not one.isnan().all()
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    assert counted[0] == counted[1]
    assert (int(counted[0]) > 0) == (dtype == torch.float16)


@pytest.mark.parametrize("page_size", [None, 16])
def test_a_cache_on_a_cpu_serves_without_triton_running(
    page_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprec.plan.kv_cache.cache_kernels", lambda: pytest.fail("a launch"))
    kernel = registry.kernel("cpu-blocked")
    rows = []
    for phase in Phase:
        q_len = {Phase.PREFILL: 64, Phase.APPEND: 32, Phase.DECODE: 1}[phase]
        workload = made_up.workload(
            phase=phase, kv_len=64, q_len=q_len, q_heads=4, kv_heads=2, head_dim=16
        )
        config = dict(kernel.configs("fp32", workload, devices.target(torch.device("cpu")))[0])
        rows.append(
            made_up.measurement("fp32", 1.0, 1e-7, workload=workload, kernel=kernel.name,
                                config=config)
        )  # fmt: skip
    plan = Plan(cpu_profile(rows), torch.device("cpu"))
    cache = plan.new_kv_cache(
        batch=2, capacity=64, q_heads=4, kv_heads=2, head_dim=16, page_size=page_size
    )
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, heads, 21, 16), generator=draw) for heads in (4, 2, 2))
    cache.append(k[:, :, :20], v[:, :, :20])
    cache.append(k[:, :, 20:], v[:, :, 20:])
    got = plan.decode(q[:, :, -1:], cache, causal=True)
    want = naive(q[:, :, -1:], k, v, causal=True)[0]
    assert (got.double() - want).norm() <= 2.0**-20 * want.norm()
