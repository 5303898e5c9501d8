"""Keys and values prepared once: the same output, and what is refused or held."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact import Recorder, close, inputs, naive
from interpreted import plan_of

import autoprec
from autoprec.errors import InputError, UnsupportedError
from autoprec.plan.plan import Plan
from autoprec.plan.prepared import PreparedKV


def given(q_len: int = 40, kv_len: int = 70) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return inputs(1, 4, 2, q_len, kv_len, 16, 16)


@pytest.fixture
def triton_plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    pytest.importorskip("triton")
    return plan_of("fp16x3", monkeypatch)


def test_it_is_exported() -> None:
    assert autoprec.PreparedKV is PreparedKV


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_tensors_read_as_they_are_are_held(plan: Plan, recorder: Recorder, layout: str) -> None:
    q, k, v = inputs(q_len=5, kv_len=40)
    expected = naive(q, k, v, causal=True)[0]
    if layout == "bshd":
        q, k, v, expected = (t.transpose(1, 2).contiguous() for t in (q, k, v, expected))
    held = plan.prepare_kv(k, v, q_len=20, q_heads=4, layout=layout)
    assert repr(held) == "PreparedKV(bf16 by exact block=16: 40 keys, 0 bytes)"
    assert held.explain().splitlines()[-1] == "prepared: the tensors as they are"
    for method in (plan.attention, plan.append, plan.decode):
        close(method(q, held, causal=True, layout=layout), expected)
    assert {call.k.data_ptr() for call in recorder.calls} == {k.data_ptr()}


@pytest.mark.parametrize(("q_len", "kv_len"), [(40, 70), (70, 70), (17, 70)])
@pytest.mark.parametrize("causal", [True, False])
def test_planes_give_the_same_bits(
    triton_plan: Plan, q_len: int, kv_len: int, causal: bool
) -> None:
    q, k, v = given(q_len, kv_len)
    plain = triton_plan.prefill(q, k, v, causal=causal, return_lse=True)
    held = triton_plan.prepare_kv(k, v, q_len=32, q_heads=4)
    k.fill_(torch.nan)  # what is written later is not seen
    v.fill_(torch.nan)
    for method in (triton_plan.attention, triton_plan.append, triton_plan.prefill):
        for got, want in zip(method(q, held, causal=causal, return_lse=True), plain, strict=True):
            assert torch.equal(got, want)


def test_planes_are_described(triton_plan: Plan) -> None:
    q, k, v = given()
    held = triton_plan.prepare_kv(k, v, q_len=40, q_heads=4)
    # 2 parts of 2 bytes, for 2 heads of 70 keys of 16 elements, twice; a scale for every 32 keys
    assert held.nbytes == 2 * (2 * 2 * 2 * 70 * 16 + 4 * 2 * 3)
    assert (held.path, held.kernel, held.kv_len) == ("fp16x3", "triton-prefill", 70)
    assert held.config == {"block_q": 32, "block_kv": 32, "num_warps": 4, "num_stages": 2}
    assert held.explain().splitlines()[-1] == f"prepared: {held.nbytes} bytes of planes"
    lines = triton_plan.explain(q[:, :, :20], held).splitlines()
    note = "keys and values were prepared for append b1 q40 kv70 4/2 d16 causal fp32"
    assert [line.split(maxsplit=1) for line in lines if line.startswith("note")] == [["note", note]]


def test_only_planes_are_held(triton_plan: Plan) -> None:
    _, k, v = given()
    before = weakref.ref(k), weakref.ref(v)
    held = triton_plan.prepare_kv(k, v, q_len=40, q_heads=4)
    del k, v
    gc.collect()
    assert held.nbytes
    assert all(ref() is None for ref in before)


@pytest.mark.parametrize("path", ["fp16x3", "bf16", "fp32"])  # planes, others, the tensors
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("guard", ["off", "always"])
def test_what_is_prepared_in_inference_mode_serves_outside_of_it_and_the_reverse(
    path: str, inside: bool, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    plan = plan_of(path, monkeypatch)
    plan.guard = guard
    q, k, v = given()
    want = plan.append(q, k, v, causal=True)
    with torch.inference_mode(inside):
        held = plan.prepare_kv(k.clone(), v.clone(), q_len=40, q_heads=4)
        first = plan.append(q, held, causal=True)
    with torch.inference_mode(not inside):
        again = plan.append(q, held, causal=True, out=torch.empty_like(q))
        plan.stats()
    last = plan.append(q, held, causal=True)
    assert last.is_inference() is False
    for got in (first, again, last):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_other_layouts_and_heads(triton_plan: Plan) -> None:
    q, k, v = given()
    want = triton_plan.append(q, k, v, causal=True)
    held = triton_plan.prepare_kv(
        k.transpose(1, 2), v.transpose(1, 2), q_len=40, q_heads=8, layout="bshd"
    )
    got = triton_plan.append(q.transpose(1, 2), held, causal=True, layout="bshd")
    assert torch.equal(got.transpose(1, 2), want)


def test_another_path_has_its_own_decision(triton_plan: Plan) -> None:
    """A plain call on the same shapes must not be taken for one on planes, or the reverse."""
    q, k, v = given(16, 70)
    held = triton_plan.prepare_kv(k, v, q_len=40, q_heads=4)
    plain = triton_plan.attention(q, k, v, causal=True)  # a decode
    got = triton_plan.append(q, held, causal=True)
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedError) as caught:
        triton_plan.attention(q, held, causal=True)
    assert str(caught.value) == (
        "keys and values were prepared for triton-prefill, which cannot run this: triton-prefill "
        "serves prefill, append, not decode. "
        "Try: plan.decode(q, k, v) on the tensors, or plan.append for 2 queries or more"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 3}, "k must be a torch.Tensor, got int."),
        ({"v": None}, "v must be a torch.Tensor, got NoneType."),
        ({"v": torch.zeros(2, 2, 7, 8).half()},
         "v (2, 2, 7, 8) is torch.float16, k (2, 2, 7, 8) is torch.float32; "
         "all three must have one type."),
        ({"v": torch.zeros(2, 2, 6, 8)},
         "v (2, 2, 6, 8) has a number of tokens of 6, k (2, 2, 7, 8) of 7."),
        ({"k": torch.zeros(2, 7, 8)},
         "k (2, 7, 8) must have four dimensions, [batch, heads, tokens, head_dim]."),
        ({"q_len": 0}, "q_len must be a whole number above zero, got 0."),
        ({"q_heads": True}, "q_heads must be a whole number above zero, got True."),
        ({"q_heads": 3},
         "q (2, 3, 5, 8) has 3 heads, no multiple of the 2 of k (2, 2, 7, 8)."),
        ({"causal": 1}, "causal must be True or False, got 1."),
        ({"layout": "bsdh"}, "layout must be bhsd or bshd, got 'bsdh'."),
        ({"out_dtype": "fp8"}, "out_dtype must be fp32, bf16 or fp16, got 'fp8'."),
        ({"k": torch.zeros(2, 2, 0, 8), "v": torch.zeros(2, 2, 0, 8)},
         "k (2, 2, 0, 8) and v (2, 2, 0, 8): there is nothing to prepare in what has no "
         "elements."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(plan: Plan, changes: dict[str, Any], sentence: str) -> None:
    _, k, v = inputs()
    arguments: dict[str, Any] = {"k": k, "v": v, "q_len": 5} | changes
    with pytest.raises(InputError) as caught:
        plan.prepare_kv(**arguments)
    assert caught.value.sentence == sentence


def test_a_gradient_is_refused(plan: Plan) -> None:
    _, k, v = inputs()
    with pytest.raises(UnsupportedError, match="requires a gradient"):
        plan.prepare_kv(k, v.requires_grad_(), q_len=5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda plan, q, held, v: plan.append(q, held, v, causal=True),
         "v is given, but the PreparedKV in place of k has its own values."),
        (lambda plan, q, held, v: plan.append(q, v, causal=True),
         "v must be a torch.Tensor, got NoneType."),
        (lambda plan, q, held, v: plan.append(q[..., :8], held, causal=True),
         "k (1, 2, 70, 16) has a head dim of 16, q (1, 4, 40, 8) of 8."),
        (lambda plan, q, held, v: plan.append(q.half(), held, causal=True),
         "k (1, 2, 70, 16) is torch.float32, q (1, 4, 40, 16) is torch.float16; "
         "all three must have one type."),
        (lambda plan, q, held, v: plan.append(q[:, :3], held, causal=True),
         "q (1, 3, 40, 16) has 3 heads, no multiple of the 2 of k (1, 2, 70, 16)."),
        (lambda plan, q, held, v: plan.append(q, held, causal=True, layout="hb"),
         "layout must be bhsd or bshd, got 'hb'."),
    ],
)  # fmt: skip
def test_calls_that_do_not_fit_are_refused(
    triton_plan: Plan, call: Callable[..., Any], sentence: str
) -> None:
    q, k, v = given()
    held = triton_plan.prepare_kv(k, v, q_len=40, q_heads=4)
    with pytest.raises(InputError) as caught:
        call(triton_plan, q, held, v)
    assert caught.value.sentence == sentence
