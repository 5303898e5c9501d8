"""Cases of attention for kernel tests: tensors of every layout in poisoned memory, and their check.

Every tensor is a view into a larger buffer: NaN lies around (and between) the elements of q, k and
v, so that what leaks in shows; around those of out and lse lies a number that must still be there
after the call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import bounds
import pairwise
import pytest
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, Target
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Mask, Phase, Workload

LAYOUTS = ("bhsd", "bshd", "strided", "columns", "sliced", "expanded")
_MARGIN = 64  # elements around a buffer's tensor
_UNTOUCHED = -77.0

_DIMS = (
    (8, 8), (16, 16), (24, 24), (64, 64), (72, 72), (80, 80), (96, 96), (128, 128), (192, 128),
    (256, 256), (16, 80),
)  # fmt: skip
_HEADS = ((2, 2), (3, 1), (4, 1), (7, 1), (8, 1), (6, 2))
_PREFILL_LENGTHS = (
    (1, 1), (2, 2), (17, 17), (63, 63), (64, 64), (65, 65), (130, 130),
    (2, 65), (16, 64), (33, 130), (17, 5), (66, 63),
)  # fmt: skip
_DECODE_LENGTHS = (
    (1, 1), (1, 2), (1, 17), (1, 63), (1, 64), (1, 65), (1, 130), (1, 256),
    (2, 130), (5, 65), (16, 200), (5, 3),
)  # fmt: skip


# On a GPU a case costs a second or two of compiling, and long ones nothing.
_GPU_LENGTHS = {
    False: ((1, 1), (17, 17), (65, 65), (500, 500), (2, 65), (33, 1030), (66, 63)),
    True: ((1, 1), (1, 63), (1, 2050), (2, 130), (5, 65), (16, 4000), (5, 3)),
}
_GPU_DIMS = ((8, 8), (24, 24), (64, 64), (80, 80), (128, 128), (192, 128), (256, 256))

_TARGETS = {
    "cpu": Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2),
    "triton": Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132),
}


def rows(device: str) -> list[Kernel]:
    """The kernels tested on a device: on ``cpu`` the CPU's and, in the interpreter, Triton's."""
    return [k for k in registry.kernels() if (k.device in _TARGETS if device == "cpu" else
                                              k.device != "cpu")]  # fmt: skip


def parameters(wanted: Callable[[Kernel, str], bool] = lambda row, path: True) -> list[Any]:
    """``row, path, device`` for every kernel, path and device; those on a GPU are marked cuda."""
    return [
        pytest.param(
            row, path, device, id=f"{row.name}-{path}-{device}",
            marks=[pytest.mark.cuda] if device == "cuda" else [],
        )
        for device in ("cpu", "cuda")
        for row in rows(device)
        for path in row.paths
        if wanted(row, path)
    ]  # fmt: skip


def target(row: Kernel, device: str) -> Target:
    """What a kernel's configurations are for; the test is skipped where the kernel cannot run."""
    if device == "cpu":
        return _TARGETS[row.device]
    from autoprec.probe.device import target

    here = target(torch.device(device))
    if row.device_refusals(here):
        pytest.skip("; ".join(row.device_refusals(here)))
    return here


def room(
    shape: Sequence[int], layout: str, dtype: torch.dtype, device: str, fill: float
) -> tuple[Tensor, Tensor]:
    """A tensor ``[batch, heads, tokens, dim]`` of a layout, and the buffer it lies in.

    Layouts: ``bhsd``, ``bshd`` (tokens before heads), ``strided`` (every second element),
    ``columns`` (tokens innermost), ``sliced`` (out of a larger tensor, at addresses that divide by
    nothing), ``expanded`` (one request for the whole batch, stride 0).
    """
    b, h, t, d = shape
    parent = {
        "bhsd": (b, h, t, d),
        "bshd": (b, t, h, d),
        "strided": (b, h, t, 2 * d),
        "columns": (b, h, d, t),
        "sliced": (b + 1, h + 1, t + 3, d + 5),
        "expanded": (1, h, t, d),
    }[layout]
    size = torch.Size(parent).numel()
    buffer = torch.full((size + 2 * _MARGIN,), fill, dtype=dtype, device=device)
    whole = buffer[_MARGIN : _MARGIN + size].view(parent)
    view = {
        "bhsd": lambda: whole,
        "bshd": lambda: whole.transpose(1, 2),
        "strided": lambda: whole[..., ::2],
        "columns": lambda: whole.mT,
        "sliced": lambda: whole[1:, :-1, 1:-2, 3:-2],
        "expanded": lambda: whole.expand(b, -1, -1, -1),
    }[layout]()
    assert view.shape == torch.Size(shape)
    return view, buffer


def place(x: Tensor, layout: str, device: str = "cpu") -> Tensor:
    """The values of x in a layout, NaN around them; ``expanded`` takes those of one request."""
    view, _ = room(x.shape, layout, x.dtype, device, float("nan"))
    view[:1].copy_(x[:1])
    if layout != "expanded":
        view.copy_(x)
    return view


@dataclass
class Guarded:
    """A call, and the buffers of its results as they were before it."""

    call: Call
    buffers: list[tuple[Tensor, Tensor, Tensor]]  # view, buffer, the buffer before

    def assert_untouched(self) -> None:
        """Check that nothing but out and lse was written.

        Raises:
            AssertionError: Something was.
        """
        for view, buffer, before in self.buffers:
            where = torch.as_strided(before, view.shape, view.stride(), view.storage_offset())
            where.copy_(view)
            same = (buffer == before) | (buffer.isnan() & before.isnan())
            assert same.all(), f"{(~same).sum()} elements beyond the result were written"


def guarded(
    q: Tensor, k: Tensor, v: Tensor, *, out_dtype: torch.dtype, layout: str = "bhsd",
    diagonal: int | None = None, sm_scale: float = 0.25, with_lse: bool = True,
) -> Guarded:  # fmt: skip
    """A call with results in guarded memory; ``expanded`` results would overlap, so are bhsd."""
    layout = "bhsd" if layout == "expanded" else layout
    shape = (*q.shape[:3], v.shape[3])
    results = [room(shape, layout, out_dtype, str(q.device), _UNTOUCHED)]
    if with_lse:
        layout = "columns" if layout in ("columns", "strided") else layout
        lse, buffer = room((*q.shape[:3], 1), layout, torch.float32, str(q.device), _UNTOUCHED)
        results.append((lse[..., 0], buffer))
    call = Call(
        q=q, k=k, v=v, out=results[0][0], lse=results[1][0] if with_lse else None,
        diagonal=diagonal, sm_scale=sm_scale,
    )  # fmt: skip
    return Guarded(call, [(view, buffer, buffer.clone()) for view, buffer in results])


def workload(row: Kernel, case: pairwise.Case) -> Workload:
    """The workload of a case, as far as kernels look at it to name configurations and limits."""
    (q_len, kv_len), (q_heads, kv_heads), dims = case["lengths"], case["heads"], case["dims"]
    phase = row.phases[-1] if row.phases[-1] is Phase.DECODE else Phase.APPEND
    if phase is Phase.APPEND and not 1 < q_len < kv_len:
        phase, kv_len = Phase.PREFILL, q_len
    return Workload(
        phase=phase, batch=2, q_len=q_len, kv_len=kv_len, q_heads=q_heads, kv_heads=kv_heads,
        head_dim=dims[0], head_dim_v=dims[1], mask=Mask.CAUSAL, input_dtype=case["input"],
        out_dtype=case["out"],
    )  # fmt: skip


def cases(row: Kernel, device: str) -> list[pairwise.Case]:
    """Cases of a kernel on a device in which every two choices meet."""
    decodes, prefills = Phase.DECODE in row.phases, len(row.phases) > 1
    lengths = _DECODE_LENGTHS if decodes else ()
    if prefills:
        lengths = _PREFILL_LENGTHS + lengths[2::3]
    if device == "cuda":
        lengths = _GPU_LENGTHS[not prefills]
    dims = _DIMS if device == "cpu" else _GPU_DIMS
    factors = {
        "path": row.paths,
        "input": row.input_dtypes,
        "out": tuple(Dtype),
        "lengths": lengths,
        "heads": _HEADS,
        "dims": tuple(pair for pair in dims if max(pair) <= row.max_head_dim),
        "mask": ("full", "bottom-right", "upper-left"),
        "layout": LAYOUTS,
        "config": (0, 1, -1),
        "scale": (1.0, 4.0, -1.0),
    }
    # Programs run one after another in the interpreter, some milliseconds for each tile.
    cost_limit = {"cpu": 1e8, "triton": 1e7}[row.device] if device == "cpu" else 1e10

    def allowed(case: pairwise.Case) -> bool:
        scheme = PATHS[case["path"]]
        (q_len, kv_len), dims = case["lengths"], case["dims"]
        rows = q_len * case["heads"][0] * (2 if case["layout"] == "expanded" else 1)
        cost = rows * kv_len * sum(dims) * (scheme.qk_products + scheme.pv_products)
        fits = case["input"] in scheme.inputs and cost <= cost_limit
        return fits and not row.limits(case["path"], workload(row, case))

    return pairwise.cover(factors, allowed)


def name(row: Kernel, case: pairwise.Case) -> str:
    """A case in one word."""
    q_len, kv_len = case["lengths"]
    q_heads, kv_heads = case["heads"]
    return (
        f"{row.name}-{case['path']}-{case['input'].value}>{case['out'].value}-q{q_len}-kv{kv_len}"
        f"-{q_heads}:{kv_heads}-d{case['dims'][0]}:{case['dims'][1]}-{case['mask']}"
        f"-{case['layout']}-config{case['config']}-scale{case['scale']:g}"
    )


def inputs(case: pairwise.Case, device: str, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Normally distributed q, k and v of a case, in its layout."""
    (q_len, kv_len), (q_heads, kv_heads), dims = case["lengths"], case["heads"], case["dims"]
    draw = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    shapes = ((q_heads, q_len, dims[0]), (kv_heads, kv_len, dims[0]), (kv_heads, kv_len, dims[1]))
    dtype = TORCH_DTYPES[case["input"]]
    q, k, v = (
        place(torch.randn((batch, *s), generator=draw).to(dtype), case["layout"], device)
        for s in shapes
    )
    return q, k, v


def diagonal(mask: str, q_len: int, kv_len: int) -> int | None:
    """The diagonal of ``interface.Call`` for a mask."""
    return {"full": None, "bottom-right": kv_len - q_len, "upper-left": 0}[mask]


def run(row: Kernel, case: pairwise.Case, device: str) -> None:
    """Run a case and check everything about it.

    Raises:
        AssertionError: Something is wrong.
    """
    here = target(row, device)
    q, k, v = inputs(case, device, batch=2 if case["layout"] == "expanded" else 1)
    guard = guarded(
        q, k, v,
        out_dtype=TORCH_DTYPES[case["out"]],
        layout=case["layout"],
        diagonal=diagonal(case["mask"], *case["lengths"]),
        sm_scale=case["scale"] * case["dims"][0] ** -0.5,
    )  # fmt: skip
    configs = row.configs(case["path"], workload(row, case), here)
    index = min(case["config"], len(configs) - 1)
    try:
        check(row, guard, case["path"], configs[index])
    except Exception as error:  # the first configuration alone must fit on every chip
        if index == 0 or type(error).__name__ != "OutOfResources":
            raise
        check(row, guard, case["path"], configs[0])


def check(row: Kernel, guard: Guarded, path: str, config: Config, **looked_at: Any) -> None:
    """Run a kernel on a guarded call and compare with the oracle.

    Raises:
        AssertionError: Something is wrong.
    """
    row.run(guard.call, path, config)
    guard.assert_untouched()
    on_gpu = guard.call.q.is_cuda
    want = bounds.expected(guard.call, path, row, tensor_cores=on_gpu, **looked_at)
    bounds.check(guard.call, want)
