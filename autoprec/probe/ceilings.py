"""What the machine can do at most: copy bandwidth and matrix-product rates, measured.

A ceiling is a maximum, so the best sample counts and not the median: what other processes or a
clock that has yet to rise take away is no property of the machine.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch

from autoprec.probe.device import free_bytes
from autoprec.probe.timing import Timer, timer
from autoprec.types import Ceilings

# Samples that the best is taken of: more of what is quick, up to so many milliseconds.
_SAMPLES = 3
_SAMPLES_OF_QUICK = 20
_QUICK_MS = 400.0
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
    return 2 * size / _best_ms(clock, lambda: sink.copy_(source)) / 1e6


def _gemm_tflops(clock: Timer, device: torch.device, name: str) -> float:
    """The best rate of square products, up to the largest that is quick enough to repeat."""
    sizes = (1024, 2048, 4096, 8192) if device.type != "cpu" else (256, 512, 1024)
    quick_ms = 30.0 if device.type != "cpu" else 500.0
    best = 0.0
    with fp32_products("tf32" if name == "tf32" else "ieee"):
        for n in sizes:
            a = torch.randn(n, n, device=device).to(_OPERANDS[name])
            b = torch.randn(n, n, device=device).to(_OPERANDS[name])
            torch.matmul(a, b)
            ms = _best_ms(clock, functools.partial(torch.matmul, a, b))
            best = max(best, 2 * n**3 / ms / 1e9)
            if ms * 8 > quick_ms:  # the next size takes eight times as long
                break
    return best


def _best_ms(clock: Timer, call: Callable[[], object]) -> float:
    """The shortest of several samples."""
    samples: list[float] = []
    while len(samples) < _SAMPLES or (
        len(samples) < _SAMPLES_OF_QUICK and sum(samples) < _QUICK_MS
    ):
        samples.append(clock.sample_ms(call))
    return min(samples)


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
