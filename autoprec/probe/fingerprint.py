"""What a device's matrix products really do: bits kept, rounding, accumulators, subnormals.

Each mode of multiplying is handed sums of a few terms whose exact value is known, and whose
computed value tells one way of rounding from another (after Fasi, Higham, Mikaitis and Pranesh
2021). A path whose products are not what it claims is refused, whatever its error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.cpu_blocks import Rounding, Scratch, fp32_products
from autoprec.kernels.interface import run_launches
from autoprec.paths import PATHS
from autoprec.probe import device as devices
from autoprec.probe.failures import described
from autoprec.types import DotMode

Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(a, b, c)`` → c + a @ b, of fp32 tensors ``[products, rows, depth]`` and so on."""

_DEPTH = 32  # of a product: two instructions or more in every mode
_COLS = 16
_GUARDS = 3  # no more guard bits are looked for
UNROUNDED = "tf32, unrounded"
"""The mode of tf32 products of fp32 numbers as they are, which no path uses."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What paths with an operand type say of its products.

    Attributes:
        bits: Significant bits of an operand.
        rounding: How an operand of more bits is brought to these.
        sums: How sums may be rounded.
        subnormals: Whether subnormal operands count.
        least: The least operand, subnormal, as a power of two.
    """

    bits: int
    rounding: str = "nearest"
    sums: tuple[str, ...] = ("nearest", "toward zero")
    subnormals: bool = False
    least: int


CLAIMS = {
    "fp32": Claim(bits=24, rounding="exact", sums=("nearest",), least=-149),
    "tf32": Claim(bits=11, least=-136),
    "bf16": Claim(bits=8, least=-133),
    "fp16": Claim(bits=11, subnormals=True, least=-24),  # scaled tiles end in subnormals
}
"""By operand type; ``policy/bounds.py`` and the ranges in docs/precision.md rest on these."""


def take(device: torch.device) -> tuple[list[DotMode], list[str]]:
    """The fingerprint of a device, in a few seconds at most.

    Returns:
        A row for each mode and height of a tile, since chips have other instructions for high
        ones; and a sentence for each that could not be measured.
    """
    modes: list[DotMode] = []
    remarks: list[str] = []
    for name, operand, rows, multiply in _ways(device):
        try:
            with nullcontext() if device.type == "cpu" else torch.cuda.device(device):
                modes.append(look(name, operand, rows, multiply, device))
        except Exception as error:  # what the compiler or the driver raises
            remarks.append(f"{name} products of {rows} rows have no fingerprint: "
                           f"{described(error).rstrip('.')}.")  # fmt: skip
    return modes, remarks


def refusals(path: str, modes: Sequence[DotMode]) -> list[str]:
    """Say what of a path's claim its products do not do; [] where they do it, or nobody looked.

    Args:
        path: A name of ``paths.PATHS``.
        modes: The fingerprint.
    """
    operand = PATHS[path].operand
    claim = CLAIMS[operand]
    found: dict[str, list[str]] = {}
    for mode in modes:
        if mode.mode == operand:
            for sentence in _broken(mode, claim):
                found.setdefault(sentence, []).append(str(mode.rows))
    return [
        f"{operand} products here {sentence} (tiles of {' and '.join(rows)} rows)"
        for sentence, rows in found.items()
    ]


def overview(device: torch.device) -> list[registry.Offered]:
    """Every kernel with every path it has, and whether a device runs it and does as it claims."""
    modes, _ = take(device)
    return [
        offer if offer.reason or offer.path not in PATHS
        else replace(offer, reason="; ".join(refusals(offer.path, modes)))
        for offer in registry.overview(devices.target(device))
    ]  # fmt: skip


def _broken(mode: DotMode, claim: Claim) -> Iterator[str]:
    if mode.operand_bits != claim.bits:
        yield f"keep {mode.operand_bits} bits of an operand, not {claim.bits}"
    elif mode.operand_rounding != claim.rounding:
        yield f"round operands {mode.operand_rounding}, not {claim.rounding}"
    if mode.accumulator_bits != CLAIMS["fp32"].bits:
        yield f"keep {mode.accumulator_bits} bits of a sum, not {CLAIMS['fp32'].bits}"
    elif mode.accumulator_rounding not in claim.sums:
        yield f"round sums {mode.accumulator_rounding}, not {' or '.join(claim.sums)}"
    elif mode.operand_bits == claim.bits and not mode.products_exact:
        yield "round the product of two operands"
    if claim.subnormals and not mode.subnormal_operands:
        yield "take subnormal operands as zero"


def look(
    name: str, operand: str, rows: int, multiply: Multiply, device: torch.device
) -> DotMode:  # fmt: skip
    """The row of a way of multiplying.

    Args:
        name: Of the mode.
        operand: A key of CLAIMS.
        rows: Of a tile.
        multiply: The way.
        device: Where its tensors lie.
    """
    claim = CLAIMS[operand]
    sums = dict(_sums(claim))
    count = len(sums)
    a = torch.zeros(count, rows, _DEPTH)
    b = torch.zeros(count, _DEPTH, _COLS)
    c = torch.zeros(count, rows, _COLS)
    for place, (start, terms) in enumerate(sums.values()):
        c[place] = start
        for k, (left, right) in terms.items():
            a[place, :, k], b[place, k] = left, right
    out = multiply(a.to(device), b.to(device), c.to(device)).double().cpu()
    return _read(name, claim, rows, dict(zip(sums, out.flatten(1), strict=True)))


Sum = tuple[float, dict[int, tuple[float, float]]]
"""What is in the accumulator before, and by place along the depth two factors."""


def _factors(exponent: int, mantissa: float = 1.0) -> tuple[float, float]:
    """Two normal numbers of every operand type whose product is mantissa * 2^exponent."""
    return mantissa * 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)


def _sums(claim: Claim) -> Iterator[tuple[tuple[str, int], Sum]]:
    """The sums to form, each under a name and a number of bits."""
    last = _DEPTH - 1
    for k in range(1, 24):
        fine, coarse = 1 + 2.0**-k, 1 + 0.75 * 2.0**-k
        yield ("a", k), (0.0, {0: (fine, 1.0)})
        yield ("b", k), (0.0, {0: (1.0, fine)})
        yield ("operand", k), (0.0, {0: (coarse, 1.0)})
        yield ("-operand", k), (0.0, {0: (1.0, -coarse)})
        # a sum keeps what was there, what comes in the same instruction, and in a later one
        yield ("start", k), (1.0, {0: _factors(-k)})
        yield ("near", k), (0.0, {0: (1.0, 1.0), 1: _factors(-k)})
        yield ("far", k), (0.0, {0: (1.0, 1.0), last: _factors(-k)})
        yield ("sum", k), (1.0, {0: _factors(-k - 1, 1.5)})
        yield ("-sum", k), (-1.0, {0: _factors(-k - 1, -1.5)})
    for k in range(1, _GUARDS + 1):
        yield ("guard", k), (1.0, dict.fromkeys(range(2**k), _factors(-23 - k)))
    wide = 1 + 2.0 ** (1 - claim.bits)
    yield ("product", 0), (0.0, {0: (wide, wide)})
    yield ("subnormal a", 0), (0.0, {0: (2.0**claim.least, 2.0**15)})
    yield ("subnormal b", 0), (0.0, {0: (2.0**15, 2.0**claim.least)})
    yield ("subnormal sum", 0), (2.0**-140, {})


def _read(name: str, claim: Claim, rows: int, got: dict[tuple[str, int], Tensor]) -> DotMode:
    """What the computed sums tell; every element of a tile must tell it."""

    def equal(what: str, k: int, value: float) -> bool:
        return bool((got[what, k] == value).all())

    def bits(what: str) -> int:
        k = 0
        while k < 23 and equal(what, k + 1, 1 + 2.0 ** -(k + 1)):
            k += 1
        return k + 1

    def rounding(what: str, kept: int) -> str:
        """How 1 + 0.75 of the last bit kept comes out, of either sign."""
        k = max(kept - 1, 1)
        outcomes = [
            next((n for n in (0.0, 1.0) if equal(of, k, sign * (1 + n * 2.0**-k))), None)
            for of, sign in ((what, 1), (f"-{what}", -1))
        ]
        return {(0.0, 0.0): "toward zero", (1.0, 1.0): "nearest", (0.0, 1.0): "down",
                (1.0, 0.0): "up"}.get(tuple(outcomes), "unevenly")  # type: ignore[arg-type]  # fmt: skip

    operand_bits = min(bits("a"), bits("b"))
    accumulator_bits = min(bits("start"), bits("near"), bits("far"))
    wide = 1 + 2.0 ** (1 - claim.bits)
    product = float(torch.tensor(wide * wide, dtype=torch.float32))
    least = 2.0 ** (claim.least + 15)
    return DotMode(
        mode=name,
        rows=rows,
        operand_bits=operand_bits,
        operand_rounding="exact" if operand_bits == 24 else rounding("operand", operand_bits),
        products_exact=equal("product", 0, product),
        accumulator_bits=accumulator_bits,
        accumulator_rounding=rounding("sum", accumulator_bits),
        guard_bits=next((k - 1 for k in range(1, _GUARDS + 1)
                         if not equal("guard", k, 1 + 2.0**-23)), _GUARDS),
        subnormal_operands=equal("subnormal a", 0, least) and equal("subnormal b", 0, least),
        subnormal_sums=equal("subnormal sum", 0, 2.0**-140),
    )  # fmt: skip


def _ways(device: torch.device) -> Iterator[tuple[str, str, int, Multiply]]:
    """Mode, operand type, rows of a tile, and how it is multiplied."""
    if device.type == "cpu":
        for operand in CLAIMS:
            yield operand, operand, 64, _cpu(operand)
        return
    for operand in CLAIMS:
        for rows in (16, 64):
            yield operand, operand, rows, triton_product(operand)
    yield UNROUNDED, "tf32", 64, triton_product("tf32", rounded=False)


def triton_product(operand: str, *, rounded: bool = True) -> Multiply:
    """A product as Triton's kernels form it; see ``kernels.dots.product``."""

    def multiply(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        from autoprec.kernels.dots import product  # where there is no Triton, a sentence says so

        out = torch.empty_like(c)
        run_launches([product(a, b, c, out, operand, rounded=rounded)])
        return out

    return multiply


def _cpu(operand: str) -> Multiply:
    """A product as cpu-blocked forms it."""

    def multiply(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        rounding = Rounding(operand, torch.float32, Scratch())
        with torch.no_grad(), fp32_products():
            left = rounding.operand(a, "a", (-1,))
            right = rounding.operand(b, "b", (-2, -1))
            return torch.baddbmm(c, left, right)

    return multiply
