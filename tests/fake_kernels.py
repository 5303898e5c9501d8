"""Small kernels for tests of the probe: quick, and broken in one way each."""

from collections.abc import Callable
from typing import Any

import made_up
import torch

from autoprec.kernels.interface import Call, Kernel, Target
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


def workload(**changes: Any) -> Workload:
    """A small workload, by default a decode of 64 keys, with changes."""
    small = {"phase": Phase.DECODE, "kv_len": 64, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
    return made_up.workload(**small | changes)
