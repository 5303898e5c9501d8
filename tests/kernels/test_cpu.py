"""What is particular to the CPU kernels."""

import threading
from typing import Any

import kernel_cases
import made_up
import pytest
import torch

from autoprec.kernels import cpu, cpu_blocks, cpu_flash
from autoprec.kernels.interface import Call, Target
from autoprec.types import Dtype

_CPU = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
(_BLOCKED,), (_FLASH,) = cpu.KERNELS, cpu_flash.KERNELS


def _precision() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


@pytest.fixture
def bf16_products() -> Any:
    """A process that wants its fp32 products computed in bf16, where the CPU can."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    yield
    matmul.fp32_precision = before


def test_fp32_products_stay_fp32_and_the_setting_is_restored(bf16_products: None) -> None:
    with cpu_blocks.fp32_products():
        assert _precision() == "ieee"
        with cpu_blocks.fp32_products():
            assert _precision() == "ieee"
        assert _precision() == "ieee"
    assert _precision() == "bf16"


def test_threads_that_overlap_keep_products_fp32_and_restore_the_setting(
    bf16_products: None,
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with cpu_blocks.fp32_products():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with cpu_blocks.fp32_products():
        leave.set()
        thread.join(10)
        assert _precision() == "ieee"
    assert _precision() == "bf16"


@pytest.mark.parametrize("row", [_BLOCKED, _FLASH], ids=lambda row: row.name)
def test_a_kernel_runs_inside_it(
    row: Any, bf16_products: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    exp = torch.Tensor.copy_

    def copy_(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(_precision())
        return exp(self, other)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    q = torch.randn(1, 1, 4, 16)
    guard = kernel_cases.guarded(q, q, q, out_dtype=torch.float32)
    seen.clear()
    row.run(guard.call, "fp32", {"block_q": 4, "block_kv": 4})
    assert set(seen) == {"ieee"}
    assert _precision() == "bf16"


def test_defaults_of_the_process_do_not_matter() -> None:
    q = torch.randn(1, 2, 20, 16)
    guards = [kernel_cases.guarded(q, q, q, out_dtype=torch.float32, diagonal=-1) for _ in range(4)]
    _BLOCKED.run(guards[0].call, "fp16", {"block_q": 16, "block_kv": 16})
    _FLASH.run(guards[2].call, "fp32", {})
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        _BLOCKED.run(guards[1].call, "fp16", {"block_q": 16, "block_kv": 16})
        _FLASH.run(guards[3].call, "fp32", {})
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(guards[0].call.out, guards[1].call.out)
    assert torch.equal(guards[2].call.out, guards[3].call.out)


@pytest.mark.parametrize("block_q", [1, 7, 64])
@pytest.mark.parametrize("block_kv", [1, 16, 1024])
@pytest.mark.parametrize("step", [1, 4096, 1 << 21])
def test_any_blocks_and_steps(
    block_q: int, block_kv: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_STEP_ELEMENTS", step)
    case = {
        "path": "bf16", "input": Dtype.FP32, "lengths": (20, 33), "heads": (6, 2),
        "dims": (16, 24), "layout": "bhsd",
    }  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=3)
    guard = kernel_cases.guarded(q, k, v, out_dtype=torch.float32, diagonal=3)
    config = {"block_q": block_q, "block_kv": block_kv}
    kernel_cases.check(_BLOCKED, guard, "bf16", config)


@pytest.mark.parametrize("path", ["bf16", "fp16"])
def test_rounding_is_torchs(path: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[path]
    x = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    rounding = cpu_blocks.Rounding(path, torch.float32, cpu_blocks.Scratch())
    x[..., 0, 0] = 3.0  # of fp16's own size: the scale is a power of two, and changes nothing
    assert torch.equal(rounding.operand(x, "x", (-2, -1)), x.to(dtype).float())


def test_tf32_rounds_to_nearest_and_keeps_nan_and_infinity() -> None:
    x = torch.tensor([1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 1 + 3 * 2**-11, torch.inf, torch.nan, 0])
    all_ones = torch.tensor([-1], dtype=torch.int32).view(torch.float32)
    rounding = cpu_blocks.Rounding("tf32", torch.float32, cpu_blocks.Scratch())
    got = rounding.operand(torch.cat([x, all_ones])[None], "x", (-1,))[0]
    want = [1 + 2**-10, 1.0, -1 - 2**-10, 1 + 2**-9, torch.inf]
    assert got[:5].tolist() == want
    assert got[5].isnan()
    assert got[6] == 0
    assert got[7].isnan()


def test_fp16_scales_heed_no_infinity_and_no_nan() -> None:
    x = torch.tensor([[[1e30, 2e25, torch.inf, torch.nan, -torch.inf]]])
    rounding = cpu_blocks.Rounding("fp16", torch.float32, cpu_blocks.Scratch())
    got = rounding.operand(x, "x", (-2, -1))[0, 0]
    assert got[:2].tolist() == pytest.approx([1e30, 2e25], rel=2.0**-11)
    assert got[2] == torch.inf
    assert got[3].isnan()
    assert got[4] == -torch.inf


def test_flash_says_what_it_does_not_do() -> None:
    def refusals(path: str, **changes: Any) -> list[str]:
        return _FLASH.refusals(path, made_up.workload(**changes), _CPU)

    assert refusals("fp32") == []
    assert refusals("fp32", input_dtype="bf16") == []
    assert refusals("bf16", out_dtype="bf16") == []
    assert refusals("fp16", input_dtype="fp16") == []
    assert refusals("fp32", head_dim_v=64) == ["cpu-flash takes head_dim_v = head_dim only"]
    assert refusals("bf16") == ["cpu-flash rounds its bf16 output, which fp32 is not"]
    assert refusals("fp16", out_dtype="fp16") == [
        "cpu-flash has no scales to bring fp32 inputs into fp16"
    ]
    assert refusals("tf32") == ["cpu-flash does not run the path tf32"]


def test_configurations_suit_few_rows_and_many() -> None:
    few = _BLOCKED.configs("fp32", made_up.workload(phase="decode"), _CPU)
    many = _BLOCKED.configs("fp32", made_up.workload(), _CPU)
    assert few[0] == {"block_q": 16, "block_kv": 512}
    assert many[0] == {"block_q": 64, "block_kv": 256}


def test_a_call_takes_no_memory_the_size_of_its_logits() -> None:
    """Long contexts fit: a decode call of 2^20 keys allocates next to nothing."""
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1 << 20, 8)
    call = Call(q=q, k=k, v=k, out=torch.empty(q.shape), lse=None, diagonal=None, sm_scale=0.1)
    taken = []
    empty = torch.empty

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is empty:
                taken.append(args[0])
            return func(*args, **(kwargs or {}))

    with Watched():
        _BLOCKED.run(call, "bf16", {"block_q": 16, "block_kv": 512})
    assert 0 < sum(taken) < 100_000
