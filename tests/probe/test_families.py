"""Input families: reproducible, and hard in the way that each says."""

import dataclasses
import math

import pytest
import torch
from fake_kernels import workload
from torch import Tensor

from autoprec.errors import InputError
from autoprec.probe import families
from autoprec.probe.families import FAMILIES, Group, Inputs
from autoprec.types import Dtype, Mask, Phase, Workload

CPU = torch.device("cpu")
SMALL = workload(batch=2, q_len=3, kv_len=50, q_heads=6, kv_heads=2, head_dim=24, head_dim_v=16)
SHAPES = [
    SMALL,
    workload(phase=Phase.PREFILL, q_len=33, kv_len=33),
    workload(phase=Phase.APPEND, q_len=7, kv_len=65, q_heads=3, kv_heads=3),
    workload(q_len=1, kv_len=1, q_heads=1, kv_heads=1, head_dim=1),
    workload(q_len=1, kv_len=2, mask=Mask.FULL, head_dim=2),
]


def draw(name: str, seed: int = 0, it: Workload = SMALL) -> Inputs:
    return FAMILIES[name].draw(it, seed, CPU)


def logits(inputs: Inputs) -> Tensor:
    """In nats, fp64 ``[batch, q_heads, q_len, kv_len]``."""
    group = inputs.q.shape[1] // inputs.k.shape[1]
    keys = inputs.k.double().repeat_interleave(group, 1)
    return inputs.sm_scale * inputs.q.double() @ keys.mT


def test_the_groups() -> None:
    assert {name: family.group for name, family in FAMILIES.items()} == dict.fromkeys(
        ("gauss", "outlier", "sink", "kbias", "peaky", "flat"), Group.TYPICAL
    ) | dict.fromkeys(("resonant", "tiny", "large", "cancel"), Group.EXTREME)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("it", SHAPES, ids=str)
def test_shapes_and_dtype_are_the_workloads(family: str, it: Workload) -> None:
    for dtype in Dtype:
        q, k, v, _ = draw(family, it=dataclasses.replace(it, input_dtype=dtype))
        assert q.shape == (it.batch, it.q_heads, it.q_len, it.head_dim)
        assert k.shape == (it.batch, it.kv_heads, it.kv_len, it.head_dim)
        assert v.shape == (it.batch, it.kv_heads, it.kv_len, it.head_dim_v)
        assert {families.TORCH_DTYPES[dtype]} == {x.dtype for x in (q, k, v)}
        assert all(x.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_numbers(family: str) -> None:
    first, again, other = (draw(family, seed)[:3] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_families_share_no_numbers() -> None:
    assert not torch.equal(draw("gauss").k, draw("peaky").k)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dtype_is_a_rounding_of_the_same_numbers(family: str) -> None:
    exact = draw(family)
    rounded = draw(family, it=dataclasses.replace(SMALL, input_dtype=Dtype.BF16))
    for a, b in zip(exact[:3], rounded[:3], strict=True):
        assert torch.equal(a.bfloat16(), b)
    assert exact.sm_scale == rounded.sm_scale


@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_is_a_draw_of_its_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_CHUNK", 1)  # a pair at a time
    q, k, v, _ = draw(family)
    for x in (q, k, v):
        heads = x.reshape(-1, x.shape[-2] * x.shape[-1])
        assert len(heads.unique(dim=0)) == len(heads)


def test_queries_keys_and_values_are_independent() -> None:
    square = workload(q_len=40, kv_len=40, phase=Phase.PREFILL, q_heads=2, kv_heads=2)
    q, k, v, _ = draw("gauss", it=square)
    for a, b in ((q, k), (q, v), (k, v)):
        # the correlation of n independent pairs is N(0, 1/n): five standard deviations
        assert abs(torch.corrcoef(torch.stack((a.ravel(), b.ravel())))[0, 1]) < 5 / a.numel() ** 0.5


LONG = workload(kv_len=1 << 13, kv_heads=1, q_heads=1)


def moments(family: str) -> tuple[int, float, float]:
    x = draw(family, it=LONG).k.double()
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
    x = draw("outlier", it=LONG).k
    # N(0, 101) is beyond 6 with probability 0.5505; N(0, 1) never in so few draws
    expected = 0.001 * 0.5505 * n
    assert abs((x.abs() > 6).sum().item() - expected) < 5 * expected**0.5


MANY = workload(batch=8, q_len=2, kv_len=512, q_heads=8, kv_heads=8, head_dim=64, mask=Mask.FULL)


def test_a_sink_leads_by_4_to_16_nats() -> None:
    inputs = draw("sink", it=MANY)
    lead = logits(inputs)[..., 0]
    assert 3.99 < lead.min() < 5
    assert 15 < lead.max() < 16.01
    assert logits(inputs)[..., 1:].std() == pytest.approx(1, abs=0.05)
    assert inputs.v[:, :, 0].std() == pytest.approx(0.1, rel=0.1)


def test_two_channels_of_k_are_biased() -> None:
    inputs = draw("kbias", it=MANY)
    means = inputs.k.mean(2).abs()  # of 512 keys each: ± 0.2
    assert ((means > 19) & (means < 31)).sum(-1).eq(2).all()
    assert (means < 1).sum(-1).eq(62).all()
    biased = means > 19
    assert inputs.q.transpose(2, 3)[biased].std() == pytest.approx(4, rel=0.15)


def test_peaky_and_flat_are_about_the_spread_of_logits() -> None:
    assert logits(draw("peaky", it=MANY)).std() == pytest.approx(9, rel=0.1)
    assert logits(draw("flat", it=MANY)).std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_resonant_products_leave_fp16s_range(head_dim: int) -> None:
    it = dataclasses.replace(MANY, batch=1, head_dim=head_dim, head_dim_v=8)
    for dtype in Dtype:
        inputs = draw("resonant", it=dataclasses.replace(it, input_dtype=dtype))
        assert (logits(inputs) / inputs.sm_scale).abs().min() > 65504


@pytest.mark.parametrize(("family", "factor"), [("tiny", 1e-6), ("large", 1e4)])
def test_size_leaves_the_logits_as_they_were(family: str, factor: float) -> None:
    inputs = draw(family, it=MANY)
    assert inputs.v.std() == pytest.approx(factor, rel=0.05)
    assert logits(inputs).std() == pytest.approx(1, rel=0.05)


def test_neighbours_cancel() -> None:
    inputs = draw("cancel", it=MANY)
    values = inputs.v.double()
    weights = torch.softmax(logits(inputs), -1)
    ratio = (weights @ values).norm() / (weights @ values.abs()).norm()
    # a random sum of n terms that each have 0.001: 0.001 √(e/n), beside 0.8 of all of them
    assert ratio == pytest.approx(1e-3 * math.sqrt(math.e / 256) / math.sqrt(2) / 0.8, rel=0.5)


def test_families_are_chosen_by_name_and_by_group() -> None:
    assert list(families.chosen(["extreme"])) == ["gauss", "resonant", "tiny", "large", "cancel"]
    assert families.chosen(["extreme"])["tiny"].group is Group.EXTREME
    assert families.chosen(["tiny"])["tiny"].group is Group.TYPICAL
    every = families.chosen(["all"])
    assert list(every) == list(FAMILIES)
    assert {family.group for family in every.values()} == {Group.TYPICAL}
    default = families.chosen(families.DEFAULT_FAMILIES)
    assert {name: it.group for name, it in default.items()} == {
        name: it.group for name, it in FAMILIES.items()
    }
    with pytest.raises(InputError, match="--families must be among gauss, .*, all, got 'x'"):
        families.chosen(["x"])
