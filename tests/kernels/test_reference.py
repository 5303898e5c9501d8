"""The oracle against softmax written out, in fp64, by other means."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from autoprec.kernels.reference import attention


def _naive(
    q: Tensor, k: Tensor, v: Tensor, diagonal: int | None, sm_scale: float
) -> tuple[Tensor, Tensor]:
    """One row at a time: exp, sum, divide."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    lse = torch.full(q.shape[:3], -math.inf, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b, h, i in itertools.product(*(range(n) for n in q.shape[:3])):
        last = k.shape[2] if diagonal is None else max(0, min(k.shape[2], i + diagonal + 1))
        if last == 0:
            continue
        keys, values = (x[b, h // group, :last].double() for x in (k, v))
        weights = torch.exp(sm_scale * (keys @ q[b, h, i].double()))
        out[b, h, i] = (weights[:, None] * values).sum(0) / weights.sum()
        lse[b, h, i] = torch.log2(weights.sum())
    return out, lse


def _draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 5, 24), (2, 2, 37, 24), (2, 2, 37, 40))
    q, k, v = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    return q, k, v


# Sums of up to 37 terms in fp64 against each other: some 37 * 2^-53 = 4e-15 of terms around 4.
_TOLERANCE = {"rtol": 0, "atol": 2e-14}


@pytest.mark.parametrize("diagonal", [None, 32, 0, -3, 100, -10])
@pytest.mark.parametrize("block", [1, 8, 37, 1024])
def test_it_is_softmax_written_out(diagonal: int | None, block: int) -> None:
    q, k, v = _draw()
    out, lse = attention(q, k, v, diagonal=diagonal, sm_scale=-0.3, block=block)
    want_out, want_lse = _naive(q, k, v, diagonal, -0.3)
    torch.testing.assert_close(out, want_out, **_TOLERANCE)
    torch.testing.assert_close(lse, want_lse, **_TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_inputs_of_any_type_are_taken_as_they_are(dtype: torch.dtype) -> None:
    q, k, v = _draw(dtype)
    out, lse = attention(q, k, v, diagonal=32, sm_scale=0.2)
    want_out, want_lse = _naive(q, k, v, 32, 0.2)
    assert out.dtype == lse.dtype == torch.float64
    torch.testing.assert_close(out, want_out, **_TOLERANCE)
    torch.testing.assert_close(lse, want_lse, **_TOLERANCE)


@pytest.mark.parametrize("diagonal", [None, 32, 3])
@pytest.mark.parametrize("window_left", [None, 0, 6])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("block", [4, 1024])
def test_windows_caps_and_sinks(
    diagonal: int | None, window_left: int | None, soft_cap: float | None, with_sinks: bool,
    block: int,
) -> None:  # fmt: skip
    q, k, v = _draw()
    sinks = torch.linspace(-3, 3, 6) if with_sinks else None
    out, lse = attention(
        q, k, v, diagonal=diagonal, sm_scale=0.3, window_left=window_left, soft_cap=soft_cap,
        sinks=sinks, block=block,
    )  # fmt: skip
    s = 0.3 * q.double() @ k.repeat_interleave(3, 1).double().mT
    if soft_cap is not None:
        s = soft_cap * torch.tanh(s / soft_cap)
    position = torch.arange(5)[:, None] + (32 if diagonal is None else diagonal)
    keys = torch.arange(37)
    seen = keys <= (37 if diagonal is None else position)
    if window_left is not None:
        seen = seen & (keys >= position - window_left)
    s = s.masked_fill(~seen, -math.inf)
    if sinks is not None:  # a key of its own, with a value of zero
        s = torch.cat([s, sinks.double().view(1, 6, 1, 1).expand(2, 6, 5, 1)], 3)
    values = v.repeat_interleave(3, 1).double()
    want = s.softmax(3)[..., :37] @ values
    torch.testing.assert_close(out, want, **_TOLERANCE)
    torch.testing.assert_close(lse, s.logsumexp(3) / math.log(2), **_TOLERANCE)


def test_a_row_without_a_key_has_its_sink() -> None:
    q, k, v = _draw()
    sinks = torch.linspace(-3, 3, 6)
    for kv_len in (0, 37):
        out, lse = attention(
            q, k[:, :, :kv_len], v[:, :, :kv_len], diagonal=-9, sm_scale=0.2, sinks=sinks
        )
        assert (out == 0).all()
        want = (sinks.double() / math.log(2)).view(1, 6, 1).expand(2, 6, 5)
        torch.testing.assert_close(lse, want, **_TOLERANCE)


def test_chosen_rows_are_those_of_the_whole() -> None:
    q, k, v = _draw()
    rows = torch.tensor([4, 0, 2])
    out, lse = attention(q, k, v, diagonal=1, sm_scale=0.2, rows=rows, block=8)
    want_out, want_lse = attention(q, k, v, diagonal=1, sm_scale=0.2, block=8)
    torch.testing.assert_close(out, want_out[:, :, rows], **_TOLERANCE)
    torch.testing.assert_close(lse, want_lse[:, :, rows], **_TOLERANCE)


def test_strides_do_not_matter() -> None:
    q, k, v = _draw()
    strided = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    out, lse = attention(*strided, diagonal=None, sm_scale=0.2)
    want_out, want_lse = attention(q, k, v, diagonal=None, sm_scale=0.2)
    torch.testing.assert_close(out, want_out, **_TOLERANCE)
    torch.testing.assert_close(lse, want_lse, **_TOLERANCE)


def test_rows_without_a_key_are_zero_and_minus_infinity() -> None:
    q, k, v = _draw()
    out, lse = attention(q, k, v, diagonal=-2, sm_scale=0.2)
    assert (out[:, :, :2] == 0).all()
    assert (lse[:, :, :2] == -math.inf).all()
    assert lse[:, :, 2:].isfinite().all()


def test_nan_stays_in_the_rows_that_see_it() -> None:
    q, k, v = _draw()
    q[0, 0, 1] = math.nan
    k[1, 1, 3] = math.nan
    out, lse = attention(q, k, v, diagonal=0, sm_scale=0.2, block=2)
    nan = torch.zeros(lse.shape, dtype=torch.bool)
    nan[0, 0, 1] = True
    nan[1, 3:, 3:] = True
    assert torch.equal(lse.isnan(), nan)
    assert torch.equal(out.isnan(), nan[..., None].expand_as(out))


def test_logits_of_minus_infinity_weigh_nothing_and_alone_are_nan() -> None:
    q, k, v = _draw()
    q[...] = 1.0
    k[:, :, :8] = -math.inf
    out, lse = attention(q, k, v, diagonal=None, sm_scale=0.2, block=4)
    want_out, want_lse = attention(q, k[:, :, 8:], v[:, :, 8:], diagonal=None, sm_scale=0.2)
    torch.testing.assert_close(out, want_out, **_TOLERANCE)
    torch.testing.assert_close(lse, want_lse, **_TOLERANCE)
    out, _ = attention(q, k[:, :, :8], v[:, :, :8], diagonal=None, sm_scale=0.2, block=4)
    assert out.isnan().all()


@pytest.mark.cuda
def test_a_gpu_gives_the_same() -> None:
    q, k, v = _draw()
    rows = torch.tensor([0, 3])
    out, lse = attention(
        *(x.cuda() for x in (q, k, v)), diagonal=0, sm_scale=0.2, rows=rows.cuda()
    )  # fmt: skip
    want_out, want_lse = attention(q, k, v, diagonal=0, sm_scale=0.2, rows=rows)
    torch.testing.assert_close(out.cpu(), want_out, **_TOLERANCE)
    torch.testing.assert_close(lse.cpu(), want_lse, **_TOLERANCE)
