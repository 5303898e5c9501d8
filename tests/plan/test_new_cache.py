"""New caches: where they are made, and in which form."""

from importlib.util import find_spec

import made_up
import pytest
import torch
from exact import cpu_profile
from interpreted import plan_of
from plan_caches import HEADS, KV_HEADS, cache_of, drawn, rel_l2

from autoprec.errors import InputError
from autoprec.plan.plan import Plan
from autoprec.types import Conversion, Storage

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")


def test_a_cache_on_a_device_that_is_not_here_or_not_the_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    assert cache_of(plan, device="cpu").lengths.device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        cache_of(plan, device="cuda")
    assert str(caught.value) == (
        f"the device 'cuda' is not here: torch {torch.__version__} sees no GPU. Try: the device cpu"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError) as caught:
        cache_of(plan, device="cuda:0")
    assert str(caught.value) == (
        "the cache is on cuda:0, and this plan is for cpu. "
        "Try: tensors on cpu, or load_plan for another device"
    )


@pytest.mark.parametrize(
    ("path", "storage"),
    [("fp16x3", Storage.PLANES), ("fp16", Storage.PLANES), ("bf16", Storage.BF16),
     ("tf32x3", Storage.FP32), ("fp32", Storage.FP32), ("bf16x3", Storage.FP32)],
)  # fmt: skip
def test_the_form_is_what_the_path_reads(
    path: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(path, monkeypatch)
    cache = cache_of(plan)
    assert cache.storage is storage
    k, v, q = drawn(40, KV_HEADS, 1), drawn(40, KV_HEADS, 2), drawn(1, HEADS, 3)
    cache.append(k, v)
    got, plain = plan.decode(q, cache, causal=True), plan.decode(q, k, v, causal=True)
    # two planes hold 22 bits and have a scale for each token; all else holds what the path reads
    assert rel_l2(got, plain) <= (1e-3 if path == "fp16" else 1e-6 if storage == "fp16x2" else 0.0)
    assert plan.stats()["calls"] == {path: 2}


def test_what_a_cache_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    assert repr(cache_of(plan, page_size=16)) == (
        "KVCache(2 requests of up to 96 tokens in fp16x2, pages of 16, 272 bytes a token)"
    )
    assert repr(cache_of(plan, storage="bf16")) == (
        "KVCache(2 requests of up to 90 tokens in bf16, 128 bytes a token)"
    )


def _measured(monkeypatch: pytest.MonkeyPatch, budget: str) -> Plan:
    """A plan whose profile has both planes and one measured, with both phases fastest on one."""
    plan = plan_of("fp16x3", monkeypatch)
    rows = []
    for row in plan._decider.profile.measurements:
        given = {"workload": row.workload, "config": row.config}
        rows.append(row)
        rows.append(made_up.measurement("fp16", 0.9, 4e-4, **given))
        for path, ms, error in (("fp16x3", 0.8, 4e-7), ("fp16", 0.4, 4e-4)):
            rows.append(
                made_up.measurement(
                    path, ms, error, storage=Storage.PLANES, conversion=Conversion.AMORTISED,
                    **given,
                )
            )  # fmt: skip
    return Plan(cpu_profile(rows, budget=budget), torch.device("cpu"))


@pytest.mark.parametrize(("budget", "path"), [("1e-3", "fp16"), ("1e-5", "fp16x3")])
def test_a_cache_is_in_the_form_that_measured_fastest(
    budget: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _measured(monkeypatch, budget)
    cache = cache_of(plan)
    ms = {"fp16": "0.4", "fp16x3": "0.8"}[path]
    assert cache.storage is Storage.PLANES
    assert cache.reason == (
        f"each phase was fastest on it: fp16x2 for prefill ({path}, {ms} ms), "
        f"fp16x2 for decode ({path}, {ms} ms)"
    )
    cache.append(drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2))
    plan.decode(drawn(1, HEADS), cache, causal=True)  # reads what the budget needs, and no more
    assert plan.stats()["calls"] == {path: 1}
    plan.decode(drawn(1, HEADS), cache, causal=True, accuracy="full")
    assert plan.stats()["calls"]["fp16x3"] == 1 + (path == "fp16x3")
