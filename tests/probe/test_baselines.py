import dataclasses
import re
import warnings
from typing import Any

import pytest
import torch
from fake_kernels import workload

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Target
from autoprec.kernels.reference import attention
from autoprec.probe import baselines
from autoprec.probe.baselines import BASELINES, conversion, prepare, scratch_bytes
from autoprec.probe.inputs import call_of, draw
from autoprec.types import Conversion, Dtype, Mask, Phase

CPU = torch.device("cpu")
CPU_TARGET = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
H100 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
(SDPA,) = BASELINES


def call_for(**changes: object) -> baselines.Call:
    it = workload(batch=2, **changes)
    return call_of(it, *draw(it, "gauss", 0, CPU))


def test_cpus_have_two_backends() -> None:
    refused = {path: SDPA.refusals(path, workload(), CPU_TARGET) for path in SDPA.paths}
    assert refused == {
        "sdpa-efficient": ["PyTorch has no sdpa-efficient on CPUs"],
        "sdpa-flash": [],
        "sdpa-cudnn": ["PyTorch has no sdpa-cudnn on CPUs"],
        "sdpa-math": [],
    }
    assert all(SDPA.refusals(path, workload(), H100) == [] for path in SDPA.paths)


def test_what_no_backend_can_is_refused() -> None:
    assert SDPA.refusals("fp32", workload(), H100) == ["torch-sdpa has no backend fp32"]
    assert SDPA.refusals("sdpa-math", workload(window=8), H100) == [
        "torch-sdpa has no sliding window"
    ]
    old = dataclasses.replace(H100, arch="sm_75")
    assert SDPA.device_refusals(old) == []


@pytest.mark.parametrize("path", ["sdpa-flash", "sdpa-math"])
@pytest.mark.parametrize(
    ("q_len", "kv_len", "diagonal"),
    [(20, 20, 0), (20, 50, 30), (1, 50, 49), (4, 50, 46), (20, 50, None), (20, 50, 0), (20, 8, -12),
     (20, 50, 10), (1, 50, 10)],
)  # fmt: skip
def test_outputs_are_those_of_the_oracle(
    path: str, q_len: int, kv_len: int, diagonal: int | None
) -> None:
    call = call_for(q_len=q_len, kv_len=kv_len)
    call = dataclasses.replace(call, diagonal=diagonal, sm_scale=0.3)
    expected, _ = attention(call.q, call.k, call.v, diagonal=diagonal, sm_scale=0.3)
    _, out = prepare(call, path)
    # fp32 with head_dim + keys < 100 terms: a wrong mask is off by 0.1 and more
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_band_of_a_prefill_is_run_as_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_for(q_len=20, kv_len=50)
    assert call.diagonal == 30
    expected, _ = attention(call.q, call.k, call.v, diagonal=30, sm_scale=call.sm_scale)
    shapes: list[torch.Size] = []
    bind = baselines._bind

    def listens(call: baselines.Call, path: str) -> Any:
        shapes.append(call.q.shape[2:3])
        return bind(call, path)

    monkeypatch.setattr(baselines, "_bind", listens)
    for fused in (False, True):
        monkeypatch.setattr(baselines, "_is_fused", lambda call, path, fused=fused: fused)
        run, out = prepare(call, "sdpa-math", of_prefill=True)
        assert (out.double() - expected).norm() < 1e-6 * expected.norm()
        run()
    # for more than a moment's work it is a band, whose mask is PyTorch's
    monkeypatch.setattr(baselines, "_QUICK_FLOPS", 2 * 4 * 50 * 50 * 64)
    monkeypatch.setattr(baselines, "_mask", lambda call, path: (None, False))
    prepare(call, "sdpa-math", of_prefill=True)
    assert shapes == [(20,), (50,), (20,)]


@pytest.mark.parametrize(
    ("diagonal", "keys"), [(None, 50), (30, 50), (45, 50), (29, 49), (0, 20), (-1, 50)]
)
def test_keys_that_no_query_sees_are_left_out(diagonal: int | None, keys: int) -> None:
    call = dataclasses.replace(call_for(q_len=20, kv_len=50), diagonal=diagonal)
    seen = baselines.without_unseen(call)
    assert (seen.k.shape[2], seen.v.shape[2]) == (keys, keys)
    expected, got = (
        attention(it.q, it.k, it.v, diagonal=diagonal, sm_scale=0.3)[0] for it in (call, seen)
    )
    torch.testing.assert_close(got, expected)


def test_the_output_has_the_calls_dtype() -> None:
    call = call_for(input_dtype=Dtype.BF16, out_dtype=Dtype.FP32)
    run, out = prepare(call, "sdpa-flash")
    assert out.dtype == torch.float32
    assert torch.equal(out, out.bfloat16().float())  # PyTorch rounded it to bf16 before
    assert torch.equal(run(), out)


def test_refusals_are_pytorchs_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedError) as error:
            prepare(call_for(head_dim=32, head_dim_v=16), "sdpa-flash")
    assert error.value.sentence == (
        "PyTorch refuses sdpa-flash: Flash attention requires q,k,v to have the same last "
        "dimension. Got Query.size(-1): 32, Key.size(-1): 32, Value.size(-1): 16 instead."
    )


def test_only_the_backends_own_reasons_are_quoted() -> None:
    messages = [
        "Memory efficient kernel not used because: (Triggered internally at a.cpp:1.)",
        "Memory Efficient attention has been runtime disabled. (Triggered internally at a.cpp:2.)",
        "Flash attention kernel not used because: (Triggered internally at a.cpp:3.)",
        "Expected query, key and value to all be of dtype: {Half, BFloat16}. (Triggered "
        "internally at a.cpp:4.)",
        "Expected query, key and value to all be of dtype: {Half, BFloat16}.",
        "CuDNN attention kernel not used because: (Triggered internally at a.cpp:5.)",
        "cuDNN attention has been runtime disabled.",
    ]
    error = RuntimeError("No available kernel. Aborting execution.\nmore")
    assert baselines._sentence("sdpa-flash", messages, error) == (
        "PyTorch refuses sdpa-flash: Expected query, key and value to all be of dtype: "
        "{Half, BFloat16}."
    )
    assert baselines._sentence("sdpa-math", messages, error) == (
        "PyTorch refuses sdpa-math: No available kernel. Aborting execution."
    )


def test_run_writes_the_calls_output() -> None:
    call = dataclasses.replace(call_for(), lse=None)
    SDPA.run(call, "sdpa-flash", {})
    expected, _ = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
    torch.testing.assert_close(call.out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Flash attention")
def test_run_refuses_in_a_sentence() -> None:
    with pytest.raises(UnsupportedError) as error:
        SDPA.run(call_for(), "sdpa-math", {})
    assert str(error.value) == (
        "sdpa-math gives no LSE. Try: return_lse=False, or a plan that chooses no baseline"
    )
    call = dataclasses.replace(call_for(head_dim=32, head_dim_v=16), lse=None)
    with pytest.raises(UnsupportedError, match="PyTorch refuses sdpa-flash: Flash attention req"):
        SDPA.run(call, "sdpa-flash", {})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_running_out_of_memory_is_no_refusal(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*arguments: object, **options: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(baselines.F, "scaled_dot_product_attention", out_of_memory)
    call = dataclasses.replace(call_for(kv_heads=4), lse=None)
    with pytest.raises(RuntimeError, match=re.escape(str(error))) as caught:
        prepare(call, "sdpa-math")
    assert caught.value is error
    with pytest.raises(RuntimeError, match=re.escape(str(error))) as caught:
        SDPA.run(call, "sdpa-math", {})
    assert caught.value is error


def test_flags_are_left_as_they_were() -> None:
    cuda = torch.backends.cuda
    before = (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled())
    prepare(call_for(), "sdpa-math")
    assert before == (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled())


def test_heads_are_repeated_where_a_backend_takes_no_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouped = workload(q_heads=4, kv_heads=2)
    assert conversion(grouped, "sdpa-flash", CPU) is Conversion.NONE
    call = call_for()
    _, expected = prepare(call, "sdpa-flash")
    monkeypatch.setattr(baselines, "_takes_groups", lambda path, device, dtype: False)
    assert conversion(grouped, "sdpa-flash", CPU) is Conversion.AMORTISED
    assert conversion(workload(q_heads=2, kv_heads=2), "sdpa-flash", CPU) is Conversion.NONE

    real = baselines.F.scaled_dot_product_attention
    seen: list[tuple[int, bool]] = []

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> object:
        seen.append((k.shape[1], bool(options["enable_gqa"])))
        return real(q, k, v, **options)

    monkeypatch.setattr(baselines.F, "scaled_dot_product_attention", watched)
    _, out = prepare(call, "sdpa-flash")
    assert seen == [(4, False)]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("accepts", "takes"), [("all", True), ("equal", False), ("none", True)])
def test_groups_are_found_by_trying(
    accepts: str, takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> None:
        if accepts == "none" or (accepts == "equal" and k.shape != q.shape):
            warnings.warn("not used because", stacklevel=1)
            raise RuntimeError("No available kernel.")

    baselines._takes_groups.cache_clear()
    monkeypatch.setattr(baselines.F, "scaled_dot_product_attention", backend)
    assert baselines._takes_groups("sdpa-flash", "cpu", torch.float32) is takes
    baselines._takes_groups.cache_clear()


def test_masks_of_fused_backends_are_not_written_out_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = call_for(phase=Phase.APPEND, q_len=4, kv_len=9)
    call = dataclasses.replace(call, q=call.q.to("meta"), k=call.k.to("meta"))
    assert type(baselines._mask(call, "sdpa-flash")[0]).__name__ == "CausalBias"
    assert type(baselines._mask(call, "sdpa-cudnn")[0]) is torch.Tensor
    # q_len > kv_len: torch's CausalBias gives NaN where a query sees no key
    wide = dataclasses.replace(call, q=call.k, k=call.q, diagonal=-5)
    assert type(baselines._mask(wide, "sdpa-flash")[0]) is torch.Tensor


def test_memory_is_estimated() -> None:
    it = workload(phase=Phase.PREFILL, mask=Mask.FULL, q_len=100, kv_len=100)
    kv_bytes = 4 * 2 * 100 * (32 + 32)
    assert it.kv_bytes == kv_bytes
    assert scratch_bytes(it, "sdpa-efficient", repeated=True) == 2 * kv_bytes
    assert scratch_bytes(it, "sdpa-flash", repeated=False) == 0
    assert scratch_bytes(it, "sdpa-math", repeated=False) == 12 * 4 * 100 * 100 + 4 * kv_bytes
