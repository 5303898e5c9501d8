"""Merging of attention states, against fp64."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoprec.kernels.interface import run_launches
from autoprec.kernels.states import merge_many, merge_two

U = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-11}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
few = settings(max_examples=25, deadline=None)


def merged(states: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """All states ``[tokens, states, heads, head_dim]`` of a row as one, in fp64."""
    s = lses.double() * math.log(2)
    total = torch.logsumexp(s, 1)
    weights = torch.exp(s - total[:, None]).nan_to_num(0.0)  # where all are -inf
    values = states.double().masked_fill((lses == -math.inf)[..., None], 0.0)
    return (weights[..., None] * values).sum(1), total / math.log(2)


def check(out: Tensor, lse: Tensor, states: Tensor, lses: Tensor) -> None:
    """Compare with fp64: one rounding to the type, and what fp32's exponent, sum and ratio lose.

    A weight is exp2 of a difference that carries an error of 2^-24 of the LSEs' size.
    """
    want, want_lse = merged(states, lses)
    finite = lses[lses.isfinite()]
    size = 1.0 + (float(finite.abs().max()) if finite.numel() else 0.0)
    sums = (size + states.shape[1] + 8) * 2.0**-24
    largest = states.double().masked_fill((lses == -math.inf)[..., None], 0.0).abs().amax(1)
    bound = 2 * U[out.dtype] * want.abs() + sums * largest + 2.0**-24
    assert ((out.double() - want).abs() <= bound).all()
    torch.testing.assert_close(lse.double(), want_lse, rtol=0.0, atol=sums)


def states_of(
    tokens: int, count: int, heads: int, dim: int, dtype: torch.dtype, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, count, heads, dim, generator=draw).to(dtype)
    lses = 12 * torch.randn(tokens, count, heads, generator=draw)
    unseen = torch.rand(lses.shape, generator=draw) < 0.3
    states[unseen] = math.nan  # an empty state's output may hold anything
    return states.to(device), lses.masked_fill(unseen, -math.inf).to(device)


shapes: dict[str, Any] = {
    "tokens": st.integers(0, 5),
    "heads": st.integers(1, 3),
    "dim": st.sampled_from((1, 8, 24, 64, 80)),
    "dtype": st.sampled_from(tuple(U)),
    "seed": st.integers(0, 99),
}


@pytest.mark.parametrize("device", DEVICES)
@few
@given(**shapes)
def test_two_states(
    device: str, tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int
) -> None:
    states, lses = states_of(tokens, 2, heads, dim, dtype, seed, device)
    out, lse = torch.empty_like(states[:, 0]), torch.empty_like(lses[:, 0])
    run_launches(merge_two(states[:, 0], lses[:, 0], states[:, 1], lses[:, 1], out, lse))
    check(out, lse, states, lses)


@pytest.mark.parametrize("device", DEVICES)
@few
@given(count=st.integers(1, 20), **shapes)
def test_many_states(
    device: str, count: int, tokens: int, heads: int, dim: int, dtype: torch.dtype, seed: int
) -> None:
    states, lses = states_of(tokens, count, heads, dim, dtype, seed, device)
    out = torch.empty((tokens, heads, dim), dtype=dtype, device=device)
    lse = torch.empty((tokens, heads), device=device)
    run_launches(merge_many(states, lses, out, lse))
    check(out, lse, states, lses)


@pytest.mark.parametrize("device", DEVICES)
def test_in_place_and_masked(device: str) -> None:
    states, lses = states_of(7, 2, 3, 40, torch.float32, 1, device)
    v, s = states[:, 0].clone(), lses[:, 0].clone()
    mask = torch.tensor([True, False, True, True, False, False, True], device=device)
    run_launches(merge_two(v, s, states[:, 1], lses[:, 1], v, s, mask))
    check(v[mask], s[mask], states[mask], lses[mask])
    torch.testing.assert_close(v[~mask], states[~mask, 0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(s[~mask], lses[~mask, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_what_saw_nothing_is_zero_and_minus_infinity(device: str) -> None:
    states = torch.full((2, 3, 1, 16), math.nan, device=device)
    lses = torch.full((2, 3, 1), -math.inf, device=device)
    out, lse = torch.empty((2, 1, 16), device=device), torch.empty((2, 1), device=device)
    for launches in (
        merge_many(states, lses, out, lse),
        merge_many(states[:, :0], lses[:, :0], out, lse),
        merge_two(states[:, 0], lses[:, 0], states[:, 1], lses[:, 1], out, lse),
    ):
        out.fill_(7.0)
        run_launches(launches)
        assert not out.any()
        assert (lse == -math.inf).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_nan_that_was_seen_stays_one(device: str) -> None:
    states, lses = torch.ones((1, 2, 1, 16), device=device), torch.zeros((1, 2, 1), device=device)
    states[0, 1, 0, 3] = math.nan
    out, lse = torch.empty((1, 1, 16), device=device), torch.empty((1, 1), device=device)
    run_launches(merge_two(states[:, 0], lses[:, 0], states[:, 1], lses[:, 1], out, lse))
    assert out.isnan().sum() == 1
    run_launches(merge_many(states, lses, out, lse))
    assert out.isnan().sum() == 1
    assert lse.item() == 1.0
