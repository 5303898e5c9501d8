"""A profile of two workloads, for reports of it."""

from made_up import measurement, profile, workload

from autoprec.types import Conversion, Profile, Status

DECODE = workload(phase="decode", batch=16, kv_len=8192, input_dtype="bf16")
INCLUDED = {"conversion": Conversion.INCLUDED}
NO_FP32 = {"status": Status.UNSUPPORTED, "reason": "torch's flash backend takes no fp32."}


def made(**changes: object) -> Profile:
    rows = [
        measurement("fp16", 0.341, 3.9e-4, **INCLUDED),
        measurement("bf16", 0.25, 3.1e-2, **INCLUDED),
        measurement("fp32", 16.9, 5.4e-7),
        measurement("sdpa-efficient", 3.24, 5.4e-7),
        measurement("sdpa-flash", None, None, **NO_FP32),
        measurement("bf16", 0.202, 2.2e-3, workload=DECODE),
        measurement("sdpa-cudnn", 0.188, 2.2e-3, workload=DECODE),
    ]
    return profile(rows, **changes)
