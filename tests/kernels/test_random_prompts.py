"""Prompts and chunks of them, of any sizes: 1,000 shapes on a GPU, few of what is compiled for.

``test_kernels.py`` meets every two choices on a few lengths, and ``test_requests.py`` random
requests in pages. Here keys and values are plain tensors, which kernels of prompts read in other
ways, and lengths, batches, diagonals and scales are drawn for each call.
"""

import random
from typing import Any

import kernel_cases
import pytest
import torch
from torch import Tensor

from autoprec.kernels.interface import TORCH_DTYPES, Kernel
from autoprec.paths import PATHS
from autoprec.types import Dtype, Phase

_SHAPES = {"cpu": 2, "cuda": 33}  # of a kernel, path and mask: of these there are 32 for GPUs
_LONGEST = {"cpu": 70, "cuda": 700}
_MOST_REQUESTS = {"cpu": 2, "cuda": 4}
_MOST_HEADS = 24  # of all requests: the oracle writes out all logits

# They take turns, of numbers that have no common factor. What is compiled hangs on what strides
# divide by: rows of head dims that are no multiple of 16 lie so that lengths do not move it.
_DIMS = ((64, 64), (128, 128), (80, 48), (256, 256), (8, 8), (192, 128), (24, 96))
_HEADS = ((2, 2), (6, 2), (14, 2), (4, 1), (7, 1))
_LAYOUTS = ("bhsd", "bshd", "gaps", "strided")
_EDGES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257)


def _parameters(device: str) -> list[Any]:
    """What a kernel is compiled for, one of each kernel, path and kind of mask."""
    found: list[Any] = []
    for row in kernel_cases.rows(device):
        # the CPU's own kernels have what they need in test_kernels.py
        if row.device == "cpu" or Phase.PREFILL not in row.phases:
            continue
        for path in row.paths:
            for mask in ("full", "diagonal"):
                kind = _kind(row, path, mask, len(found))
                found.append(pytest.param(row, kind, id=_name(row, kind)))
    return found


def _kind(row: Kernel, path: str, mask: str, turn: int) -> dict[str, Any]:
    """A kind of call that a kernel takes; the turns before had others."""
    inputs = [dtype for dtype in PATHS[path].inputs if dtype in row.input_dtypes]
    kind: dict[str, Any] = {
        "path": path, "mask": mask, "input": inputs[turn % len(inputs)],
        "out": tuple(Dtype)[turn % 3], "layout": _LAYOUTS[(turn + turn // 4) % 4],
        "heads": _HEADS[turn % 5], "negative": turn % 11 == 10, "with_lse": turn % 3 != 1,
        "lengths": (2, 3),
    }  # fmt: skip
    for more in range(len(_DIMS)):
        kind["dims"] = _DIMS[(turn + more) % len(_DIMS)]
        if not row.limits(path, kernel_cases.workload(row, kind)):
            break
    if any(dim % 16 for dim in kind["dims"]):
        kind |= {"heads": _HEADS[turn % 3], "layout": ("bshd", "strided")[turn // 2 % 2]}
    return kind


def _name(row: Kernel, kind: dict[str, Any]) -> str:
    (heads, kv_heads), (dim, dim_v) = kind["heads"], kind["dims"]
    return (
        f"{row.name}-{kind['path']}-{kind['mask']}-{kind['input'].value}>{kind['out'].value}"
        f"-{kind['layout']}-{heads}:{kv_heads}-d{dim}:{dim_v}"
    )


def _placed(x: Tensor, layout: str) -> Tensor:
    """The values of x in a layout, NaN around them; ``gaps`` are between tokens and heads."""
    if layout != "gaps":
        return kernel_cases.place(x, layout, str(x.device))
    batch, heads, tokens, dim = x.shape
    wide = x.new_full((batch + 1, tokens + 2, 2 * heads, dim + 8), float("nan"))
    view = wide[1:, 1:-1, ::2, 3:-5].transpose(1, 2)
    view.copy_(x)
    return view


def _length(draw: random.Random, longest: int) -> int:
    """Around the edges of tiles as often as anywhere else."""
    edges = [length for length in _EDGES if length <= longest]
    return draw.choice([draw.choice(edges), draw.randint(1, longest)])


def _guarded(kind: dict[str, Any], draw: random.Random, device: str) -> kernel_cases.Guarded:
    """A call of a kind."""
    batch = draw.randint(1, min(_MOST_REQUESTS[device], _MOST_HEADS // kind["heads"][0]))
    q_len, kv_len = (_length(draw, _LONGEST[device]) for _ in range(2))
    if draw.random() < 0.3:
        q_len = kv_len
    diagonal = None
    if kind["mask"] == "diagonal":  # aligned either way, or so that some see no key, or all do
        diagonal = draw.choice([kv_len - q_len, 0, draw.randint(-q_len, kv_len)])
    generator = torch.Generator(device).manual_seed(draw.randint(0, 1 << 30))
    (heads, kv_heads), (dim, dim_v) = kind["heads"], kind["dims"]
    q, k, v = (
        _placed(
            torch.randn((batch, *shape), generator=generator, device=device).to(
                TORCH_DTYPES[kind["input"]]
            ),
            kind["layout"],
        )
        for shape in ((heads, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, dim_v))
    )
    scale = draw.choice([0.5, 1.0, 4.0]) * (-1 if kind["negative"] else 1)
    return kernel_cases.guarded(
        q, k, v, out_dtype=TORCH_DTYPES[kind["out"]], diagonal=diagonal,
        layout="bshd" if kind["layout"] == "gaps" else kind["layout"],
        sm_scale=scale * dim**-0.5, with_lse=kind["with_lse"],
    )  # fmt: skip


def _run(row: Kernel, kind: dict[str, Any], device: str) -> None:
    target = kernel_cases.target(row, device)
    config = row.configs(kind["path"], kernel_cases.workload(row, kind), target)[0]
    draw = random.Random(_name(row, kind))
    for _ in range(_SHAPES[device]):
        guard = _guarded(kind, draw, device)
        try:
            kernel_cases.check(row, guard, kind["path"], config)
        except AssertionError as error:
            call = guard.call
            raise AssertionError(
                f"q {tuple(call.q.shape)}, k {tuple(call.k.shape)}, diagonal {call.diagonal}: "
                f"{error}"
            ) from error


@pytest.mark.parametrize(("row", "kind"), _parameters("cpu"))
def test_random_prompts(row: Kernel, kind: dict[str, Any]) -> None:
    _run(row, kind, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize(("row", "kind"), _parameters("cuda"))
def test_a_thousand_random_prompts(row: Kernel, kind: dict[str, Any]) -> None:
    _run(row, kind, "cuda")


def test_there_are_a_thousand() -> None:
    kinds = [parameter.values[1] for parameter in _parameters("cuda")]
    assert len(kinds) * _SHAPES["cuda"] >= 1000
    for name, values in (("dims", _DIMS), ("heads", _HEADS), ("layout", _LAYOUTS), ("out", Dtype)):
        assert {kind[name] for kind in kinds} == set(values)
