"""Made-up records for tests: sensible defaults, and any field changed by keyword.

The numbers of ``profile()`` are those of an H100, rounded, so that tables look as they will.
"""

from collections.abc import Sequence
from typing import Any

from autoprec.budget import Budget
from autoprec.policy.choose import choose
from autoprec.types import (
    Ceilings,
    Conversion,
    Device,
    Dtype,
    Environment,
    Mask,
    Measurement,
    Phase,
    Profile,
    Role,
    Status,
    Storage,
    Workload,
)

_ENUMS = {"phase": Phase, "mask": Mask, "input_dtype": Dtype, "out_dtype": Dtype}


def workload(**changes: Any) -> Workload:
    """A workload: by default fp32 causal prefill of 4096 tokens, 32/8 heads, head dim 128.

    ``q_len`` follows the phase, ``out_dtype`` the input's and ``head_dim_v`` the head dim where
    they are not given. Enums may be given as strings.
    """
    given = {key: _ENUMS[key](v) if key in _ENUMS else v for key, v in changes.items()}
    phase = given.setdefault("phase", Phase.PREFILL)
    kv_len = given.setdefault("kv_len", given.get("q_len", 4096))
    given.setdefault("q_len", {Phase.PREFILL: kv_len, Phase.APPEND: 512, Phase.DECODE: 1}[phase])
    given.setdefault("head_dim", 128)
    given.setdefault("head_dim_v", given["head_dim"])
    given.setdefault("input_dtype", Dtype.FP32)
    given.setdefault("out_dtype", given["input_dtype"])
    return Workload(**{"batch": 1, "q_heads": 32, "kv_heads": 8, "mask": Mask.CAUSAL} | given)


def measurement(
    path: str, p50_ms: float | None = 1.0, rel_l2: float | None = 1e-4, **changes: Any
) -> Measurement:
    """A measurement of a path; a baseline where the path is called ``sdpa-…``.

    Its p20–p80 range is 0.98 to 1.03 of the median, and ``rel_l2`` is its worst family's error
    (gauss; outlier has half of it). A row without a time needs ``status`` and ``reason``.
    """
    shape = changes.pop("workload", None) or workload()
    baseline = path.startswith("sdpa-")
    kernel = "triton-decode" if shape.phase is Phase.DECODE else "triton-prefill"
    defaults: dict[str, Any] = {
        "role": Role.BASELINE if baseline else Role.CANDIDATE,
        "kernel": "torch-sdpa" if baseline else kernel,
        "config": {} if baseline else {"block_q": 128, "block_kv": 64, "num_warps": 8},
        "storage": Storage(shape.input_dtype.value),
        "conversion": Conversion.NONE,
        "status": Status.OK,
    }
    if "status" not in changes or changes["status"] == Status.OK:
        if p50_ms is None or rel_l2 is None:
            raise TypeError("an ok row needs a time and an error")
        defaults |= {
            "p20_ms": 0.98 * p50_ms,
            "p50_ms": p50_ms,
            "p80_ms": 1.03 * p50_ms,
            "tflops": shape.flops / p50_ms / 1e9,
            "gb_s": shape.kv_bytes / p50_ms / 1e6,
            "n": 20,
            "workspace_gib": None if shape.phase is Phase.DECODE else 0.125,
            "errors": {"gauss": errors(rel_l2), "outlier": errors(rel_l2 / 2)},
        }
    return Measurement(**{"path": path, "workload": shape} | defaults | changes)


def errors(rel_l2: float) -> dict[str, float]:
    """One family's errors, in proportions as they are found."""
    return {
        "rel_l2": rel_l2,
        "row_rel_p999": 1.5 * rel_l2,
        "row_rel_max": 2 * rel_l2,
        "max_abs": 10 * rel_l2,
        "lse_abs": 0.5 * rel_l2,
    }


def device(**changes: Any) -> Device:
    """An H100."""
    defaults = {
        "kind": "cuda",
        "name": "NVIDIA H100 80GB HBM3",
        "capability": "9.0",
        "memory_gib": 79.1,
        "units": 132,
    }
    return Device(**defaults | changes)


def environment(**changes: Any) -> Environment:
    """An H100 with torch 2.13.0 and triton 3.7.1."""
    defaults = {
        "device": device(),
        "python": "3.12.11",
        "torch": "2.13.0+cu130",
        "triton": "3.7.1",
        "driver": "580.82",
        "cuda": "13.0",
        "kernels": "0123456789abcdef",
    }
    return Environment(**defaults | changes)


def ceilings(**changes: Any) -> Ceilings:
    """What an H100 reaches."""
    rates = {"fp32": 51.0, "tf32": 370.0, "bf16": 785.0, "fp16": 733.0}
    return Ceilings(**{"copy_gb_s": 3030.0, "gemm_tflops": rates} | changes)


def rows() -> list[Measurement]:
    """Prefill and decode, fp32 and bf16, each with candidates, baselines and reasons why not."""
    prefill_fp32 = workload()
    prefill_bf16 = workload(input_dtype="bf16")
    decode_fp32 = workload(phase="decode", batch=16, kv_len=8192)
    decode_bf16 = workload(phase="decode", batch=16, kv_len=8192, input_dtype="bf16")
    unsupported = {"status": Status.UNSUPPORTED, "reason": "torch's flash backend takes no fp32"}
    skipped = {"status": Status.SKIPPED, "reason": "the time limit of 110 s was reached"}
    table: list[tuple[Workload, str, float | None, float | None, dict[str, Any]]] = [
        (prefill_fp32, "fp32", 16.9, 5.4e-7, {}),
        (prefill_fp32, "tf32", 1.21, 4.1e-4, {}),
        (prefill_fp32, "bf16", 0.334, 3.1e-3, {"conversion": Conversion.INCLUDED}),
        (prefill_fp32, "fp16", 0.341, 3.9e-4, {"conversion": Conversion.INCLUDED}),
        (prefill_fp32, "sdpa-efficient", 3.24, 5.4e-7, {}),
        (prefill_fp32, "sdpa-flash", None, None, unsupported),
        (prefill_fp32, "sdpa-math", 13.2, 5.4e-7, {}),
        (prefill_bf16, "fp32", None, None, skipped),
        (prefill_bf16, "bf16", 0.305, 3.4e-3, {}),
        (prefill_bf16, "sdpa-flash", 0.505, 3.4e-3, {}),
        (prefill_bf16, "sdpa-cudnn", 0.263, 3.4e-3, {}),
        (decode_fp32, "fp32", 1.45, 6.0e-7, {}),
        (decode_fp32, "tf32", 0.383, 4.0e-4, {}),
        (decode_fp32, "bf16", 0.379, 2.9e-3, {"conversion": Conversion.INCLUDED}),
        (decode_fp32, "fp16", 0.381, 3.7e-4, {"conversion": Conversion.INCLUDED}),
        (decode_fp32, "sdpa-efficient", 3.13, 6.0e-7, {}),
        (decode_bf16, "bf16", 0.202, 2.2e-3, {}),
        (decode_bf16, "sdpa-cudnn", 0.188, 2.2e-3, {}),
    ]
    return [
        measurement(path, p50_ms, rel_l2, workload=shape, **changes)
        for shape, path, p50_ms, rel_l2, changes in table
    ]


def profile(measurements: Sequence[Measurement] | None = None, **changes: Any) -> Profile:
    """A profile: its choices are made from the measurements unless they are given.

    Args:
        measurements: Default: ``rows()``.
        changes: Any field of Profile.
    """
    taken = rows() if measurements is None else list(measurements)
    budget = changes.setdefault("budget", "rel_l2<=0.01")
    allowed = changes.setdefault("allow_baselines", False)
    choices, refusals = choose(taken, Budget.parse(budget), allow_baselines=allowed)
    defaults = {
        "created_at": "2026-11-23T12:00:00Z",
        "autoprec_version": "0.1.0",
        "recorded_by": "autoprec tune",
        "environment": environment(),
        "ceilings": ceilings(),
        "measurements": taken,
        "choices": choices,
        "refusals": refusals,
    }
    return Profile(**defaults | changes)
