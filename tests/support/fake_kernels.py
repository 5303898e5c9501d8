"""Small kernels for tests of the probe: quick, and broken in one way each."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import made_up
import torch

from autoprec.kernels.interface import (
    Call,
    Kernel,
    Launch,
    Planes,
    Prepared,
    Target,
    run_launches,
)
from autoprec.kernels.reference import attention
from autoprec.types import Config, Dtype, Phase, Workload

Run = Callable[[Call, str, Config], None]


def right(call: Call, path: str, config: Config) -> None:
    """Exact attention, and operands rounded to bf16 on the path bf16."""
    q, k, v = call.q, call.k, call.v
    if path == "bf16":
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    out, lse = attention(q, k, v, diagonal=call.diagonal, sm_scale=call.sm_scale)
    call.out.copy_(out)
    if call.lse is not None:
        call.lse.copy_(lse)


def fake(
    name: str,
    run: Run = right,
    *,
    paths: tuple[str, ...] = ("fp32",),
    configs: tuple[Config, ...] = ({},),
) -> Kernel:
    """A kernel for CPUs that takes everything."""

    def converts(path: str, dtype: Dtype) -> bool:
        return path != dtype.value

    def tried(path: str, workload: Workload, target: Target) -> tuple[Config, ...]:
        return configs

    return Kernel(
        name=name, device="cpu", paths=paths, phases=tuple(Phase), converts=converts,
        configs=tried, run=run,
    )  # fmt: skip


class Copying:
    """Stands for a jit function that fills Y with X, in Y's type."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(X: torch.Tensor, Y: torch.Tensor) -> None:  # noqa: N803 as Triton's are called
            Y.copy_(X)

        return launch


def planes(x: torch.Tensor) -> tuple[Planes, Launch]:
    """One plane in bf16, and what fills it."""
    data = torch.empty((1, *x.shape), dtype=torch.bfloat16, device=x.device)
    return Planes(data, None), Launch(Copying(), (1,), {"X": x, "Y": data[0]})


def preparing(name: str, *, takes_s: float = 0.0, configs: tuple[Config, ...] = ({},)) -> Kernel:
    """A kernel of the path bf16 that takes K and V in planes, which may be prepared beforehand.

    Args:
        name: Its name.
        takes_s: How long it converts for, where they are not.
        configs: What there is to try.
    """

    def prepare(k: torch.Tensor, v: torch.Tensor, path: str, config: Config) -> Prepared:
        (to_k, fill_k), (to_v, fill_v) = planes(k), planes(v)
        return Prepared(to_k, to_v, [fill_k, fill_v])

    def run(call: Call, path: str, config: Config) -> None:
        prepared = call.prepared
        if prepared is None:
            time.sleep(takes_s)
            prepared = prepare(call.k, call.v, path, config)
            run_launches(prepared.launches)
        k, v = prepared.k.data[0], prepared.v.data[0]
        right(replace(call, q=call.q.to(torch.bfloat16), k=k, v=v), "fp32", config)

    return replace(fake(name, run, paths=("bf16",), configs=configs), prepare=prepare)


def workload(**changes: Any) -> Workload:
    """A small workload, by default a decode of 64 keys, with changes."""
    small = {"phase": Phase.DECODE, "kv_len": 64, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
    return made_up.workload(**small | changes)
