"""The machine: the device and its software, the most it can do, and how its products round."""

import math
from dataclasses import dataclass, field

from autoprec.errors import InputError
from autoprec.types.kinds import STRICT

_LEAST_RATE = 1e-12  # shares of a ceiling stay finite


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that runs attention.

    Attributes:
        kind: ``cuda``, ``hip`` or ``cpu``.
        name: As the driver or the operating system gives it.
        capability: ``9.0`` for a CUDA device, ``gfx942`` for an AMD one, the machine's
            architecture (``x86_64``) for a CPU.
        memory_gib: Device memory; for a CPU, the machine's.
        units: Streaming multiprocessors, compute units, or the cores this process may use.
    """

    __pydantic_config__ = STRICT

    kind: str
    name: str
    capability: str
    memory_gib: float
    units: int


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything a measured time or error depends on beside the workload.

    Attributes:
        kernels: A digest of the kernels' sources.
        variables: Environment variables set that change results or times.
    """

    __pydantic_config__ = STRICT

    device: Device
    python: str
    torch: str
    triton: str | None
    driver: str | None
    cuda: str | None
    kernels: str
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine can do at most, measured.

    Attributes:
        copy_gb_s: Device copy, bytes read plus bytes written, 1e9 per second.
        gemm_tflops: A large matrix product by operand type (fp32, tf32, bf16, fp16).
    """

    __pydantic_config__ = STRICT

    copy_gb_s: float
    gemm_tflops: dict[str, float]

    def __post_init__(self) -> None:
        """Refuse what cannot be a ceiling, since shares are of it.

        Raises:
            InputError: A rate is not above zero and finite, or nearly zero.
        """
        for name, rate in {"copy_gb_s": self.copy_gb_s, **self.gemm_tflops}.items():
            if not 0 < rate < math.inf:
                raise InputError(f"the ceiling {name} must be above zero and finite, got {rate:g}.")
            if rate < _LEAST_RATE:
                raise InputError(
                    f"the ceiling {name} must be at least {_LEAST_RATE:g}, got {rate:g}."
                )


@dataclass(frozen=True, kw_only=True)
class DotMode:
    """What one way of forming matrix products was seen to do on a device.

    Attributes:
        mode: The operand type, as in ``paths.Path.operand``, or another way of multiplying.
        rows: Of a tile: chips have other instructions for high tiles.
        operand_bits: Significant bits of an operand that count.
        operand_rounding: How an operand of more bits loses them: ``exact`` where it has none to
            lose, ``nearest``, ``toward zero``, ``up``, ``down`` or ``unevenly``.
        products_exact: Whether the product of two operands enters the sum unrounded; of two fp32
            operands, rounded to nearest.
        accumulator_bits: Significant bits that a sum keeps.
        accumulator_rounding: How it loses the others, in the same words.
        guard_bits: Bits below the last one kept that terms of one instruction have while they are
            added; 3 stands for 3 or more.
        subnormal_operands: Whether the least subnormal operand counts, and is not taken as zero.
        subnormal_sums: Whether a sum below 2^-126 is kept.
    """

    __pydantic_config__ = STRICT

    mode: str
    rows: int
    operand_bits: int
    operand_rounding: str
    products_exact: bool
    accumulator_bits: int
    accumulator_rounding: str
    guard_bits: int
    subnormal_operands: bool
    subnormal_sums: bool
