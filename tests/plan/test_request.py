"""Windows, soft caps, sinks and masks on tensors: what is handed to kernels, and what is said."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exact import Recorder, close, cpu_profile, inputs

from autoprec.errors import AutoprecWarning, InputError, UnsupportedError
from autoprec.kernels.interface import Call, Feature
from autoprec.kernels.reference import attention
from autoprec.plan import execute as module
from autoprec.plan.execute import run_bound
from autoprec.plan.plan import Plan
from autoprec.types import Phase

CPU = torch.device("cpu")
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0])
HIDDEN = torch.rand(5, 7, generator=torch.Generator().manual_seed(4)) < 0.5

HOWS: list[dict[str, Any]] = [
    {"window": 3}, {"window": 900}, {"soft_cap": 1.5}, {"sinks": SINKS},
    {"window": 2, "soft_cap": 0.5, "sinks": SINKS},
]  # fmt: skip


def expected(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, how: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    window = how.get("window")
    return attention(
        q, k, v, diagonal=k.shape[2] - q.shape[2] if causal else None, sm_scale=q.shape[3] ** -0.5,
        window_left=None if window is None else window - 1, soft_cap=how.get("soft_cap"),
        sinks=how.get("sinks"), mask=how.get("attn_mask"),
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("lengths", [(7, 7), (5, 7), (1, 7)])
@pytest.mark.parametrize("how", HOWS, ids=lambda how: "+".join(how))
def test_they_mean_what_the_oracle_means(
    plan: Plan, how: dict[str, Any], lengths: tuple[int, int], layout: str
) -> None:
    q, k, v = inputs(q_len=lengths[0], kv_len=lengths[1])
    want, want_lse = expected(q, k, v, True, how)
    if layout == "bshd":
        q, k, v, want = (x.transpose(1, 2) for x in (q, k, v, want))
    out, lse = plan.attention(q, k, v, causal=True, layout=layout, return_lse=True, **how)
    close(out, want)
    close(lse, want_lse)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (2, 1, 1, 7), (5, 1), (7,)])
@pytest.mark.parametrize("floats", [False, True])
def test_a_mask_holds_beside_the_diagonal(
    plan: Plan, shape: tuple[int, ...], causal: bool, floats: bool
) -> None:
    q, k, v = inputs()
    draw = torch.Generator().manual_seed(3)
    mask = torch.rand(shape, generator=draw) < 0.6
    if floats:
        mask = torch.randn(shape, generator=draw).masked_fill(~mask, -math.inf)
    out = plan.attention(q, k, v, causal=causal, attn_mask=mask)
    close(out, expected(q, k, v, causal, {"attn_mask": mask})[0])


def test_calls_of_one_shape_are_not_mixed_up(plan: Plan) -> None:
    q, k, v = inputs()
    hidden = torch.zeros(5, 7, dtype=torch.bool)
    for how in (*HOWS, {"attn_mask": hidden}, {"attn_mask": hidden.float()}, {}):
        close(plan.attention(q, k, v, causal=True, **how), expected(q, k, v, True, how)[0])


def test_without_keys_the_lse_is_the_sinks(plan: Plan) -> None:
    q, k, v = inputs(kv_len=0)
    out, lse = plan.attention(q, k, v, causal=False, return_lse=True, sinks=SINKS)
    assert not out.any()
    close(lse, (SINKS.double() / math.log(2))[None, :, None].expand(2, 4, 5))


def test_the_gradient_of_sinks_is_refused(plan: Plan) -> None:
    q, k, v = inputs()
    learned = SINKS.clone().requires_grad_()
    with pytest.raises(UnsupportedError) as caught:
        plan.attention(q, k, v, causal=True, sinks=learned)
    assert caught.value.sentence == (
        "sinks (4,) requires a gradient, and no kernel here computes one."
    )
    with torch.no_grad():
        plan.attention(q, k, v, causal=True, sinks=learned)


def test_sinks_made_anew_at_every_call_are_bound_once(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = pytest.importorskip("autoprec.kernels.launches")
    ran: list[Any] = []

    class Bound:
        def run(self, tensors: Any, stream: int) -> bool:
            ran.append(tensors)
            return True

    monkeypatch.setattr(launches, "bind", lambda *_: Bound())
    monkeypatch.setattr(module, "_stream", lambda device: 0)
    q, k, v = inputs()
    kernel = recorder.kernel("exact", launches=lambda call, path, config: [])
    decided: Any = SimpleNamespace(kernel=kernel, path="bf16", config={})
    bound: dict[object, Any] = {}
    made = [SINKS.half().float() for _ in range(3)]
    for sinks in (None, *made):
        run_bound(bound, decided, Call(q=q, k=k, v=v, out=q, lse=None, diagonal=2, sm_scale=0.5,
                                   sinks=sinks))  # fmt: skip
    assert len(bound) == 2  # with, and without
    assert all(tensors[-1] is sinks for tensors, sinks in zip(ran, made[1:], strict=True))


def test_another_kernel_runs_where_the_chosen_one_cannot(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact", features=frozenset()), recorder.kernel("spare"))
    plan = Plan(cpu_profile(), CPU)
    q, k, v = inputs()
    with pytest.warns(AutoprecWarning) as caught:
        plan.attention(q, k, v, causal=True, sinks=SINKS)
    sentence = (
        "exact was chosen but cannot run this (exact has no attention sinks), so spare runs the "
        "same path"
    )
    assert [str(warning.message) for warning in caught] == [f"{sentence}."]
    assert f"note        {sentence}" in plan.explain(q, k, v, sinks=SINKS).splitlines()


def test_kernels_of_prompts_run_masks_and_a_window_rests_on_what_has_none(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(
        recorder.kernel("decode", phases=(Phase.DECODE,), features=frozenset({Feature.WINDOW})),
        recorder.kernel("exact", phases=(Phase.PREFILL, Phase.APPEND)),
    )
    plan = Plan(cpu_profile(), CPU)
    q, k, v = inputs(q_len=1)
    plan.decode(q, k, v, causal=True, attn_mask=torch.ones(7, dtype=torch.bool))
    assert recorder.kernels == ["exact"]
    told = plan.explain(q, k, v, phase="prefill", window=4, attn_mask=torch.ones(7)).splitlines()
    assert told[0] == "workload    append b2 q2 kv7 4/2 d8 full w4 custom mask fp32"
    assert told[3].startswith("rests on    nearest measured: prefill b1 q1024 kv1024")
    assert "window 4 instead of none" in told[3]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"window": 0}, "window must be a whole number of at least 1, got 0."),
        ({"window": True}, "window must be a whole number of at least 1, got True."),
        ({"soft_cap": "30"}, "soft_cap must be a number, got '30'."),
        ({"soft_cap": -1.0}, "soft_cap must be above zero and finite, got -1."),
        ({"sinks": 1.0}, "sinks must be a torch.Tensor, got float."),
        (
            {"sinks": SINKS.half()},
            "sinks must be float32 (4,) on cpu, got torch.float16 (4,) on cpu.",
        ),
        (
            {"sinks": torch.zeros(8)[::2]},
            "sinks (4,) have strides (2,); they must be contiguous.",
        ),
        ({"attn_mask": True}, "attn_mask must be a torch.Tensor, got bool."),
        (
            {"attn_mask": torch.zeros(5, 6)},
            "attn_mask (5, 6) does not broadcast to (2, 4, 5, 7): batch, heads, queries, keys.",
        ),
        (
            {"attn_mask": torch.zeros(5, 7, dtype=torch.int32)},
            "attn_mask (5, 7) is torch.int32; it must be bool, or float32, bfloat16 or float16.",
        ),
        (
            {"attn_mask": torch.zeros(5, 7, device="meta")},
            "attn_mask (5, 7) is on meta, the queries are on cpu.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(plan: Plan, how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        plan.attention(*inputs(), causal=True, **how)
    assert caught.value.sentence == sentence


@pytest.mark.parametrize("how", [*HOWS, {"attn_mask": HIDDEN}, {"attn_mask": HIDDEN.float()}])
def test_sampled_calls_are_compared_with_all_of_it(plan: Plan, how: dict[str, Any]) -> None:
    plan.guard, plan.guard_every = "sample", 1
    plan.attention(*inputs(), causal=True, **how)
    drift = plan.stats()["drift"]["bf16"]
    assert drift["checked"] == 1
    assert drift["rel_l2"] <= 2.0**-23  # fp64 rounded once
