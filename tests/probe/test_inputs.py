import dataclasses

import pytest
import torch
from fake_kernels import workload

from autoprec.kernels.reference import singles
from autoprec.probe.inputs import (
    blank_call,
    call_bytes,
    call_of,
    draw,
    end_to_end,
    in_a_row,
    in_layout,
)
from autoprec.types import Dtype, Layout, Mask, Phase

CPU = torch.device("cpu")
SMALL = workload(batch=2, q_len=3, kv_len=50, q_heads=6, kv_heads=2, head_dim=24, head_dim_v=16)


def test_a_causal_call_is_aligned_bottom_right() -> None:
    call = call_of(SMALL, *draw(SMALL, "gauss", 0, CPU))
    assert (call.diagonal, call.sm_scale) == (47, 24**-0.5)
    assert call.out.shape == (2, 6, 3, 16)
    assert call.lse is not None
    assert (call.lse.shape, call.lse.dtype) == ((2, 6, 3), torch.float32)
    assert call_of(SMALL, *draw(SMALL, "large", 0, CPU)).sm_scale == 24**-0.5 / 1e4**2
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


def test_prompts_laid_end_to_end_are_parts_of_one_row() -> None:
    it = dataclasses.replace(
        SMALL, phase=Phase.PREFILL, batch=3, q_len=300, kv_len=300, layout=Layout.RAGGED
    )
    assert sorted(it.lengths) == [128, 196, 300]
    call = end_to_end(it, call_of(in_a_row(it), *draw(in_a_row(it), "gauss", 0, CPU)))
    assert call.requests is not None
    assert (call.batch, call.max_q_len, call.max_kv_len) == (3, 300, 300)
    assert call.requests.layout is Layout.RAGGED
    alone = singles(call)
    assert [part.q.shape[2] for part in alone] == list(it.lengths)
    assert all(part.diagonal == 0 for part in alone)
    assert torch.equal(torch.cat([part.k for part in alone], 2), call.k)
    blank = blank_call(it)
    assert (blank.q.shape, blank.k.device.type) == (call.q.shape, "meta")
    assert blank.requests is not None
    assert blank.requests.q_starts is not None
    # q, k and v, in fp32 as the output and the LSE
    assert call_bytes(it) == 4 * 624 * (6 * 24 + 2 * (24 + 16) + 6 * (16 + 1))
