"""For tests of plans: a kernel that records its calls and computes exactly, and a profile of it."""

from dataclasses import dataclass, field
from typing import Any

import made_up

from autoprec.kernels.interface import Call, Kernel
from autoprec.kernels.reference import attention
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Measurement, Phase, Profile


@dataclass
class Recorder:
    """What kernels were handed, in order."""

    calls: list[Call] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    configs: list[Config] = field(default_factory=list)

    def kernel(self, name: str, **changes: Any) -> Kernel:
        """A kernel that computes in fp64 and rounds once."""

        def run(call: Call, path: str, config: Config) -> None:
            self.calls.append(call)
            self.kernels.append(name)
            self.paths.append(path)
            self.configs.append(config)
            out, lse = attention(
                call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale
            )
            call.out.copy_(out)
            if call.lse is not None:
                call.lse.copy_(lse)

        defaults: dict[str, Any] = {
            "name": name,
            "device": "cpu",
            "paths": tuple(PATHS),
            "phases": tuple(Phase),
            "converts": lambda path, dtype: False,
            "configs": lambda path, workload, target: ({"block": 16}, {"block": 64}),
            "run": run,
        }
        return Kernel(**defaults | changes)


def rows(**changes: Any) -> list[Measurement]:
    """Prefill and decode in every type: fp32 slow and accurate, bf16 fast.

    The kernel is ``exact`` and its configuration ``{"block": 64}``, unless changed.
    """
    table = [
        made_up.workload(phase=phase, kv_len=1024, head_dim=64, input_dtype=dtype)
        for phase in (Phase.PREFILL, Phase.DECODE)
        for dtype in Dtype
    ]
    shared = {"kernel": "exact", "config": {"block": 64}} | changes
    return [
        made_up.measurement(path, p50_ms, rel_l2, workload=workload, **shared)
        for workload in table
        for path, p50_ms, rel_l2 in (("fp32", 1.0, 5e-7), ("bf16", 0.5, 3e-3))
    ]


def cpu_profile(measurements: list[Measurement] | None = None, **changes: Any) -> Profile:
    """A profile of a CPU, of ``rows()`` by default."""
    device = made_up.device(kind="cpu", name="A CPU", capability="x86_64", units=2)
    changes.setdefault("environment", made_up.environment(device=device, triton=None))
    return made_up.profile(rows() if measurements is None else measurements, **changes)
