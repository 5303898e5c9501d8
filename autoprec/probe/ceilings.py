"""What the machine can do at most: copy bandwidth and matrix-product rates, measured."""

import contextlib
import statistics
from collections.abc import Iterator

import torch

from autoprec.probe.device import free_bytes
from autoprec.probe.timing import Timer, timer
from autoprec.types import Ceilings

_SAMPLES = 5
_MIB = 1 << 20

_OPERANDS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def measure(device: torch.device) -> Ceilings:
    """Measure a device's ceilings, in a few seconds at most.

    On a CPU there is no ``tf32``: PyTorch's matrix products know none there.
    """
    clock = timer(device)
    rates = {
        name: _gemm_tflops(clock, device, name)
        for name in _OPERANDS
        if not (name == "tf32" and device.type == "cpu")
    }
    return Ceilings(copy_gb_s=_copy_gb_s(clock, device), gemm_tflops=rates)


def _copy_gb_s(clock: Timer, device: torch.device) -> float:
    size = (1024 if device.type != "cpu" else 128) * _MIB
    size = min(size, free_bytes(device) // 8)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    sink.copy_(source)
    ms = statistics.median(clock.sample_ms(lambda: sink.copy_(source)) for _ in range(_SAMPLES))
    return 2 * size / ms / 1e6


def _gemm_tflops(clock: Timer, device: torch.device, name: str) -> float:
    """The rate of the largest square product that is quick enough to repeat."""
    sizes = (1024, 2048, 4096, 8192) if device.type != "cpu" else (256, 512, 1024)
    quick_ms = 30.0 if device.type != "cpu" else 100.0
    with fp32_products("tf32" if name == "tf32" else "ieee"):
        for n in sizes:
            a = torch.randn(n, n, device=device).to(_OPERANDS[name])
            b = torch.randn(n, n, device=device).to(_OPERANDS[name])
            torch.matmul(a, b)
            ms = clock.sample_ms(lambda a=a, b=b: torch.matmul(a, b))  # type: ignore[misc]
            if ms * 8 > quick_ms:  # the next size takes eight times as long
                break
        more = [clock.sample_ms(lambda: torch.matmul(a, b)) for _ in range(_SAMPLES - 1)]
    return 2 * n**3 / statistics.median([ms, *more]) / 1e9


@contextlib.contextmanager
def fp32_products(precision: str) -> Iterator[None]:
    """Let cuBLAS form fp32 matrix products in a precision inside the ``with``.

    Only ``fp32_precision`` is read and written: once it is "tf32", reading its predecessor
    ``allow_tf32`` raises, so that the value from before must be back at the end.

    Args:
        precision: ``ieee`` or ``tf32``.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before
