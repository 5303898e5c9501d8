"""Small calls of every family of kernels, for ``sanitize_kernels.py`` to run under a tool.

Sizes are odd, so that tiles reach beyond what they are of. Inputs end where their memory ends, and
fill it: what reads beyond them reads what is nobody's.

    python -P .ci/kernel_families.py FAMILY [--checked]      on a GPU
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))  # python -P leaves it out
import kernel_cases  # noqa: E402
import request_cases  # noqa: E402

from autoprec import registry  # noqa: E402
from autoprec.kernels import dots, guard, kv_cache, states  # noqa: E402
from autoprec.kernels.interface import (  # noqa: E402
    TORCH_DTYPES,
    Call,
    Kernel,
    Requests,
    run_launches,
)
from autoprec.types import Config, Dtype, Phase, Storage  # noqa: E402

_HEADS = (6, 2)


def _numbers(device: str, *shape: int, dtype: Dtype = Dtype.FP32) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw).to(device, TORCH_DTYPES[dtype])


def _ints(device: str, *numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def _config(row: Kernel, path: str, call: Call, dtype: Dtype) -> Config:
    case = {"lengths": (call.max_q_len, call.max_kv_len), "heads": _HEADS, "input": dtype,
            "out": Dtype.FP32, "dims": (call.q.shape[3], call.v.shape[3])}  # fmt: skip
    target = kernel_cases.target(row, "cuda" if call.q.is_cuda else "cpu")
    config = row.configs(path, kernel_cases.workload(row, case), target)[0]
    return {**config, "split": 32} if "split" in config else config


def _plain(
    name: str, path: str, dtype: Dtype, lengths: tuple[int, int], dims: tuple[int, int],
    device: str, checked: bool, **changes: Any,
) -> None:  # fmt: skip
    """A call on plain tensors; changes are of the Call."""
    row = registry.kernel(name)
    (q_len, kv_len), (heads, kv_heads), (dim, dim_v) = lengths, _HEADS, dims
    q = _numbers(device, 2, heads, q_len, dim, dtype=dtype)
    k = _numbers(device, 2, kv_heads, kv_len, dim, dtype=dtype)
    v = _numbers(device, 2, kv_heads, kv_len, dim_v, dtype=dtype)
    given = kernel_cases.guarded(q, k, v, out_dtype=torch.float32, diagonal=kv_len - q_len)
    call = replace(given.call, **changes)
    config = _config(row, path, call, dtype)
    row.run(call, path, config)
    if checked and (call.only_if is None or call.only_if):
        given.assert_untouched()
        if call.mask is None:  # bounds know of none
            request_cases.compare(call, row, path)


def _requests(name: str, storage: Storage, memory: str, device: str, checked: bool) -> None:
    """A call on requests of unequal lengths, with all that it may ask for."""
    row = registry.kernel(name)
    decodes = row.phases == (Phase.DECODE,)
    case = {
        "path": "fp16x3" if storage is Storage.PLANES else "bf16",
        "input": Dtype.FP32 if storage is Storage.PLANES else Dtype.BF16,
        "storage": storage if storage is Storage.PLANES else None, "out": Dtype.FP32,
        "memory": memory, "order": "NHD", "q": "ragged", "heads": _HEADS, "dims": (24, 40),
        "mask": "causal", "window": 20, "cap": 1.5, "sinks": True, "slack": 0,
        "lengths": ((3, 1, 2), (65, 0, 140)) if decodes else ((17, 40, 1), (40, 40, 9)),
    }  # fmt: skip
    lengths = request_cases.lengths_of(case)
    given = request_cases.guarded(case, lengths, device)
    row.run(given.call, case["path"], _config(row, case["path"], given.call, case["input"]))
    if checked:
        given.assert_untouched()
        request_cases.compare(given.call, row, case["path"])


def prefill(device: str, checked: bool) -> None:
    """Prompts by the kernel for all chips, and what converts keys and values for it."""
    name, lost = "triton-prefill", _ints(device, 0)
    shown = (_numbers(device, 2, 6, 17, 33) > -1).contiguous()
    _plain(name, "fp16x3", Dtype.FP32, (65, 130), (24, 40), device, checked, lost=lost)
    _plain(name, "fp32", Dtype.FP32, (33, 17), (64, 64), device, checked)
    _plain(name, "bf16", Dtype.BF16, (17, 33), (80, 80), device, checked, mask=shown)
    _requests(name, Storage.PLANES, "page3", device, checked)
    _requests(name, Storage.BF16, "ragged", device, checked)


def decode(device: str, checked: bool) -> None:
    """The newest tokens, in splits that are merged and in one."""
    name, lost = "triton-decode", _ints(device, 0)
    _plain(name, "fp16x3", Dtype.FP32, (1, 130), (24, 40), device, checked, lost=lost)
    _plain(name, "bf16", Dtype.BF16, (5, 17), (64, 64), device, checked)
    _plain(name, "tf32x3", Dtype.FP32, (3, 65), (80, 80), device, checked)
    _requests(name, Storage.PLANES, "page3", device, checked)
    _requests(name, Storage.BF16, "lengths", device, checked)


def hopper(device: str, checked: bool) -> None:
    """Prompts by Hopper's kernel: with planes, straight from 16 bits, and from caches."""
    name, lost = "hopper-prefill", _ints(device, 0)
    _plain(name, "fp16x3", Dtype.FP32, (129, 200), (24, 40), device, checked, lost=lost)
    _plain(name, "bf16", Dtype.FP32, (65, 300), (128, 128), device, checked, diagonal=None)
    _plain(name, "bf16p2", Dtype.BF16, (200, 129), (64, 64), device, checked)
    _plain(name, "fp16", Dtype.FP16, (33, 65), (256, 256), device, checked)
    _requests(name, Storage.PLANES, "page3", device, checked)
    _requests(name, Storage.BF16, "page16", device, checked)
    _requests(name, Storage.BF16, "ragged", device, checked)


def append(device: str, checked: bool) -> None:
    """New tokens into caches of two planes and of 16 bits, in pages and one after another."""
    lens, starts, lost = _ints(device, 5, 0, 37), _ints(device, 0, 2, 2, 19), _ints(device, 0)
    k, v = _numbers(device, 1, 2, 19, 24), _numbers(device, 1, 2, 19, 40)
    pages = Requests(
        kv_lens=lens, kv_starts=_ints(device, 0, 1, 1), pages=_ints(device, 3, 5, 0, 4, 1, 2),
        q_starts=starts, max_q_len=17, max_kv_len=37,
    )  # fmt: skip
    halves = kv_cache.new_halves((6, 2, 8, 24), (6, 2, 8, 40), k.device)
    ragged = replace(pages, kv_starts=_ints(device, 0, 5, 5), pages=None)
    plain = [torch.empty(1, 2, 42, d, dtype=torch.bfloat16, device=device) for d in (24, 40)]
    run_launches([
        kv_cache.append(k, v, halves.k[0], halves.v[0], pages, halves=halves, lost=lost),
        kv_cache.append(k, v, *plain, ragged, lost=lost),
    ])  # fmt: skip
    if checked:  # the first two tokens of the first request's five
        assert torch.equal(plain[0][0, :, 3:5], k[0, :, :2].bfloat16())
        held = halves.k[:, 3, :, 3:5].float().sum(0) * halves.inverse[0, 3, :, 3:5, None]
        torch.testing.assert_close(held, k[0, :, :2], rtol=2.0**-21, atol=0)


def guards(device: str, checked: bool) -> None:
    """What decides that a call runs again, calls that are told to and not to, and merges."""
    totals = _ints(device, 0, 0)
    slot, ring = guard.slot(4, totals.device), guard.verdicts(totals.device)
    v = _numbers(device, 2, 2, 130, 40, dtype=Dtype.FP16)
    run_launches([guard.spread(v, slot), guard.settle(slot, totals, 4, 1), guard.collect(ring)])
    for turn in (0, 1):
        told = _ints(device, turn)
        _plain("triton-prefill", "bf16x3", Dtype.FP32, (17, 65), (24, 40), device, checked,
               only_if=told)  # fmt: skip
        _plain("triton-decode", "bf16x3", Dtype.FP32, (1, 65), (24, 40), device, checked,
               only_if=told)  # fmt: skip
    outs, lses = _numbers(device, 7, 3, 5, 40), _numbers(device, 7, 3, 5)
    out, lse = torch.empty_like(outs[:, 0]), torch.empty_like(lses[:, 0])
    run_launches(states.merge_many(outs, lses, out, lse))
    a, b = (x.contiguous() for x in outs.unbind(1)[:2])
    s, t = (x.contiguous() for x in lses.unbind(1)[:2])
    run_launches(states.merge_two(a, s, b, t, a, s))
    tiles = [_numbers(device, 4, *shape) for shape in ((64, 32), (32, 16), (64, 16), (64, 16))]
    run_launches([dots.product(*tiles, operand) for operand in ("fp32", "bf16")])
    if checked:
        assert totals.tolist() == [0, 0]
        assert all(x.isfinite().all() for x in (out, lse, a, s, tiles[3]))


@triton.jit
def _beyond(X, n):
    tl.store(X + n + tl.arange(0, 32), 1.0)


@triton.jit
def _race(X):
    i = tl.arange(0, 128)
    total = tl.sum(tl.load(X + i), 0).to(tl.int32)  # which takes shared memory
    mine = tl.inline_asm_elementwise(
        "st.shared.u32 [global_smem], $1; ld.shared.u32 $0, [global_smem];",
        "=r,r", [i + total], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    tl.store(X + i, mine)


def beyond(device: str, checked: bool) -> None:
    """Write beyond the end of memory: what a tool must find."""
    _beyond[(1,)](_numbers(device, 128), 1 << 20)


def race(device: str, checked: bool) -> None:
    """Have threads write to one place of shared memory: what a tool must find."""
    _race[(1,)](_numbers(device, 128), num_warps=4)


FAMILIES: dict[str, Callable[[str, bool], None]] = {
    "prefill": prefill, "decode": decode, "hopper": hopper, "append": append, "guards": guards,
}  # fmt: skip
PLANTED: dict[str, Callable[[str, bool], None]] = {"beyond": beyond, "race": race}


def main() -> None:
    """Run a family, and say so when the device has."""
    name, *options = sys.argv[1:]
    (FAMILIES | PLANTED)[name]("cuda", "--checked" in options)
    torch.cuda.synchronize()
    print(f"{name} has run")


if __name__ == "__main__":
    main()
