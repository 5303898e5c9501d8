import dataclasses

import pytest
import torch
from fake_kernels import workload

from autoprec.kernels.reference import singles
from autoprec.probe import inputs
from autoprec.probe.inputs import FAMILIES, blank_call, call_bytes, call_of, draw, in_layout
from autoprec.types import Dtype, Layout, Mask, Phase

CPU = torch.device("cpu")
SMALL = workload(batch=2, q_len=3, kv_len=50, q_heads=6, kv_heads=2, head_dim=24, head_dim_v=16)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_dtype_are_the_workloads(family: str) -> None:
    it = dataclasses.replace(SMALL, input_dtype=Dtype.BF16)
    q, k, v = draw(it, family, 0, CPU)
    assert (q.shape, k.shape, v.shape) == ((2, 6, 3, 24), (2, 2, 50, 24), (2, 2, 50, 16))
    assert {x.dtype for x in (q, k, v)} == {torch.bfloat16}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_numbers(family: str) -> None:
    first, again, other = (draw(SMALL, family, seed, CPU) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dtype_is_a_rounding_of_the_same_numbers(family: str) -> None:
    exact = draw(SMALL, family, 0, CPU)
    rounded = draw(dataclasses.replace(SMALL, input_dtype=Dtype.BF16), family, 0, CPU)
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(exact, rounded, strict=True))


def test_queries_keys_and_values_are_independent() -> None:
    square = workload(q_len=40, kv_len=40, phase=Phase.PREFILL, q_heads=2, kv_heads=2)
    q, k, v = draw(square, "gauss", 0, CPU)
    for a, b in ((q, k), (q, v), (k, v)):
        # the correlation of n independent pairs is N(0, 1/n): five standard deviations
        assert abs(torch.corrcoef(torch.stack((a.ravel(), b.ravel())))[0, 1]) < 5 / a.numel() ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_do_not_change_the_beginning(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_CHUNK", 512)
    short = draw(dataclasses.replace(SMALL, batch=1), family, 0, CPU)[1].ravel()
    long = draw(dataclasses.replace(SMALL, batch=3), family, 0, CPU)[1].ravel()
    whole = short.numel() // 512 * 512
    assert torch.equal(short[:whole], long[:whole])
    assert not torch.equal(long[:512], long[512:1024])


def moments(family: str) -> tuple[int, float, float]:
    x = draw(workload(kv_len=1 << 13, kv_heads=1, q_heads=1), family, 0, CPU)[1].double()
    return x.numel(), x.mean().item(), x.var().item()


def test_gauss_is_standard_normal() -> None:
    n, mean, variance = moments("gauss")
    # five standard errors: of the mean 1/sqrt(n), of the variance sqrt(2/n)
    assert abs(mean) < 5 / n**0.5
    assert abs(variance - 1) < 5 * (2 / n) ** 0.5


def test_outliers_have_variance_100_and_are_one_in_a_thousand() -> None:
    n, mean, variance = moments("outlier")
    # Var = 1 + 0.001 * 100. E[x^4] = 3 (0.999 + 0.001 * 101^2) = 33.6, less 1.1^2: 32.4 under
    # the root of the variance's standard error.
    assert abs(mean) < 5 * (1.1 / n) ** 0.5
    assert abs(variance - 1.1) < 5 * (32.4 / n) ** 0.5
    x = draw(workload(kv_len=1 << 13, kv_heads=1, q_heads=1), "outlier", 0, CPU)[1]
    # N(0, 101) is beyond 6 with probability 0.5505; N(0, 1) never in so few draws
    expected = 0.001 * 0.5505 * n
    assert abs((x.abs() > 6).sum().item() - expected) < 5 * expected**0.5


def test_a_causal_call_is_aligned_bottom_right() -> None:
    call = call_of(SMALL, *draw(SMALL, "gauss", 0, CPU))
    assert (call.diagonal, call.sm_scale) == (47, 24**-0.5)
    assert call.out.shape == (2, 6, 3, 16)
    assert call.lse is not None
    assert (call.lse.shape, call.lse.dtype) == ((2, 6, 3), torch.float32)
    full = dataclasses.replace(SMALL, mask=Mask.FULL)
    assert call_of(full, call.q, call.k, call.v).diagonal is None


def test_a_blank_call_has_shapes_and_no_memory() -> None:
    it = dataclasses.replace(SMALL, input_dtype=Dtype.BF16, out_dtype=Dtype.FP32)
    call = blank_call(it)
    assert call.k.device.type == "meta"
    assert (call.k.dtype, call.out.dtype) == (torch.bfloat16, torch.float32)
    # q, k, v in two bytes, the output and the LSE in four
    elements = (2 * 6 * 3 * 24 + 2 * 2 * 50 * (24 + 16), 2 * 6 * 3 * (16 + 1))
    assert call_bytes(it) == 2 * elements[0] + 4 * elements[1]


@pytest.mark.parametrize(
    ("layout", "page_size"), [(Layout.RAGGED, None), (Layout.PAGED, 16), (Layout.PAGED, 1)]
)
def test_a_layout_moves_keys_and_values_and_nothing_else(
    layout: Layout, page_size: int | None
) -> None:
    it = dataclasses.replace(SMALL, layout=layout, page_size=page_size, window=9, sinks=True)
    plain = call_of(it, *draw(it, "gauss", 0, CPU))
    assert (plain.window_left, plain.sinks is None) == (8, False)
    call = in_layout(it, plain)
    assert call.requests is not None
    assert call.requests.layout is layout
    for request, single in enumerate(singles(call)):
        assert torch.equal(single.k[0], plain.k[request])
        assert torch.equal(single.v[0], plain.v[request])
        assert (single.diagonal, single.out.data_ptr()) == (47, plain.out[request].data_ptr())
    blank = blank_call(it)
    assert (blank.k.shape, blank.k.device.type) == (call.k.shape, "meta")
