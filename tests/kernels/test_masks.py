"""Masks of the caller's own, in every kernel that takes them, against fp64."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import parameters, target, workload
from tolerance import tolerance
from torch import Tensor

from autoprec.kernels.interface import Call, Feature, Kernel, PackedMask, Requests
from autoprec.kernels.reference import of_call, singles
from autoprec.types import Dtype

ROWS = parameters(lambda row, path: Feature.MASK in row.features and path == "fp32")
SCALED = parameters(lambda row, path: Feature.MASK in row.features and path == "fp16x3")
# that of N(0, 1) inputs of head dim 16, 70 keys and a scale of 0.3
EXACT = {
    path: tolerance(path, head_dim=16, kv_len=70, typical_logit=0.3 * 16**0.5)
    for path in ("fp32", "fp16x3")
}


def config(row: Kernel, path: str, device: str) -> Any:
    case = {"lengths": (33, 70), "heads": (2, 1), "dims": (16, 16), "input": Dtype.FP32,
            "out": Dtype.FP32}  # fmt: skip
    return row.configs(path, workload(row, case), target(row, device))[0]


def call(device: str, kv_len: int = 70, q_len: int = 33, **changes: Any) -> Call:
    draw = torch.Generator().manual_seed(kv_len)
    q, k, v = (
        torch.randn(shape, generator=draw).to(device)
        for shape in ((2, 2, q_len, 16), (2, 1, kv_len, 16), (2, 1, kv_len, 16))
    )
    out = torch.full(q.shape, -77.0, device=device)
    return Call(q=q, k=k, v=v, out=out, lse=torch.full(q.shape[:3], -77.0, device=device),
                diagonal=None, sm_scale=0.3, **changes)  # fmt: skip


def bools(*shape: int, device: str) -> Tensor:
    """Two thirds seen, and nothing at all in some rows."""
    draw = torch.Generator().manual_seed(len(shape))
    seen = torch.rand(shape, generator=draw) < 0.67
    return (seen & (torch.rand((*shape[:-1], 1), generator=draw) < 0.9)).to(device)


def check(row: Kernel, path: str, device: str, asked: Call, want: list[Any]) -> None:
    row.run(asked, path, config(row, path, device))
    parts = [(single.out, single.lse) for single in singles(asked)]
    for (out, lse), (exact, exact_lse) in zip(parts, want, strict=True):
        assert lse is not None
        torch.testing.assert_close(out.double(), exact, rtol=EXACT[path], atol=EXACT[path])
        torch.testing.assert_close(lse.double(), exact_lse, rtol=EXACT[path], atol=EXACT[path])


MEANINGS: list[dict[str, Any]] = [
    {}, {"diagonal": 37}, {"window_left": 9}, {"soft_cap": 1.5}, {"sm_scale": -0.3},
]  # fmt: skip


@pytest.mark.parametrize("meaning", MEANINGS, ids=str)
@pytest.mark.parametrize("kind", ["bools", "floats", "bf16"])
@pytest.mark.parametrize(("row", "path", "device"), ROWS)
def test_a_tensor(row: Kernel, path: str, device: str, kind: str, meaning: dict[str, Any]) -> None:
    mask = bools(2, 1, 33, 70, device=device).expand(-1, 2, -1, -1)
    if kind != "bools":
        draw = torch.Generator().manual_seed(1)
        bias = 3 * torch.randn(2, 33, 70, generator=draw).to(device)
        mask = bias.masked_fill(~mask, -math.inf)
        mask = mask.mT.contiguous().mT.to(torch.bfloat16 if kind == "bf16" else torch.float32)
    asked = replace(call(device), mask=mask, **meaning)
    check(row, path, device, asked, [of_call(asked)])


@pytest.mark.parametrize(("row", "path", "device"), ROWS)
def test_the_lowest_fp32_hides_beside_others_and_not_alone(
    row: Kernel, path: str, device: str
) -> None:
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(33, 70, device=device)
    mask[:, 40:] = lowest
    mask[5] = lowest
    asked = replace(call(device), mask=mask.expand(2, 2, -1, -1))
    row.run(asked, path, config(row, path, device))
    want = of_call(replace(asked, mask=(mask == 0).expand(2, 2, -1, -1)))[0]
    want[:, :, 5] = asked.v.double().mean(2)  # beside it every logit is lost: all keys are alike
    torch.testing.assert_close(asked.out.double(), want, rtol=EXACT[path], atol=EXACT[path])


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("meaning", MEANINGS, ids=str)
@pytest.mark.parametrize(("row", "path", "device"), ROWS)
def test_bits(row: Kernel, path: str, device: str, meaning: dict[str, Any], sinks: bool) -> None:
    own = torch.randn(2, generator=torch.Generator().manual_seed(2)).to(device) if sinks else None
    whole = replace(call(device), sinks=own, **{**meaning, "diagonal": None})
    q_lens, kv_lens, rows, starts, want = (33, 5), (70, 9), [0], [0], []
    q = torch.cat([whole.q[b, :, :n] for b, n in enumerate(q_lens)], 1)[None]
    data = []
    for b, (n, m) in enumerate(zip(q_lens, kv_lens, strict=True)):
        mask = bools(n, m, device=device)
        flat = torch.nn.functional.pad(mask.view(-1).int(), (0, -n * m % 8)).view(-1, 8)
        data.append((flat << torch.arange(8, device=device)).sum(1).to(torch.uint8))
        rows.append(rows[-1] + n)
        starts.append(starts[-1] + len(data[-1]))
        single = replace(
            whole, q=whole.q[b : b + 1, :, :n], k=whole.k[b : b + 1, :, :m],
            v=whole.v[b : b + 1, :, :m], mask=mask[None, None],
            diagonal=m - n if meaning.get("diagonal") else None,
        )  # fmt: skip
        want.append(of_call(single))

    def ints(numbers: Any) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=device)

    requests = Requests(kv_lens=ints(kv_lens), q_starts=ints(rows), max_q_len=33, max_kv_len=70)
    asked = replace(
        whole, q=q, out=torch.full(q.shape, -77.0, device=device),
        lse=torch.full(q.shape[:3], -77.0, device=device), requests=requests,
        mask=PackedMask(torch.cat(data), ints(starts)),
        diagonal=0 if meaning.get("diagonal") else None,
    )  # fmt: skip
    check(row, path, device, asked, want)


@pytest.mark.parametrize("kind", ["bools", "floats"])
@pytest.mark.parametrize(("row", "path", "device"), SCALED)
def test_operands_with_scales(row: Kernel, path: str, device: str, kind: str) -> None:
    mask = bools(2, 2, 33, 70, device=device)
    if kind == "floats":
        mask = torch.zeros(mask.shape, device=device).masked_fill(~mask, -math.inf) + 2.0
    asked = replace(call(device), mask=mask)
    check(row, path, device, asked, [of_call(asked)])


@pytest.mark.parametrize(("row", "path", "device"), ROWS)
def test_a_nan_that_is_seen_shows_and_one_that_is_not_does_not(
    row: Kernel, path: str, device: str
) -> None:
    asked = replace(call(device), mask=torch.ones(33, 70, dtype=torch.bool, device=device))
    assert isinstance(asked.mask, Tensor)
    asked.mask[3:] = False
    asked.k[0, 0, 5] = math.nan
    asked = replace(asked, mask=asked.mask.expand(2, 2, -1, -1))
    row.run(asked, path, config(row, path, device))
    assert asked.out[0, :, :3].isnan().all()
    assert not asked.out[0, :, 3:].any()
    assert not asked.out[1].isnan().any()
