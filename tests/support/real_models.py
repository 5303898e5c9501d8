"""Trained models, errors of paths on their tensors, and how far off their outputs are."""

import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from exact import cpu_profile
from torch import Tensor, nn

from autoprec.kernels.reference import attention
from autoprec.plan.plan import Plan
from autoprec.probe.families import Family
from autoprec.probe.inputs import call_of
from autoprec.registry import kernel
from autoprec.types import Measurement, Workload

CPU = torch.device("cpu")
CONFIG = {"block_q": 64, "block_kv": 256}
TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
TOKENS = 512


@dataclass
class Model:
    """A model, its inputs, and what of its output is looked at."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: Callable[[Any], Tensor]

    def run(self, module: nn.Module | None = None, **inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.output((module or self.module)(**(inputs or self.inputs))).double()


def folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


@dataclass
class Heads:
    """What was captured of a model: a workload of all its heads, each once, and its families."""

    workload: Workload
    whole: Mapping[str, Family]
    by_layer: Mapping[str, Family]


def errors(path: str, workload: Workload, families: Mapping[str, Family]) -> dict[str, Any]:
    """A path's errors on families, by cpu-blocked: rel_l2, and the worst rows'."""
    found = {}
    for name, family in families.items():
        call = call_of(workload, *family.draw(workload, 0, CPU))
        kernel("cpu-blocked").run(call, path, dict(CONFIG))
        exact, _ = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
        off, norms = call.out.double() - exact, exact.norm(dim=-1)
        rows = off.norm(dim=-1) / norms
        found[name] = made_up.errors(float(off.norm() / exact.norm())) | {
            "row_rel_p999": float(rows.flatten().quantile(0.999)),
            "row_rel_max": float(rows.max()),
        }
    return found


@contextmanager
def running(module: Any, plan: Plan | None) -> Iterator[Any]:
    """A model by a plan, or without one with its own eager attention."""
    import autoprec.transformers

    before = module.config._attn_implementation
    try:
        if plan is None:
            module.set_attn_implementation("eager")
            yield None
        else:
            yield autoprec.transformers.apply(module, plan)
    finally:
        module.set_attn_implementation(before)


def plan_of(rows: list[Measurement], budget: str) -> Plan:
    return Plan(cpu_profile(rows, budget=budget), CPU)


def in_fp64(module: Any) -> Any:
    """A copy that computes in fp64, but for the angles of rotary positions.

    Its own norms and the softmax of eager attention would be computed in fp32 in any type.
    """
    exact = nn.Module.double(copy.deepcopy(module))
    exact.set_attn_implementation("sdpa")
    for norm in exact.modules():
        if type(norm).__name__.endswith("RMSNorm"):
            norm.forward = partial(
                nn.functional.rms_norm, normalized_shape=norm.weight.shape, weight=norm.weight,
                eps=norm.variance_epsilon,
            )  # fmt: skip
    return exact


def rel_l2(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())
