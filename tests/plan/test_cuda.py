"""Plans on a GPU: streams, devices, threads, graphs, and tensors beyond 2^31 elements."""

import threading

import gpu
import pytest
import torch
from exact import inputs, naive
from torch import Tensor

from autoprec.plan.plan import Plan
from autoprec.types import Dtype

pytestmark = pytest.mark.cuda

# The budget of these profiles. The kernels' own tests have tighter bounds; what is looked for here
# is work on the wrong stream, device or address, and that is wrong altogether.
BUDGET = 1e-2

PATHS = {Dtype.FP32: "fp16", Dtype.BF16: "bf16", Dtype.FP16: "fp16"}


@pytest.fixture
def plan() -> Plan:
    return gpu.plan_of(PATHS)


def right(got: Tensor, expected: Tensor) -> None:
    assert got.isfinite().all()
    assert (got.double() - expected).norm() <= BUDGET * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize(
    ("q_len", "kv_len"), [(200, 200), (70, 200), (200, 70), (1, 200), (5, 200), (1, 1)]
)
def test_phases(plan: Plan, q_len: int, kv_len: int, layout: str, dtype: torch.dtype) -> None:
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, q_len, kv_len, 64, 64, dtype))
    expected, expected_lse = naive(q, k, v, causal=True)
    if layout == "bshd":
        q, k, v, expected = (t.transpose(1, 2).contiguous() for t in (q, k, v, expected))
    out, lse = plan.attention(q, k, v, causal=True, return_lse=True, layout=layout)
    right(out, expected)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=2e-2)


def test_work_is_queued_on_the_current_stream(plan: Plan) -> None:
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, 1, 200, 64, 64))
    expected = naive(q, k, v, causal=True)[0]
    plan.decode(q, k, v, causal=True)  # compiled before it is raced
    late = torch.zeros_like(q)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about 0.1 s: on another stream the zeros would be read
        late.copy_(q)
        out = plan.decode(late, k, v, causal=True)
    assert not stream.query()  # nothing waited for the device
    stream.synchronize()
    right(out, expected)


def test_threads_with_streams_of_their_own(plan: Plan) -> None:
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for step in range(10):
                    kv_len = 100 + 10 * seed + step
                    q, k, v = (t.cuda() for t in inputs(1, 6, 2, 1 + step % 3, kv_len, 64, 64))
                    right(plan.attention(q, k, v, causal=True), naive(q, k, v, causal=True)[0])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_device_that_is_not_the_current_one(plan: Plan) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    q, k, v = (t.to("cuda:1") for t in inputs(2, 6, 2, 1, 200, 64, 64))
    assert torch.cuda.current_device() == 0
    out = plan.decode(q, k, v, causal=True)
    assert out.device == q.device
    right(out, naive(q, k, v, causal=True)[0])
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("q_len", [1, 200])
def test_a_graph_is_captured_and_replayed(plan: Plan, q_len: int) -> None:
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, q_len, 200, 64, 64))
    out = torch.empty_like(q)
    plan.attention(q, k, v, causal=True, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.attention(q, k, v, causal=True, out=out)
    for tensor in (q, k, v):
        tensor.copy_(torch.randn_like(tensor))
    out.zero_()
    graph.replay()
    right(out, naive(q, k, v, causal=True)[0])


def test_torchs_function_on_a_gpu(plan: Plan) -> None:
    q, k, v = (t.cuda().half() for t in inputs(2, 6, 6, 33, 70, 64, 64))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True
    )
    right(plan.scaled_dot_product_attention(q, k, v, is_causal=True), expected)


SPLIT = ["triton-prefill", "hopper-prefill"]


def split_plan(name: str) -> Plan:
    """A plan that chooses fp16x3 by a kernel for fp32 prefill, and triton-decode for decode."""
    return gpu.plan_of({Dtype.FP32: "fp16x3"}, error=4e-7, prefill=name)


@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("accuracy", ["hi", "full"])
def test_a_graph_appends_and_decodes_as_requests_grow(
    plan: Plan, page_size: int | None, accuracy: str
) -> None:
    """Every replay appends a token and decodes; lengths and pages change in between."""
    cache = plan.new_kv_cache(batch=3, capacity=2048, q_heads=8, kv_heads=2, head_dim=64,
                              page_size=page_size)  # fmt: skip
    draw = torch.Generator("cuda").manual_seed(0)

    def drawn(tokens: int, heads: int = 2) -> Tensor:
        return torch.randn((3, heads, tokens, 64), generator=draw, device="cuda")

    k, v, q = drawn(1201), drawn(1201), drawn(1, 8)  # what the cache holds, token by token
    cache.append(k[:, :, :1200], v[:, :, :1200])
    new_k, new_v, out = drawn(1), drawn(1), torch.empty_like(q)
    plan.decode(q, cache, causal=True, accuracy=accuracy, out=out)
    graph = torch.cuda.CUDAGraph()
    cache.append(new_k, new_v)
    with torch.cuda.graph(graph):
        cache.append(new_k, new_v)
        plan.decode(q, cache, causal=True, accuracy=accuracy, out=out)
    for lengths in ((1200, 0, 77), (5, 1200, 1199), (16, 15, 17)):
        cache.set_lengths(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        new_k.copy_(drawn(1))
        new_v.copy_(drawn(1))
        q.copy_(drawn(1, 8))
        before = torch.cuda.memory_allocated()
        graph.replay()
        assert torch.cuda.memory_allocated() == before
        for request, length in enumerate(lengths):
            x, there = slice(request, request + 1), slice(length + 1)
            k[x, :, length], v[x, :, length] = new_k[x, :, 0], new_v[x, :, 0]
            right(out[x], naive(q[x], k[x, :, there], v[x, :, there], causal=True)[0])


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("causal", [True, False])
def test_planes_are_made_once(name: str, causal: bool) -> None:
    plan = split_plan(name)
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, 300, 700, 64, 64))
    expected = naive(q, k, v, causal=causal)[0]
    plain = plan.append(q, k, v, causal=causal)
    held = plan.prepare_kv(k, v, q_len=300, q_heads=6)
    assert held.kernel == name
    k.fill_(torch.nan)
    v.fill_(torch.nan)
    got = plan.append(q, held, causal=causal)
    assert torch.equal(got, plain)
    assert (got.double() - expected).norm() <= 2.0**-20 * expected.norm()
    right(plan.append(q[:, :, -30:], held, causal=causal), expected[:, :, -30:])
    assert plan.stats()["calls"] == {"fp16x3": 3}
    assert plan.stats()["range"] == 0


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("which", ["heads", "q", "k", "v", "tiles of v"])
def test_the_range_is_counted(name: str, which: str) -> None:
    plan = split_plan(name)
    q, k, v = (t.cuda() for t in inputs(1, 2, 2, 300, 700, 64, 64))
    if which == "heads":
        q *= torch.tensor([1e30, 1e-30], device="cuda")[:, None, None]
        k *= torch.tensor([1e-30, 1e30], device="cuda")[:, None, None]
        v *= torch.tensor([1e-30, 1e30], device="cuda")[:, None, None]
    elif which == "tiles of v":
        v[:, :, :512] *= 1e-8
    else:
        {"q": q, "k": k, "v": v}[which][0, 0, 0, 0] = 1e-20
    got = plan.append(q, k, v, causal=False).double()
    if which == "heads":
        expected = naive(q, k, v, causal=False)[0]
        error = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert error.max() <= 2.0**-20
    assert got.isfinite().all()
    assert (plan.stats()["range"] > 0) == (which != "heads")


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("which", ["q", "k", "v"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_finite_where_attention_is(name: str, which: str, value: float) -> None:
    plan = split_plan(name)
    q, k, v = (t.cuda() for t in inputs(1, 2, 2, 300, 700, 64, 64))
    {"q": q, "k": k, "v": v}[which][0, 0, 1, 3] = value
    want = torch.softmax(q @ k.mT / 8, -1) @ v
    got = plan.append(q, k, v, causal=False)
    assert torch.equal(got.isfinite(), want.isfinite())


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("sm_scale", [0.0, 1e-30])
def test_queries_of_zero_and_scales_of_none(name: str, sm_scale: float) -> None:
    """A factor of zero on a logit that the mask made minus infinity would be NaN."""
    plan = split_plan(name)
    q, k, v = (t.cuda() for t in inputs(1, 2, 2, 300, 700, 64, 64))
    q[:, :, ::2] = 0
    k *= 1e-8
    for scale in (None, sm_scale):
        got = plan.append(q, k, v, causal=True, sm_scale=scale)
        expected = naive(q, k, v, causal=True, sm_scale=scale)[0]
        assert (got.double() - expected).norm() <= 2.0**-20 * expected.norm()


def room(gib: float) -> None:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gib * 2**30:
        pytest.skip(f"needs {gib} GiB of free memory on the GPU")


def test_keys_beyond_2_31_elements(plan: Plan) -> None:
    room(20)
    batch, kv_len = 130, 16384
    kv = torch.randn(2, batch, 8, kv_len, 128, dtype=torch.bfloat16, device="cuda")
    assert kv[0].numel() > 2**31
    q = torch.randn(batch, 8, 1, 128, dtype=torch.bfloat16, device="cuda")
    out = plan.decode(q, *kv, causal=True)
    for last in (0, batch - 1):
        few = slice(last, last + 1)
        right(out[few], naive(q[few], kv[0, few], kv[1, few], causal=True)[0])


def test_outputs_beyond_2_31_elements(plan: Plan) -> None:
    room(20)
    q_len = 2**31 // (128 * 128) + 100
    q = torch.randn(1, 128, q_len, 128, dtype=torch.bfloat16, device="cuda")
    k, v = torch.randn(2, 1, 8, 64, 128, dtype=torch.bfloat16, device="cuda")
    assert q.numel() > 2**31
    out = plan.prefill(q, k, v, causal=False)
    for rows in (slice(0, 50), slice(q_len - 50, q_len)):
        right(out[:, :, rows], naive(q[:, :, rows], k, v, causal=False)[0])
