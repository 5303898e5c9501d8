"""merge_state and its kin through their Python face, where there is no GPU."""

import math

import pytest
import torch

from autoprec import flashinfer
from autoprec.errors import InputError, UnsupportedError
from autoprec.flashinfer import cascade
from autoprec.plan.outputs import meets

INF = math.inf
UNIT = 2.0**-24  # of fp32: each of up to three merges rounds an LSE once,
MERGE = 8 * UNIT  # and takes an exponential, a sum and a logarithm of numbers around 1


def states(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Four parts of five tokens and two heads; some saw nothing, and hold NaN."""
    draw = torch.Generator().manual_seed(0)
    v, s = torch.randn(5, 4, 2, 8, generator=draw), 9 * torch.randn(5, 4, 2, generator=draw)
    s[0], s[1, :2], s[2, 3, 1] = -INF, -INF, -INF
    v[s == -INF] = math.nan
    return v.to(dtype), s


def expected(v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    seen = s > -INF
    weights = torch.exp2(s.double()).masked_fill(~seen, 0.0)
    total = weights.sum(1)
    sums = (v.double().masked_fill(~seen[..., None], 0.0) * weights[..., None]).sum(1)
    out = (sums / total[..., None]).masked_fill((total == 0)[..., None], 0.0)
    return out, total.log2()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_at_once_and_one_by_one(dtype: torch.dtype) -> None:
    v, s = states(dtype)
    want, want_lse = expected(v, s)
    tolerance = 4 * torch.finfo(dtype).eps
    out, lse = flashinfer.merge_states(v, s)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), want_lse, rtol=3 * UNIT, atol=3 * MERGE)

    one, one_lse = flashinfer.merge_state(v[:, 0], s[:, 0], v[:, 1], s[:, 1])
    for i in (2, 3):
        flashinfer.merge_state_in_place(one, one_lse, v[:, i], s[:, i])
    torch.testing.assert_close(one.double(), want, rtol=4 * tolerance, atol=4 * tolerance)
    torch.testing.assert_close(one_lse.double(), want_lse, rtol=3 * UNIT, atol=3 * MERGE)


def test_masked_rows_stay() -> None:
    v, s = states()
    mine, mine_lse = v[:, 0].clone(), s[:, 0].clone()
    mask = torch.tensor([0, 1, 1, 0, 1], dtype=torch.uint8)
    flashinfer.merge_state_in_place(mine, mine_lse, v[:, 1], s[:, 1], mask)
    want, want_lse = flashinfer.merge_state(v[:, 0], s[:, 0], v[:, 1], s[:, 1])
    merged = mask.bool()
    torch.testing.assert_close(mine[merged], want[merged])
    torch.testing.assert_close(mine_lse[merged], want_lse[merged])
    torch.testing.assert_close(mine[~merged], v[~merged, 0], equal_nan=True)
    assert torch.equal(mine_lse[~merged], s[~merged, 0])


def test_a_mask_of_any_strides_is_read_as_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[torch.Tensor] = []
    monkeypatch.setattr(cascade, "_merge_two", lambda *given: handed.append(given[-1]))
    v, s = states()
    mask = torch.tensor([0, 1, 1, 1, 1, 1, 0, 1, 1, 1])[::2]
    assert not mask.is_contiguous()
    flashinfer.merge_state_in_place(v[:, 0], s[:, 0], v[:, 1], s[:, 1], mask)
    assert handed[0].is_contiguous()
    assert torch.equal(handed[0], mask)


def test_what_lies_in_memory_that_is_written_is_read_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    v, s = torch.randn(6, 2, 8), torch.randn(6, 2)
    want, want_lse = flashinfer.merge_state(v[1:], s[1:], v[:-1], s[:-1])
    handed: list[tuple[torch.Tensor, ...]] = []
    merge = cascade._merge_two

    def keep(*given: torch.Tensor) -> None:
        handed.append(given)
        merge(*given)

    monkeypatch.setattr(cascade, "_merge_two", keep)
    flashinfer.merge_state_in_place(v[1:], s[1:], v[:-1], s[:-1])  # each row into the next
    assert torch.equal(v[1:], want)
    assert torch.equal(s[1:], want_lse)
    written, its_lse, *read, _, _, _ = handed[0]
    assert (written.data_ptr(), its_lse.data_ptr()) == (v[1:].data_ptr(), s[1:].data_ptr())
    assert not meets(v, read)
    assert not meets(s, read)

    other, its = torch.randn(6, 2, 8), torch.randn(6, 2)  # nothing to copy
    flashinfer.merge_state_in_place(v, s, other, its)
    assert [x.data_ptr() for x in handed[1][2:4]] == [other.data_ptr(), its.data_ptr()]


def test_what_is_written_shares_no_memory_with_itself() -> None:
    memory = torch.zeros(6 * 2 * 8)
    v, s = memory.view(6, 2, 8), torch.zeros(6, 2)
    cases = [
        ((v, memory[:12].view(6, 2)), r"^v \(6, 2, 8\) lies in the memory of s\."),
        ((v[:, :1].expand(6, 2, 8), s),
         r"^v \(6, 2, 8\) has strides \(16, 0, 1\): its elements share memory\."),
        ((v, s[:1].expand(6, 2)),
         r"^s \(6, 2\) has strides \(0, 1\): its elements share memory\."),
    ]  # fmt: skip
    for (mine, its), sentence in cases:
        with pytest.raises(InputError, match=sentence):
            flashinfer.merge_state_in_place(mine, its, torch.ones(6, 2, 8), torch.ones(6, 2))


@pytest.mark.parametrize("learned", range(4))
def test_a_gradient_that_will_be_asked_for_is_refused(learned: int) -> None:
    v, s = states()
    given = [x.clone() for x in (v[:, 0], s[:, 0], v[:, 1], s[:, 1])]
    given[learned].requires_grad_()
    names = ("v (5, 2, 8)", "s (5, 2)", "the other v (5, 2, 8)", "the other s (5, 2)")
    with pytest.raises(UnsupportedError) as caught:
        flashinfer.merge_state(*given)
    assert caught.value.sentence == (
        f"{names[learned]} requires a gradient, and no kernel here computes one."
    )
    with torch.no_grad():
        assert not flashinfer.merge_state(*given)[0].requires_grad


def test_no_parts_and_no_tokens() -> None:
    v, s = states()
    out, lse = flashinfer.merge_states(v[:, :0], s[:, :0])
    assert not out.any()
    assert (lse == -INF).all()
    assert flashinfer.merge_states(v[:0], s[:0])[0].shape == (0, 2, 8)
    assert flashinfer.merge_state(v[:0, 0], s[:0, 0], v[:0, 1], s[:0, 1])[1].shape == (0, 2)


def test_what_does_not_fit() -> None:
    v, s = states()
    cases = [
        ((v, s, v, s), r"^v \(5, 4, 2, 8\) must be \[tokens, heads, head_dim\]\.$"),
        ((v[:, 0], s[:, 0], v[1:, 0], s[1:, 0]),
         r"^the outputs to be merged are \(5, 2, 8\) on cpu and \(4, 2, 8\) on cpu; they must be "
         r"alike\.$"),
        ((v[:, 0], s[1:, 0], v[:, 1], s[:, 1]),
         r"^s \(4, 2\) on cpu must be \(5, 2\) on cpu, as v \(5, 2, 8\) is\.$"),
        ((v[:, 0], s[:, 0].int(), v[:, 1], s[:, 1]), r"^s is torch\.int32; LSEs are floats\.$"),
        ((v[:, 0].double(), s[:, 0], v[:, 1].double(), s[:, 1]),
         r"^v is torch\.float64; attention takes float32, bfloat16 and float16\.$"),
    ]  # fmt: skip
    for arguments, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            flashinfer.merge_state(*arguments)
    with pytest.raises(InputError, match=r"^mask \(4,\) on cpu must be \(5,\) on cpu\.$"):
        flashinfer.merge_state_in_place(v[:, 0], s[:, 0], v[:, 1], s[:, 1], torch.ones(4))
    sparse = torch.ones(5, dtype=torch.uint8).to_sparse()
    with pytest.raises(UnsupportedError, match=r"^mask is nested or sparse, and no kernel takes"):
        flashinfer.merge_state_in_place(v[:, 0], s[:, 0], v[:, 1], s[:, 1], sparse)
    with pytest.raises(InputError, match=r"^mask must be a torch\.Tensor, got list\.$"):
        flashinfer.merge_state_in_place(v[:, 0], s[:, 0], v[:, 1], s[:, 1], [1] * 5)  # type: ignore[arg-type]
    low = v.to(torch.float8_e4m3fn)
    with pytest.raises(UnsupportedError, match=r"^v is torch\.float8_e4m3fn: FP8 and FP4 are not "):
        flashinfer.merge_states(low, s)
