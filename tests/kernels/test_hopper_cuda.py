"""Hopper's prefill kernel on a GPU: its counter, its tails, where results lie, and extremes.

A variant of the kernel takes some 2 s to compile, so tests share them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import kernel_cases
import pytest
import torch
from tolerance import tolerance
from torch import Tensor
from torch.nn.functional import one_hot

from autoprec import registry
from autoprec.kernels import prefill_hopper
from autoprec.kernels.interface import TORCH_DTYPES, Call, Target
from autoprec.kernels.reference import of_call
from autoprec.types import Config, Dtype

pytestmark = pytest.mark.cuda

ROW = registry.kernel("hopper-prefill")
H100 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)  # to name configurations
INPUTS = {"bf16": Dtype.BF16, "fp16": Dtype.FP16, "fp16x3": Dtype.FP32, "bf16p2": Dtype.BF16,
          "fp16p2": Dtype.FP16}  # fmt: skip
HEADS, MANY = (4, 2), 72  # MANY requests are two blocks of queries a program, and more
Q_LEN, KV_LEN = 193, 391  # one query and seven keys beyond whole blocks
DIAGONAL = KV_LEN - Q_LEN + 30  # the last 30 queries see all keys


def _configs(path: str, dim: int = 64) -> Sequence[Config]:
    case = {"lengths": (Q_LEN, KV_LEN), "heads": HEADS, "dims": (dim, dim), "input": INPUTS[path],
            "out": Dtype.FP32}  # fmt: skip
    workload = kernel_cases.workload(ROW, case)
    return [] if ROW.limits(path, workload) else ROW.configs(path, workload, H100)


def _out_dtype(path: str, number: int = 0) -> torch.dtype:
    """Fp32 and 16 bits in turn, so that every path, and bf16 and fp16 together, have both."""
    narrow = torch.float16 if INPUTS[path] is Dtype.FP16 else torch.bfloat16
    return torch.float32 if (number + path.startswith("fp16")) % 2 else narrow


def _inputs(path: str, dim: int = 64, batch: int = 2) -> list[Tensor]:
    kernel_cases.target(ROW, "cuda")  # skips the test where the kernel does not run
    draw = torch.Generator("cuda").manual_seed(0)
    shapes = [(batch, HEADS[i > 0], (Q_LEN, KV_LEN)[i > 0], dim) for i in range(3)]
    dtype = TORCH_DTYPES[INPUTS[path]]
    return [torch.randn(shape, generator=draw, device="cuda", dtype=dtype) for shape in shapes]


def _call(path: str, q: Tensor, k: Tensor, v: Tensor, **changes: Any) -> Call:
    """Results are NaN until they are written."""
    out = torch.full(q.shape, torch.nan, dtype=_out_dtype(path), device="cuda")
    lse = torch.full(q.shape[:3], torch.nan, device="cuda")
    usual = {"out": out, "lse": lse, "diagonal": DIAGONAL, "sm_scale": 0.125}
    return Call(q=q, k=k, v=v, **usual | changes)


def _many(kind: str) -> tuple[Call, str, int]:
    """A call of more blocks of queries than programs, its path and configuration."""
    path, number = ("fp16x3", -1) if kind == "converted" else ("bf16", 0)
    q, k, v = _inputs(path, batch=MANY)
    q[..., 0] = 2.0**-60  # lost to zero in fp16; each 64 queries are counted as often as taken
    one, none = (torch.full((1,), n, dtype=torch.int32, device="cuda") for n in (1, 0))
    negative: dict[str, Any] = {"sm_scale": -0.125, "only_if": one}
    kinds = {"full": negative | {"diagonal": None}, "converted": negative | {"lost": none}}
    return _call(path, q, k, v, **kinds.get(kind, {})), path, number


def _shared_out(call: Call, path: str, number: int = 0) -> tuple[int, int]:
    """How many programs and blocks of queries there are, those of spare heads among them."""
    launch = prefill_hopper._launches(call, path, _configs(path)[number])[-1]
    return launch.grid[0], math.prod(launch.arguments[n] for n in ("blocks", "section", "sections"))


def _copied(call: Call) -> Call:
    return replace(call, out=call.out.clone(), lse=call.lse_place.clone())


def _differs(call: Call, first: Call, path: str, number: int = 0, graph: Any = None) -> Tensor:
    """Run; whether a result is not bitwise that of the first, or not written. Nothing waits."""
    call.out.fill_(torch.nan)
    call.lse_place.fill_(torch.nan)
    ROW.run(call, path, _configs(path)[number]) if graph is None else graph.replay()
    return (call.out != first.out).any() | (call.lse_place != first.lse_place).any()


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every launch's counter; those of graphs, which zero theirs themselves, are not kept."""
    made: list[Tensor] = []
    kept = prefill_hopper._counter

    def counter(device: torch.device, *, used: bool) -> Tensor:
        it = kept(device, used=used)
        if used and not torch.cuda.is_current_stream_capturing():
            made.append(it)
        return it

    monkeypatch.setattr(prefill_hopper, "_counter", counter)
    return made


def _zero(counters: list[Tensor]) -> bool:
    return bool(counters) and not torch.stack(counters).any()


def _checked(call: Call, path: str, number: int = 0) -> Call:
    """The call, run, and near the oracle."""
    kernel_cases.check(ROW, kernel_cases.Guarded(call, []), path, _configs(path)[number])
    return call


@pytest.mark.parametrize("kind", ["causal", "full", "converted"])
def test_one_launch_after_the_other(kind: str, counters: list[Tensor]) -> None:
    call, path, number = _many(kind)
    programs, blocks = _shared_out(call, path, number)
    assert programs < blocks
    first, wrong = _copied(_checked(call, path, number)), []
    for _ in range(300):
        wrong.append(_differs(call, first, path, number))
    assert not torch.stack(wrong).any()
    assert len(counters) > 300
    if call.only_if is not None:
        call.only_if.zero_()
        _differs(call, first, path, number)
        assert (call.out.isnan().all() & call.lse_place.isnan().all()).item()
    assert _zero(counters)
    if call.lost is not None:
        assert int(call.lost) == 301 * MANY * HEADS[0] * math.ceil(Q_LEN / 64)


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "graph"])
def test_two_streams_at_once(captured: bool, counters: list[Tensor]) -> None:
    first, path, _ = _many("causal")
    calls = [_copied(_checked(first, path)), _copied(first)]
    streams, graphs = [torch.cuda.Stream(), torch.cuda.Stream()], [None, None]
    if captured:
        graphs[0] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[0]):
            ROW.run(calls[0], path, _configs(path)[0])
    torch.cuda.synchronize()
    wrong = []
    for number in range(100):
        for stream, call, graph in zip(streams, calls, graphs, strict=True):
            with torch.cuda.stream(stream):
                if number == 0:
                    torch.cuda._sleep(200_000_000)  # 0.1 s, in which launches queue up
                wrong.append(_differs(call, first, path, graph=graph))
    torch.cuda.synchronize()
    assert not torch.stack(wrong).any()
    assert _zero(counters)


def test_about_as_many_blocks_as_programs(
    monkeypatch: pytest.MonkeyPatch, counters: list[Tensor]
) -> None:
    call, path, _ = _many("causal")
    programs, blocks = _shared_out(_checked(call, path), path)
    rows = int(_configs(path)[0]["block_q"])
    for batch in (1, programs // HEADS[0], programs // HEADS[0] + 1):  # a block for each head
        few = _call(path, call.q[:batch, :, :rows], call.k[:batch], call.v[:batch])
        part = replace(call, out=call.out[:batch, :, :rows], lse=call.lse_place[:batch, :, :rows])
        assert not _differs(few, part, path)
    monkeypatch.setattr(prefill_hopper, "_L2_BYTES", 1 << 20)
    assert _shared_out(call, path)[1] > blocks  # the last section has heads to spare
    assert not _differs(_copied(call), call, path)
    assert _zero(counters)


@pytest.mark.parametrize(("path", "dim", "number"), [
    (path, dim, number)
    for path in ("bf16", "fp16", "fp16x3", "bf16p2")
    for dim in (64, 128, 256)
    for number in range(len(_configs(path, dim)))
])  # fmt: skip
def test_every_configuration(path: str, dim: int, number: int) -> None:
    q, k, v = _inputs(path, dim, MANY)
    guard = kernel_cases.guarded(
        q, k, v, out_dtype=_out_dtype(path, number), diagonal=DIAGONAL, sm_scale=dim**-0.5
    )
    kernel_cases.check(ROW, guard, path, _configs(path, dim)[number])


@pytest.mark.parametrize("path", ["bf16", "fp16x3"])
@pytest.mark.parametrize(("diagonal", "scale"), [(-70, 0.125), (-Q_LEN - 5, 0.125), (DIAGONAL, 0)])
def test_no_keys_and_no_scale(path: str, diagonal: int, scale: float) -> None:
    """Of rows that see no key the check asks for 0 and minus infinity exactly."""
    _checked(_call(path, *_inputs(path), diagonal=diagonal, sm_scale=scale), path)


@pytest.mark.parametrize("path", ["fp16", "fp16p2", "bf16"])
@pytest.mark.parametrize(("power", "scale"), [
    (12, 0.125), (20, 0.125), (24, 0.125), (26, 0.125), (24, 8.0), (26, 128.0)
])  # fmt: skip
def test_large_logits(path: str, power: int, scale: float) -> None:
    """Three digits of a key's number are three elements that are 1: its own query's logit is 3.

    Others are 2 at most; of heads 2 and 3 all are less by 5. That is in units of 0.36 * 2^power,
    or more with the scale, so the output is the own key's value, up to the rounding of its
    probability.
    """
    q, k, v = _inputs(path)
    own = 29 * torch.arange(Q_LEN, device="cuda") % KV_LEN
    for x, number in ((q, own), (k, torch.arange(KV_LEN, device="cuda"))):
        digits = number[:, None] // torch.tensor([1, 8, 64], device="cuda") % 8
        x.zero_()
        x[..., :24] = one_hot(digits, 8).flatten(1)
    q[:, 2:, :, 24], k[..., 24] = 5, -1
    q *= 2.0 ** (power // 2)
    k *= 2.0 ** (power // 2 + 1)
    call = _call(path, q, k, v, diagonal=KV_LEN, sm_scale=scale)
    ROW.run(call, path, _configs(path)[0])
    lse = of_call(call)[1]
    assert lse.max() > 2**power
    want = v.repeat_interleave(2, 1)[:, :, own].double()
    # P is rounded by up to 2^-11 in fp16, by 2^-8 in bf16, as is bf16's output; two parts by 2^-22
    unit = {"fp16p2": 2.0**-20, "fp16": 1.01 * 2.0**-11, "bf16": 1.01 * 2.0**-7}[path]
    torch.testing.assert_close(call.out.double(), want, rtol=unit, atol=1e-9)
    # the scale, the product and the sum are each rounded to 2^-24
    torch.testing.assert_close(call.lse_place.double(), lse, rtol=2.0**-21, atol=0.0)


@pytest.mark.parametrize("path", ["bf16", "fp16", "fp16x3"])
def test_infinite_keys_and_queries(path: str) -> None:
    q, k, v = _inputs(path, batch=3)
    k[0, 0, 0, 3] = math.inf  # all that query 0 sees
    k[0, 1, 130, 3] = -math.inf
    k[1, 0, 150, 3:5] = math.inf  # NaN where the query's two have unlike signs
    k[1, 1, :128, 3] = math.inf  # whole tiles of minus infinity for half of the later queries
    q[2, 0, 100, 7], q[2, 3, 20, 9] = math.inf, -math.inf
    call = _call(path, q, k, v, diagonal=0)
    ROW.run(call, path, _configs(path)[0])
    want, lse = of_call(call)
    assert torch.equal(call.out.isnan(), want.isnan())
    rows = ~want.isnan().any(3)
    # queries that see few keys are off by more than is typical of many
    most, eps = 4 * tolerance(path, head_dim=64, kv_len=KV_LEN), torch.finfo(call.out.dtype).eps
    torch.testing.assert_close(call.out.double()[rows], want[rows], rtol=eps, atol=most)
    torch.testing.assert_close(call.lse_place.double()[rows], lse[rows], rtol=0.0, atol=2.0**-12)


@pytest.mark.parametrize(("path", "layout", "dim"), [
    ("bf16", "bshd", 64), ("bf16", "bhsd", 80), ("bf16", "sliced", 64),
    ("fp16", "bshd", 64), ("fp16", "bhsd", 80),
])  # fmt: skip
def test_results_of_any_strides(path: str, layout: str, dim: int) -> None:
    """Transposed, with room after each row, or at addresses that divide by nothing."""
    plain = _checked(_call(path, *_inputs(path)), path)
    shape = 2, HEADS[0], Q_LEN, dim
    whole, buffer = kernel_cases.room(shape, layout, _out_dtype(path), "cuda", -77.0)
    call = replace(_copied(plain), out=whole[..., :64])
    guard = kernel_cases.Guarded(call, [(call.out, buffer, buffer.clone())])
    assert not _differs(call, plain, path)
    guard.assert_untouched()


@pytest.mark.parametrize("path", ["bf16", "fp16x3"])
def test_expanded_queries_and_unaligned_keys_and_values(path: str) -> None:
    q, k, v = _inputs(path)
    plain = _checked(_call(path, q[:1].repeat(2, 1, 1, 1), k, v), path)
    places = zip((q, k, v), ("expanded", "sliced", "sliced"), strict=True)
    apart = _call(path, *(kernel_cases.place(x, layout, "cuda") for x, layout in places))
    assert apart.q.stride(0) == 0 != apart.k.data_ptr() % 16
    assert not _differs(apart, plain, path)
