"""What a plan refuses to be handed, in whole sentences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact import Recorder, cpu_profile
from torch import Tensor

from autoprec.errors import AutoprecError, InputError, UnsupportedError
from autoprec.plan.plan import Plan

Q, K, V = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8), torch.zeros(2, 2, 7, 8)
OUT = torch.zeros(2, 4, 5, 8)
QKV = torch.zeros(2, 4, 3, 5, 8)


def refused(plan: Plan, q: Any = Q, k: Any = K, v: Any = V, **options: Any) -> AutoprecError:
    with pytest.raises(AutoprecError) as caught:
        plan.attention(q, k, v, **{"causal": True} | options)
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"q": [1.0]}, "q must be a torch.Tensor, got list."),
        ({"k": None}, "k must be a torch.Tensor, got NoneType."),
        (
            {"q": Q[0]},
            "q (4, 5, 8) must have four dimensions, [batch, heads, tokens, head_dim].",
        ),
        (
            {"q": Q[0], "layout": "bshd"},
            "q (4, 5, 8) must have four dimensions, [batch, tokens, heads, head_dim].",
        ),
        (
            {"q": Q.double(), "k": K.double(), "v": V.double()},
            "q (2, 4, 5, 8) is torch.float64; attention takes float32, bfloat16 and float16.",
        ),
        (
            {"v": V.half()},
            "v (2, 2, 7, 8) is torch.float16, q (2, 4, 5, 8) is torch.float32; "
            "all three must have one type.",
        ),
        (
            {"k": K.to("meta")},
            "k (2, 2, 7, 8) is on meta, q (2, 4, 5, 8) is on cpu; all three must be on one device.",
        ),
        ({"k": K[:1]}, "k (1, 2, 7, 8) has a batch size of 1, q (2, 4, 5, 8) of 2."),
        ({"v": V[:1]}, "v (1, 2, 7, 8) has a batch size of 1, q (2, 4, 5, 8) of 2."),
        ({"v": V[:, :1]}, "v (2, 1, 7, 8) has a number of heads of 1, k (2, 2, 7, 8) of 2."),
        (
            {"q": Q[:, :3]},
            "q (2, 3, 5, 8) has 3 heads, no multiple of the 2 of k (2, 2, 7, 8).",
        ),
        (
            {"k": K[:, :0], "v": V[:, :0]},
            "q (2, 4, 5, 8) has 4 heads, no multiple of the 0 of k (2, 0, 7, 8).",
        ),
        ({"k": K[..., :4]}, "k (2, 2, 7, 4) has a head dim of 4, q (2, 4, 5, 8) of 8."),
        ({"v": V[:, :, :6]}, "v (2, 2, 6, 8) has a number of tokens of 6, k (2, 2, 7, 8) of 7."),
        ({"q": Q[..., :0], "k": K[..., :0]}, "q (2, 4, 5, 0) has a head dim of 0."),
        ({"causal": 1}, "causal must be True or False, got 1."),
        ({"causal": None}, "causal must be True or False, got None."),
        ({"layout": "sbhd"}, "layout must be bhsd or bshd, got 'sbhd'."),
        ({"layout": ["bhsd"]}, "layout must be bhsd or bshd, got ['bhsd']."),
        ({"out_dtype": "fp64"}, "out_dtype must be fp32, bf16 or fp16, got 'fp64'."),
        ({"out_dtype": torch.int8}, "out_dtype must be fp32, bf16 or fp16, got torch.int8."),
        ({"out_dtype": []}, "out_dtype must be fp32, bf16 or fp16, got []."),
        ({"sm_scale": float("nan")}, "sm_scale must be a finite number, got nan."),
        ({"sm_scale": "1"}, "sm_scale must be a finite number, got '1'."),
        (
            {"sm_scale": -1e308},
            "sm_scale must be below 2^127, since kernels hold it in fp32, got -1e+308.",
        ),
        ({"sm_scale": 10**400}, "sm_scale must be below 2^127, got more than float64 holds."),
        ({"out": [1.0]}, "out must be a torch.Tensor, got list."),
        ({"out": OUT[:, :2]}, "out (2, 2, 5, 8) must have the shape (2, 4, 5, 8)."),
        (
            {"out": OUT.double()},
            "out (2, 4, 5, 8) is torch.float64; it must be float32, bfloat16 or float16.",
        ),
        (
            {"out": OUT.long(), "out_dtype": "fp32"},
            "out (2, 4, 5, 8) is torch.int64; it must be float32, bfloat16 or float16.",
        ),
        (
            {"out": OUT, "out_dtype": "bf16"},
            "out is torch.float32, but out_dtype is torch.bfloat16.",
        ),
        ({"out": OUT.to("meta")}, "out (2, 4, 5, 8) is on meta, the inputs are on cpu."),
        (
            {"out": torch.zeros(2, 1, 5, 8).expand(2, 4, 5, 8)},
            "out (2, 4, 5, 8) has strides (40, 0, 8, 1): its elements share memory.",
        ),
        (
            {"out": torch.zeros(400).as_strided(OUT.shape, (160, 40, 4, 1))},
            "out (2, 4, 5, 8) has strides (160, 40, 4, 1): its elements share memory.",
        ),
        ({"out": OUT.to_sparse()}, "out is nested or sparse, and no kernel writes that."),
        ({"out": Q}, "out (2, 4, 5, 8) lies in the memory of an input."),
    ],
)
def test_a_sentence_names_the_argument(
    plan: Plan, arguments: dict[str, Any], sentence: str
) -> None:
    error = refused(plan, **arguments)
    assert isinstance(error, InputError)
    assert error.sentence == sentence


BUFFER = torch.zeros(2, 4, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lse_out": [1.0]}, "lse_out must be a torch.Tensor, got list."),
        (
            {"lse_out": torch.zeros(2, 4, 5).to_sparse()},
            "lse_out is nested or sparse, and no kernel writes that.",
        ),
        (
            {"lse_out": torch.zeros(2, 4, 4)},
            "lse_out must be float32 (2, 4, 5) on cpu, got torch.float32 (2, 4, 4) on cpu.",
        ),
        (
            {"lse_out": torch.zeros(1).expand(2, 4, 5)},
            "lse_out (2, 4, 5) has strides (0, 0, 0): its elements share memory.",
        ),
        (
            {"out": BUFFER, "lse_out": BUFFER[..., 0]},
            "lse_out (2, 4, 5) lies in the memory of out or an input.",
        ),
        ({"lse_out": K.view(-1)[:40].view(2, 4, 5)},
         "lse_out (2, 4, 5) lies in the memory of out or an input."),
    ],
)  # fmt: skip
def test_an_lse_out_that_cannot_be_written_is_refused(
    plan: Plan, arguments: dict[str, Any], sentence: str
) -> None:
    error = refused(plan, **arguments)
    assert isinstance(error, InputError)
    assert error.sentence == sentence


def test_a_shape_that_was_seen_is_still_checked(plan: Plan) -> None:
    plan.attention(Q, K, V, causal=True, out=OUT)
    assert "requires a gradient" in str(refused(plan, q=Q.clone().requires_grad_()))
    assert "lies in the memory" in str(refused(plan, out=Q))
    assert "finite" in str(refused(plan, sm_scale=float("inf")))
    assert "is torch.float16" in str(refused(plan, k=K.half()))
    assert "sparse" in str(refused(plan, k=K.to_sparse()))
    assert "sparse" in str(refused(plan, q=Q.to_mkldnn()))
    assert "causal must be True or False, got 1" in str(refused(plan, causal=1))


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_a_gradient_that_will_be_asked_for_is_refused(plan: Plan, name: str) -> None:
    tensors = {"q": Q, "k": K, "v": V, "out": OUT}
    learned = tensors[name].clone().requires_grad_()
    error = refused(plan, **{name: learned})
    assert isinstance(error, UnsupportedError)
    shape = tuple(learned.shape)
    assert str(error) == (
        f"{name} {shape} requires a gradient, and no kernel here computes one. "
        "Try: torch.no_grad(), or .detach()"
    )
    with torch.no_grad():
        got = plan.attention(**tensors | {name: learned}, causal=True)
    assert isinstance(got, Tensor)
    assert not got.requires_grad or got is learned


def test_an_lse_out_whose_gradient_will_be_asked_for_is_refused(plan: Plan) -> None:
    lse = torch.zeros(2, 4, 5, requires_grad=True)
    error = refused(plan, lse_out=lse)
    assert isinstance(error, UnsupportedError)
    assert error.sentence == (
        "lse_out (2, 4, 5) requires a gradient, and no kernel here computes one."
    )
    with torch.no_grad():
        assert plan.attention(Q, K, V, causal=True, lse_out=lse)[1] is lse


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_and_sparse_tensors_are_unsupported(plan: Plan) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(4, 5, 8), torch.zeros(4, 3, 8)])
    for tensor in (nested, Q.to_sparse()):
        error = refused(plan, q=tensor)
        assert isinstance(error, UnsupportedError)
        assert error.sentence == "q is nested or sparse, and no kernel takes that."


def test_an_out_of_strides_that_never_meet_is_fine(plan: Plan) -> None:
    for out in (OUT.transpose(1, 2).clone().transpose(1, 2), torch.zeros(2, 4, 5, 9)[..., :8]):
        assert plan.attention(Q, K, V, causal=True, out=out) is out
        torch.testing.assert_close(out, plan.attention(Q, K, V, causal=True))


def test_out_beside_the_inputs_in_one_memory_is_fine(plan: Plan) -> None:
    arena = torch.zeros(640)
    q, k, v, out = arena.view(4, 2, 2, 5, 8).unbind(0)
    assert plan.attention(q, k, v, causal=True, out=out) is out
    shifted = arena[479:639].view(2, 2, 5, 8)  # its first element is the last of v
    assert "lies in the memory" in str(refused(plan, q, k, v, out=shifted))


def test_out_between_the_rows_of_an_input_is_refused(plan: Plan) -> None:
    q, k, out = QKV.unbind(2)
    assert "lies in the memory" in str(refused(plan, q, k, k, out=out))


SPACE = torch.zeros(340)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"out": SPACE[:320].view(2, 4, 5, 8), "sinks": SPACE[316:320]},
         "out (2, 4, 5, 8) lies in the memory of an input."),
        ({"out": SPACE[:320].view(2, 4, 5, 8), "attn_mask": SPACE[310:317]},
         "out (2, 4, 5, 8) lies in the memory of an input."),
        ({"lse_out": SPACE[:40].view(2, 4, 5), "sinks": SPACE[:4]},
         "lse_out (2, 4, 5) lies in the memory of out or an input."),
        ({"lse_out": SPACE[:40].view(2, 4, 5), "attn_mask": SPACE.view(torch.bool)[5:12]},
         "lse_out (2, 4, 5) lies in the memory of out or an input."),
        ({"workspace": Q}, "workspace (2, 4, 5, 8) lies in the memory of an input or an output."),
        ({"workspace": K}, "workspace (2, 2, 7, 8) lies in the memory of an input or an output."),
        ({"workspace": V}, "workspace (2, 2, 7, 8) lies in the memory of an input or an output."),
        ({"workspace": OUT, "out": OUT},
         "workspace (2, 4, 5, 8) lies in the memory of an input or an output."),
        ({"workspace": SPACE, "lse_out": SPACE[:40].view(2, 4, 5)},
         "workspace (340,) lies in the memory of an input or an output."),
        ({"workspace": SPACE, "sinks": SPACE[8:12]},
         "workspace (340,) lies in the memory of an input or an output."),
        ({"workspace": SPACE, "attn_mask": SPACE[8:15]},
         "workspace (340,) lies in the memory of an input or an output."),
    ],
)  # fmt: skip
def test_nothing_is_written_to_what_the_call_uses(
    recorder: Recorder, register: Callable[..., None], options: dict[str, Any], sentence: str
) -> None:
    register(recorder.kernel("exact", workspace=lambda call, path, config: 32))
    plan = Plan(cpu_profile(), torch.device("cpu"))
    error = refused(plan, **options)
    assert isinstance(error, InputError)
    assert error.sentence == sentence
    assert not recorder.calls


def test_what_follows_the_numbers_that_a_call_takes_of_a_workspace_is_not_written(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    for elements, sinks in ((32, SPACE[36:40]), (0, SPACE[:4])):
        register(recorder.kernel("exact", workspace=lambda call, path, config, n=elements: n))
        plan = Plan(cpu_profile(), torch.device("cpu"))
        plan.attention(Q, K, V, causal=True, workspace=SPACE, sinks=sinks)
    assert len(recorder.calls) == 2
