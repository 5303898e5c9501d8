"""Other libraries' rows, against stand-ins that compute what those libraries document."""

import math
import sys
import types
from typing import Any

import made_up
import pytest
import torch

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call, Requests, Target
from autoprec.probe import peer_flashinfer, peers
from autoprec.probe.accuracy import Oracle
from autoprec.probe.baselines import Baseline, prepare, without_unseen
from autoprec.probe.inputs import call_of, draw, end_to_end, in_a_row, in_layout
from autoprec.probe.request_oracle import RequestOracle
from autoprec.types import Layout, Workload

CPU = torch.device("cpu")
GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
ROWS = {row.name: row for row in peers.PEERS}


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
) -> torch.Tensor:
    """Attention of ``[batch, tokens, heads, head_dim]``, the mask aligned bottom-right."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, 2).double() for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k) * scale
    if causal:
        q_len, kv_len = scores.shape[2:]
        hidden = torch.ones(q_len, kv_len, dtype=torch.bool).triu(kv_len - q_len + 1)
        scores = scores.masked_fill(hidden, -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).to(q.dtype)


def flash_attn() -> dict[str, Any]:
    def func(q: Any, k: Any, v: Any, *, softmax_scale: float, causal: bool) -> torch.Tensor:
        return attention(q, k, v, softmax_scale, causal)

    def with_kvcache(
        q: Any, k: Any, v: Any, *, cache_seqlens: Any, softmax_scale: float, causal: bool
    ) -> torch.Tensor:
        assert cache_seqlens.dtype == torch.int32
        assert cache_seqlens.tolist() == [k.shape[1]] * len(k)
        return attention(q, k, v, softmax_scale, causal)

    return {"flash_attn": {"flash_attn_func": func, "flash_attn_with_kvcache": with_kvcache}}


def xformers() -> dict[str, Any]:
    class LowerTriangularFromBottomRightMask:
        pass

    def forward(q: Any, k: Any, v: Any, *, attn_bias: Any, scale: float) -> torch.Tensor:
        if q.ndim == 5:
            assert k.shape == (*k.shape[:2], *q.shape[2:])
            out = forward(*(x.flatten(2, 3) for x in (q, k, v)), attn_bias=attn_bias, scale=scale)
            return out.view(q.shape)
        assert q.shape[2] == k.shape[2]
        return attention(q, k, v, scale, attn_bias is not None)

    bias = {"LowerTriangularFromBottomRightMask": LowerTriangularFromBottomRightMask}
    return {"xformers": {}, "xformers.ops": {"memory_efficient_attention_forward": forward},
            "xformers.ops.fmha": {}, "xformers.ops.fmha.attn_bias": bias}  # fmt: skip


def flashinfer() -> dict[str, Any]:
    class Ragged:
        def __init__(self, workspace: torch.Tensor, layout: str, *, backend: str) -> None:
            assert (workspace.dtype, layout) == (torch.uint8, "NHD")
            used.append(backend)

        def plan(
            self,
            qo: Any,
            kv: Any,
            q_heads: int,
            kv_heads: int,
            dim: int,
            *,
            head_dim_vo: int,
            causal: bool,
            sm_scale: float,
            q_data_type: Any,
            kv_data_type: Any,
        ) -> None:
            assert qo.dtype == kv.dtype == torch.int32
            self.qo, self.kv, self.causal, self.scale = qo.tolist(), kv.tolist(), causal, sm_scale
            self.shape = (q_heads, kv_heads, dim, head_dim_vo)

        def run(self, q: Any, k: Any, v: Any) -> torch.Tensor:
            assert (q.shape[1], k.shape[1], q.shape[2], v.shape[2]) == self.shape
            parts = [
                attention(q[None, a:b], k[None, c:d], v[None, c:d], self.scale, self.causal)[0]
                for a, b, c, d in zip(self.qo, self.qo[1:], self.kv, self.kv[1:], strict=False)
            ]
            return torch.cat(parts)

    class Paged:
        """What the wrappers of pages have in common: K and V of each request."""

        def __init__(self, workspace: torch.Tensor, layout: str) -> None:
            assert workspace.dtype == torch.uint8
            self.layout = layout

        def take(
            self, indptr: Any, indices: Any, last: Any, page: int, options: dict[str, Any]
        ) -> None:
            assert indptr.dtype == indices.dtype == last.dtype == torch.int32
            assert (indptr[0], indptr[-1]) == (0, len(indices))
            assert options.pop("q_data_type") == options.pop("kv_data_type")
            self.tables = (indptr.tolist(), indices.tolist(), last.tolist(), page)
            self.scale = options.pop("sm_scale")

        def requests(self, cache: tuple[torch.Tensor, torch.Tensor]) -> Any:
            memory.append(tuple(x.data_ptr() for x in cache))
            if self.layout == "HND":
                cache = tuple(x.transpose(1, 2) for x in cache)
            indptr, indices, last, page = self.tables
            for i, tail in enumerate(last):
                pages = indices[indptr[i] : indptr[i + 1]]
                tokens = (len(pages) - 1) * page + tail
                yield (x[pages].flatten(0, 1)[None, :tokens] for x in cache)

    class PagedDecode(Paged):
        def __init__(self, workspace: Any, layout: str, *, use_tensor_cores: bool) -> None:
            super().__init__(workspace, layout)
            used.append("fa2" if use_tensor_cores else "decode")

        def plan(
            self, indptr: Any, indices: Any, last: Any, q_heads: int, kv_heads: int, dim: int,
            page: int, **options: Any,
        ) -> None:  # fmt: skip
            self.take(indptr, indices, last, page, options)
            assert not options

        def run(self, q: Any, cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            outs = [
                attention(row[None, None], k, v, self.scale, False)[0, 0]
                for row, (k, v) in zip(q, self.requests(cache), strict=True)
            ]
            return torch.stack(outs)

    class PagedPrefill(Paged):
        def __init__(self, workspace: Any, layout: str, *, backend: str) -> None:
            super().__init__(workspace, layout)
            used.append(backend)

        def plan(
            self, qo: Any, indptr: Any, indices: Any, last: Any, q_heads: int, kv_heads: int,
            dim: int, page: int, *, head_dim_vo: int, causal: bool, **options: Any,
        ) -> None:  # fmt: skip
            self.take(indptr, indices, last, page, options)
            assert not options
            self.qo, self.causal = qo.tolist(), causal

        def run(self, q: Any, cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            parts = [
                attention(q[None, a:b], k, v, self.scale, self.causal)[0]
                for a, b, (k, v) in zip(self.qo, self.qo[1:], self.requests(cache), strict=False)
            ]
            return torch.cat(parts)

    memory: list[tuple[int, ...]] = []
    used: list[str] = []
    return {"flashinfer": {"BatchPrefillWithRaggedKVCacheWrapper": Ragged,
                           "BatchPrefillWithPagedKVCacheWrapper": PagedPrefill,
                           "BatchDecodeWithPagedKVCacheWrapper": PagedDecode,
                           "used": used, "memory": memory}}  # fmt: skip


STAND_INS = {
    "flash-attn": flash_attn,
    "xformers": xformers,
    "flashinfer-fa2": flashinfer,
    "flashinfer-fa3": flashinfer,
    "flashinfer-decode": flashinfer,
}


@pytest.fixture(params=STAND_INS)
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Baseline:
    for name, contents in STAND_INS[request.param]().items():
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return ROWS[request.param]


def drawn(it: Workload) -> Call:
    return call_of(it, *draw(it, "gauss", 0, CPU))


@pytest.mark.parametrize(
    "sizes",
    [
        {"kv_len": 40},
        {"kv_len": 40, "mask": "full"},
        {"kv_len": 40, "batch": 3, "q_heads": 4, "kv_heads": 4},
        {"phase": "append", "q_len": 17, "kv_len": 50, "batch": 2},
        {"phase": "append", "q_len": 17, "kv_len": 50, "out_dtype": "fp32"},
        {"phase": "decode", "kv_len": 50, "batch": 3},
        {"phase": "decode", "kv_len": 48, "q_heads": 2, "kv_heads": 1},
        {"phase": "decode", "q_len": 3, "kv_len": 50, "batch": 2},
    ],
    ids=str,
)
def test_what_is_bound_is_the_call(row: Baseline, sizes: dict[str, Any]) -> None:
    it = made_up.workload(
        **{"q_heads": 8, "kv_heads": 2, "head_dim": 64, "input_dtype": "bf16"} | sizes
    )
    others = {"flashinfer-fa3": it.phase == "decode", "flashinfer-decode": it.phase != "decode"}
    if it.q_len > 1:
        others["flashinfer-decode"] = True
    refused = others.get(row.name, False)
    assert bool(row.refusals(row.name, it, GPU)) == refused
    if refused:
        return
    call = drawn(it)
    run, out = prepare(call, row.name, row)
    assert (out.shape, out.dtype) == (call.out.shape, call.out.dtype)
    oracle = Oracle(call, "gauss", rows=64, groups=16, seed=0)
    assert oracle.errors(out, None)["rel_l2"] < 4e-3  # one rounding of the output to bf16
    assert torch.equal(run(), out)
    row.run(Call(**{**vars(call), "lse": None}), row.name, {})
    assert torch.equal(call.out, out)
    if row.library == "flashinfer-python":
        assert set(sys.modules["flashinfer"].used) == {row.name.removeprefix("flashinfer-")}


PAGED = {"layout": "paged", "page_size": 16}


@pytest.mark.parametrize(
    "sizes",
    [
        {"phase": "decode", "kv_len": 50, "batch": 3} | PAGED,
        {"phase": "decode", "kv_len": 48, "batch": 2, "out_dtype": "fp32"} | PAGED,
        {"phase": "decode", "kv_len": 9, "batch": 2} | PAGED | {"page_size": 1},
        {"phase": "decode", "q_len": 3, "kv_len": 50, "batch": 2} | PAGED,
        {"phase": "append", "q_len": 17, "kv_len": 50, "batch": 2} | PAGED,
        {"kv_len": 40, "mask": "full"} | PAGED,
        {"phase": "append", "q_len": 17, "kv_len": 50, "batch": 2, "layout": "ragged"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [name for name in STAND_INS if name.startswith("flashinfer")])
def test_flashinfer_reads_the_pages_and_lengths_of_the_call(
    name: str, sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = made_up.workload(
        **{"q_heads": 4, "kv_heads": 2, "head_dim": 64, "input_dtype": "bf16"}
        | sizes
        | {"layout": Layout(sizes["layout"])}
    )
    if ROWS[name].refusals(name, it, GPU):
        return
    library = types.ModuleType("flashinfer")
    library.__dict__.update(flashinfer()["flashinfer"])
    monkeypatch.setitem(sys.modules, "flashinfer", library)
    plain = drawn(it)
    call = in_layout(it, plain)
    _, out = prepare(without_unseen(call), name, ROWS[name])
    assert (out.shape, out.dtype) == (call.out.shape, call.out.dtype)
    oracle = Oracle(plain, "gauss", rows=64, groups=16, seed=0)
    assert oracle.errors(out, None)["rel_l2"] < 4e-3
    own = it.layout is Layout.PAGED  # no copy of the pages
    assert library.memory == [(call.k.data_ptr(), call.v.data_ptr())] * own


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize("name", ["flashinfer-fa2", "flashinfer-fa3"])
def test_flashinfer_takes_prompts_of_unequal_lengths(
    name: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = made_up.workload(
        batch=3, kv_len=300, q_heads=4, kv_heads=2, head_dim=64, input_dtype="bf16", mask=mask,
        layout=Layout.RAGGED,
    )  # fmt: skip
    assert ROWS[name].refusals(name, it, GPU) == []
    library = types.ModuleType("flashinfer")
    library.__dict__.update(flashinfer()["flashinfer"])
    monkeypatch.setitem(sys.modules, "flashinfer", library)
    call = end_to_end(it, drawn(in_a_row(it)))
    run, out = prepare(without_unseen(call), name, ROWS[name])
    assert out.shape == call.out.shape == (1, 4, sum(it.lengths), 64)
    oracle = RequestOracle(call, "gauss", rows=64, groups=16, seed=0)
    assert oracle.errors(out, None)["rel_l2"] < 4e-3
    assert torch.equal(run(), out)


def test_a_table_with_room_between_requests_is_taken_without() -> None:
    requests = Requests(
        kv_lens=torch.tensor([5, 0, 4], dtype=torch.int32),
        kv_starts=torch.tensor([3, 0, 7], dtype=torch.int32),
        pages=torch.tensor([90, 91, 92, 8, 2, 93, 94, 6], dtype=torch.int32),
        max_q_len=1,
        max_kv_len=5,
    )
    starts, numbers, last = peer_flashinfer._table(requests, 4)
    assert (starts.tolist(), numbers.tolist(), last.tolist()) == (
        [0, 2, 2, 3],
        [8, 2, 6],
        [1, 0, 4],
    )


def test_a_plan_that_wants_an_lse_is_told(row: Baseline) -> None:
    it = made_up.workload(kv_len=8, q_heads=2, kv_heads=1, head_dim=64, input_dtype="bf16")
    with pytest.raises(UnsupportedError, match="gives no LSE here"):
        row.run(drawn(it), row.name, {})


def test_another_diagonal_is_refused(row: Baseline) -> None:
    if row.name == "flashinfer-decode":
        return  # of one token, which sees all keys
    it = made_up.workload(phase="append", q_len=20, kv_len=40, q_heads=2, kv_heads=1, head_dim=64,
                          input_dtype="bf16")  # fmt: skip
    upper_left = Call(**{**vars(drawn(it)), "diagonal": 0})
    with pytest.raises(UnsupportedError, match="has no mask with the diagonal 0"):
        prepare(upper_left, row.name, row)


def test_what_they_do_not_take_they_say() -> None:
    fp32 = made_up.workload(head_dim=72)
    assert ROWS["flash-attn"].refusals("flash-attn", fp32, GPU) == [
        "flash-attn takes bf16 or fp16, not fp32"
    ]
    assert ROWS["flashinfer-fa2"].refusals("flashinfer-fa2", fp32, GPU) == [
        "flashinfer-fa2 takes bf16 or fp16, not fp32",
        "flashinfer takes head dims 64, 128, 256 and 192/128, not 72",
    ]
    assert ROWS["xformers"].refusals("xformers", fp32, GPU) == []
    cpu = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
    assert ROWS["xformers"].refusals("xformers", fp32, cpu) == ["xformers needs an NVIDIA GPU"]
    mla = made_up.workload(head_dim=192, head_dim_v=128, input_dtype="bf16")
    assert ROWS["flash-attn"].refusals("flash-attn", mla, GPU) == [
        "flash-attn takes values as wide as keys, not 192/128"
    ]
    assert ROWS["flashinfer-fa3"].refusals("flashinfer-fa3", mla, GPU) == []
    paged = made_up.workload(input_dtype="bf16", layout=Layout.PAGED, page_size=16, sinks=True)
    assert ROWS["flash-attn"].refusals("flash-attn", paged, GPU) == [
        "flash-attn is called here with contiguous K and V, not paged",
        "flash-attn is called here without a window, a soft cap and sinks",
    ]
    ragged = made_up.workload(phase="decode", input_dtype="bf16", layout=Layout.RAGGED)
    assert ROWS["flashinfer-fa2"].refusals("flashinfer-fa2", ragged, GPU) == [
        "flashinfer's decode takes pages, not ragged K and V"
    ]
    several = made_up.workload(phase="decode", q_len=2, input_dtype="bf16")
    assert ROWS["flashinfer-decode"].refusals("flashinfer-decode", several, GPU) == [
        "flashinfer's decode takes one token a request"
    ]


def test_what_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    peers.version.cache_clear()
    try:
        assert peers.installed() == ()
        assert peers.absent(ROWS["flashinfer-fa2"]) == "flashinfer-python is not installed"
        assert peers.versions(peers.PEERS) == {
            "flashinfer-python": "not installed",
            "flash-attn": "not installed",
            "xformers": "not installed",
        }
    finally:
        peers.version.cache_clear()
