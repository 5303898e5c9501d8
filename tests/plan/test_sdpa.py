"""scaled_dot_product_attention against torch's own, in shapes, values and refusals."""

import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import Recorder, cpu_profile, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprec.errors import AutoprecError, InputError, UnsupportedError
from autoprec.plan import sdpa
from autoprec.plan.plan import Plan
from autoprec.types import Profile

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]

CPU = torch.device("cpu")
wide = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tensors(shapes: Shapes) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def same_as_torch(plan: Plan, shapes: Shapes, **options: Any) -> Tensor:
    """Compare with torch in fp64 on the same numbers, or see that both refuse.

    Its math backend says what is meant; flash on a CPU gives NaN for a causal mask and a negative
    scale, and reads beyond values that are shorter than the keys.
    """
    q, k, v = tensors(shapes)
    if v.numel() == 0 or 0 in q.shape[-2:-1]:
        return empty(plan, q, k, v, **options)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), **options)
    except (RuntimeError, IndexError):
        with pytest.raises(InputError):
            plan.scaled_dot_product_attention(q, k, v, **options)
        return torch.empty(0)
    got = plan.scaled_dot_product_attention(q, k, v, **options)
    assert got.dtype == torch.float32
    # fp64 rounded once against fp64 rounded once: one unit of fp32's last place, at most
    torch.testing.assert_close(got, expected.float(), rtol=2.0**-23, atol=2.0**-29)
    return got


def empty(plan: Plan, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Torch gives zeros of query's shape and looks at nothing else; we broadcast here too."""
    enable_gqa = options.get("enable_gqa", False)
    outer = -3 if enable_gqa else -2
    fits = True
    try:
        lead = torch.broadcast_shapes(*(t.shape[:outer] for t in (q, k, v)))
    except RuntimeError:
        fits = False
    if enable_gqa:
        q_heads, *others = (t.shape[-3] for t in (q, k, v))
        fits = fits and all(q_heads % heads == 0 if heads else not q_heads for heads in others)
    if not fits:
        with pytest.raises(InputError):
            plan.scaled_dot_product_attention(q, k, v, **options)
        return torch.empty(0)
    got = plan.scaled_dot_product_attention(q, k, v, **options)
    assert got.shape == (*lead, *q.shape[outer:-1], v.shape[-1])
    assert not got.any()
    return got


@st.composite
def broadcast_shapes(draw: st.DrawFn) -> Shapes:
    """Shapes whose leading dimensions broadcast, of any number, and lengths of any relation."""
    lead = draw(st.lists(st.integers(0, 3), max_size=3))
    q_len, kv_len = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    dim, dim_v = draw(st.integers(1, 4)), draw(st.integers(0, 4))

    def narrowed() -> Shape:
        kept = lead[draw(st.integers(0, len(lead))) :]
        return tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in kept)

    return (*narrowed(), q_len, dim), (*narrowed(), kv_len, dim), (*narrowed(), kv_len, dim_v)


@wide
@given(shapes=broadcast_shapes(), is_causal=st.booleans(), scale=st.sampled_from([None, 0.3, -1]))
def test_broadcasting_and_lengths(
    plan: Plan, shapes: Shapes, is_causal: bool, scale: float | None
) -> None:
    same_as_torch(plan, shapes, is_causal=is_causal, scale=scale)


@wide
@given(
    outer=st.sampled_from([(), (2,), (2, 3)]),
    heads=st.tuples(*[st.sampled_from([1, 2, 3, 6])] * 3),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    is_causal=st.booleans(),
    enable_gqa=st.booleans(),
)
def test_heads_in_groups(
    plan: Plan, outer: Shape, heads: tuple[int, int, int], lengths: tuple[int, int],
    is_causal: bool, enable_gqa: bool,
) -> None:  # fmt: skip
    q_len, kv_len = lengths
    shapes = (
        (*outer, heads[0], q_len, 4), (*outer, heads[1], kv_len, 4), (*outer, heads[2], kv_len, 3),
    )  # fmt: skip
    same_as_torch(plan, shapes, is_causal=is_causal, enable_gqa=enable_gqa)


@wide
@given(shapes=broadcast_shapes(), data=st.data())
def test_masks(plan: Plan, shapes: Shapes, data: st.DataObject) -> None:
    q, k, v = tensors(shapes)
    try:
        lead = torch.broadcast_shapes(*(t.shape[:-2] for t in (q, k, v)))
    except RuntimeError:
        return
    logits = (*lead, q.shape[-2], k.shape[-2])
    if 0 in (*logits, v.shape[-1]):
        return
    kept = logits[data.draw(st.integers(0, len(logits))) :]
    shape = tuple(data.draw(st.sampled_from((1, size))) for size in kept)
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask, exact = seen, seen
    if data.draw(st.booleans()):  # the lowest hides beside others, not alone
        low = data.draw(st.sampled_from((-math.inf, torch.finfo(torch.float32).min)))
        mask = torch.randn(shape).masked_fill(~seen, low)
        exact = mask.double()
    wide_q = q.double().expand(*lead, *q.shape[-2:])  # else torch broadcasts no mask to v
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(wide_q, k.double(), v.double(), attn_mask=exact)
    got = plan.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(got, expected.float(), rtol=2.0**-22, atol=2.0**-28)


def test_rows_that_see_nothing_are_zero_as_torchs_are(plan: Plan) -> None:
    q, k, v = tensors(((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)))
    for mask in (torch.zeros(3, 5, dtype=torch.bool), torch.full((3, 5), -math.inf)):
        assert not F.scaled_dot_product_attention(q, k, v, mask).any()
        assert not plan.scaled_dot_product_attention(q, k, v, mask).any()


@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (5, 4), (5, 4)),
        ((2, 3, 4, 8), (2, 3, 5, 7), (2, 3, 5, 8)),
        ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 6, 8)),
        ((2, 3, 2, 8), (2, 3, 5, 8), (2, 3, 6, 8)),
        ((2, 3, 4, 8), (4, 3, 5, 8), (2, 3, 5, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_both_refuse(plan: Plan, shapes: Shapes, is_causal: bool) -> None:
    assert same_as_torch(plan, shapes, is_causal=is_causal).numel() == 0


def test_no_heads_at_all(plan: Plan) -> None:
    none = ((2, 0, 3, 4), (2, 0, 5, 4), (2, 0, 5, 4))
    assert same_as_torch(plan, none, enable_gqa=True).shape == (2, 0, 3, 4)
    with pytest.raises(InputError):  # torch divides by zero, and dies of it
        plan.scaled_dot_product_attention(
            *tensors(((2, 4, 3, 4), (2, 0, 5, 4), (2, 2, 5, 4))), enable_gqa=True
        )


def test_heads_that_broadcast_are_a_group(plan: Plan, recorder: Recorder) -> None:
    same_as_torch(plan, ((2, 6, 3, 4), (2, 1, 5, 4), (2, 1, 5, 4)))
    assert recorder.calls[0].k.shape == (2, 1, 5, 4)


def test_a_batch_is_broadcast_without_a_copy(plan: Plan, recorder: Recorder) -> None:
    q, k, v = tensors(((3, 2, 4, 8), (1, 2, 5, 8), (2, 5, 8)))
    plan.scaled_dot_product_attention(q, k, v)
    call = recorder.calls[0]
    assert (call.k.data_ptr(), call.v.data_ptr()) == (k.data_ptr(), v.data_ptr())
    assert call.k.stride()[0] == call.v.stride()[0] == 0


def test_keys_that_no_query_sees_are_left_out(plan: Plan, recorder: Recorder) -> None:
    same_as_torch(plan, ((1, 1, 3, 4), (1, 1, 9, 4), (1, 1, 9, 4)), is_causal=True)
    assert recorder.calls[0].k.shape == (1, 1, 3, 4)
    assert recorder.calls[0].diagonal == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_output_has_the_querys_type(plan: Plan, dtype: torch.dtype) -> None:
    q, k, v = (t.to(dtype) for t in tensors(((2, 4, 5, 8),) * 3))
    assert plan.scaled_dot_product_attention(q, k, v).dtype == dtype


def refused(plan: Plan, *arguments: Any, **options: Any) -> AutoprecError:
    with pytest.raises(AutoprecError) as caught:
        plan.scaled_dot_product_attention(*arguments, **options)
    return caught.value


def test_what_no_kernel_does_is_said(plan: Plan) -> None:
    q = torch.zeros(2, 4, 5, 8)
    error = refused(plan, q, q, q, dropout_p=0.1)
    assert isinstance(error, UnsupportedError)
    assert str(error) == "dropout_p is 0.1, and no kernel here drops anything."
    error = refused(plan, q, q, q, torch.zeros(5, 5), is_causal=True)
    assert isinstance(error, InputError)
    assert str(error) == "attn_mask is given, and is_causal is True. Try: one of the two"
    error = refused(plan, q, q, q, torch.zeros(5, 5, requires_grad=True))
    assert isinstance(error, UnsupportedError)
    assert error.sentence.startswith("attn_mask (2, 4, 5, 5) requires a gradient")
    error = refused(plan, q.clone().requires_grad_(), q, q)
    assert isinstance(error, UnsupportedError)
    assert error.sentence.startswith("query (2, 4, 5, 8) requires a gradient")


Q = torch.zeros(2, 4, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((Q, Q.tolist(), Q), {}, "key must be a torch.Tensor, got list."),
        ((Q[0, 0, 0], Q, Q), {}, "query (8,) must have 2 dimensions or more."),
        (
            (Q[0, 0], Q, Q),
            {"enable_gqa": True},
            "query (5, 8) must have 3 dimensions or more with enable_gqa.",
        ),
        (
            (Q, Q, Q.half()),
            {},
            "value (2, 4, 5, 8) is torch.float16, query (2, 4, 5, 8) is torch.float32; "
            "all three must have one type.",
        ),
        (
            (Q, Q[..., :4], Q),
            {},
            "key (2, 4, 5, 4) has a head dim of 4, query (2, 4, 5, 8) of 8.",
        ),
        (
            (Q[0], Q[0], Q[0, :, :3]),
            {},
            "value (4, 3, 8) has a number of tokens of 3, key (4, 5, 8) of 5.",
        ),
        (
            (Q, Q[:, :2], Q[:, :2]),
            {},
            "the dimensions of query (2, 4, 5, 8), key (2, 2, 5, 8) and value (2, 2, 5, 8) "
            "before the last two do not broadcast.",
        ),
        (
            (Q, Q[:, :3], Q[:, :3]),
            {"enable_gqa": True},
            "query (2, 4, 5, 8) has 4 heads, no multiple of the 3 of key (2, 3, 5, 8).",
        ),
        (
            (Q, Q, Q, torch.zeros(3, 5)),
            {},
            "attn_mask (3, 5) does not broadcast to the logits, (2, 4, 5, 5).",
        ),
        (
            (Q, Q, Q, torch.zeros(5, 5, dtype=torch.float64)),
            {},
            "attn_mask (5, 5) is torch.float64; it must be bool, float32, or torch.float32 as "
            "query is.",
        ),
        ((Q, Q, Q, [[1.0]]), {}, "attn_mask must be a torch.Tensor, got list."),
        ((Q, Q, Q), {"is_causal": 1}, "is_causal must be True or False, got 1."),
        ((Q, Q, Q), {"scale": float("inf")}, "scale must be a finite number, got inf."),
    ],
)
def test_a_sentence_names_the_argument(
    plan: Plan, arguments: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    error = refused(plan, *arguments, **options)
    assert isinstance(error, InputError)
    assert error.sentence == sentence


@pytest.fixture
def loads(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, register: Callable[..., None]
) -> list[torch.device]:
    """The devices for which the function loaded a plan."""
    register(recorder.kernel("exact"))
    found: list[torch.device] = []

    def load(device: torch.device) -> Plan:
        found.append(device)
        time.sleep(0.02)  # so that the others arrive meanwhile
        return Plan(cpu_profile(), device)

    monkeypatch.setattr(sdpa, "load_plan", load)
    monkeypatch.setattr(sdpa, "_defaults", {})
    return found


def test_the_function_loads_one_plan_for_a_device(loads: list[torch.device]) -> None:
    q = tensors(((2, 4, 5, 8),) * 3)
    results: list[Tensor] = []
    work = lambda: results.append(sdpa.scaled_dot_product_attention(*q, is_causal=True))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [CPU]
    assert len(results) == 8
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(results))


def test_use_has_another_plan_used_for_a_while(
    loads: list[torch.device], recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact"), recorder.kernel("mine"))
    profile: Profile = cpu_profile(rows(kernel="mine"))
    q = torch.zeros(1, 2, 3, 4)
    with sdpa.use(Plan(profile, CPU)) as plan:
        assert plan.profile is profile
        sdpa.scaled_dot_product_attention(q, q, q)
    assert (recorder.kernels, loads) == (["mine"], [])
    sdpa.scaled_dot_product_attention(q, q, q)
    assert (recorder.kernels, loads) == (["mine", "exact"], [CPU])


def test_the_function_names_what_is_no_tensor(loads: list[torch.device]) -> None:
    with pytest.raises(InputError, match=r"^query must be a torch.Tensor, got list\.$"):
        sdpa.scaled_dot_product_attention([1.0], Q, Q)  # type: ignore[arg-type]
