"""The error a path must not exceed, and the error it should have, before anything is measured.

With w the softmax weights of a row, o* its exact output and o the computed one, the certified
bound is componentwise, against Σ w|v|: cancellation in o* = Σ w v cannot blow it up, and it does
not depend on the scale of v. It follows the usual rounding-error analysis of inner products
(Higham 2002, chapter 3), with the error model of block multiply-add units of Blanchard, Higham,
Lopez, Mary and Pranesh (2020), whose additions truncate (Fasi, Higham, Mikaitis and Pranesh 2021).
The expected error takes roundings as independent and of mean zero, so that n of them grow like √n
(Higham and Mary 2019). Two paths of equal bounds may have unequal errors: bounds catch broken
kernels, measurements choose paths.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from autoprec.paths import Path
from autoprec.types import Dtype

BITS = {"fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8}
"""Significant bits; the unit roundoff of a type of p bits is 2^-p."""

_U32 = 2.0**-24
_U_TENSOR_CORE = 2.0**-23  # fp32 sums that truncate
_RMS = 0.42  # of a relative rounding error, in unit roundoffs: √(1 / (8 ln 2)), x log-uniform
_SMALLEST_TILE = 16  # keys taken at a time, at least
_USUAL_TILE = 64
_P_SHIFT = 15  # fp16 probabilities are held as 2^15 times themselves


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A bound on each element of the output.

    |o - o*| ≤ relative * Σ w|v| + p_floor * max(w) Σ|v| + v_floor * max|v|, the sums over the keys
    that the row sees and max|v| over the head. The last two are fp16's smallest numbers.
    """

    relative: float
    p_floor: float
    v_floor: float


def operand_error(path: Path, inputs: Dtype) -> float:
    """The largest relative error of an element of Q, K or V, once it is the sum of its parts."""
    return _parts_error(path.operand, path.parts, BITS[inputs])


def probability_error(path: Path) -> float:
    """The largest relative error of a probability once it is the sum of its parts."""
    return _parts_error(path.operand, path.p_parts, BITS["fp32"])


def certified(
    path: Path,
    *,
    head_dim: int,
    kv_len: int,
    largest_logit: float,
    widest_logit: float,
    inputs: Dtype = Dtype.FP32,
    output: Dtype = Dtype.FP32,
    exp_error: float = 2.0**-21,
) -> Certified:
    """What no right kernel exceeds, on a row; underflow of fp32 and of the output is left out.

    A logit is off by δ at most, relative to Σ|q||k|: rounded and dropped parts, the sum over
    head_dim, and the roundings of scale, argument and reference of the exponential. A softmax of
    logits that are each off by δ is off by e^{2δ} at most. Then come the exponential, the parts of
    P and V, the sums over the keys, and one exponential a tile where the reference rises.

    Args:
        path: The path.
        head_dim: Of q and k.
        kv_len: Keys that the row sees.
        largest_logit: The maximum over keys of |scale| Σ|q||k|, in nats.
        widest_logit: The maximum over keys of |scale| (max|q| Σ|k| + max|k| Σ|q|), in nats, max|k|
            over the head: what the logits could be if q and k filled their scaled range.
        inputs: Type of Q, K and V.
        output: Type of the output.
        exp_error: Bound on the relative error of the kernel's exponential.
    """
    u_sum = _U32 if path.operand == "fp32" else _U_TENSOR_CORE
    rho, rho_p = operand_error(path, inputs), probability_error(path)
    qk = (1 + rho) ** 2 - 1 + _dropped(path, path.parts)
    qk += _gamma(head_dim * path.qk_products, u_sum) + 4 * _U32
    scaled = _is_scaled(path, inputs)
    delta = largest_logit * qk + 7 * _U32 + (2.0**-38 * widest_logit if scaled else 0.0)
    pv = (1 + rho) * (1 + rho_p) - 1 + _dropped(path, path.p_parts)
    tiles = kv_len / _SMALLEST_TILE + 1
    exponent = 2 * delta + sum(
        -math.log1p(-error) if error < 1 else math.inf
        for error in (
            pv,
            _gamma((path.pv_products + 1) * kv_len, u_sum),
            _gamma(2 * kv_len + 4, _U32),
            exp_error * (tiles + 2),
        )
    )
    u_out = 2.0 ** -BITS[output]
    relative = math.expm1(exponent) * (1 + u_out) + u_out if exponent < 700 else math.inf
    growth = math.exp(min(exponent, 700.0))
    return Certified(
        relative=relative,
        p_floor=2.0 ** -(25 + _P_SHIFT) * growth if path.operand == "fp16" else 0.0,
        v_floor=2.0**-38 * growth if scaled else 0.0,
    )


def expected_rel_l2(
    path: Path,
    *,
    head_dim: int,
    kv_len: int,
    typical_logit: float = 1.0,
    inputs: Dtype = Dtype.FP32,
    output: Dtype = Dtype.FP32,
) -> float:
    """‖o - o*‖ / ‖o*‖ to expect where the values of different keys are independent.

    Then an independent relative error ε of every weight, or of every value, gives a rel_l2 of ε.
    Where P is split, every tile's product has an accumulator of its own; else a row's keys are
    taken as one sum, which splitting them over programs makes shorter.

    Args:
        path: The path.
        head_dim: Of q and k.
        kv_len: Keys.
        typical_logit: The root mean square of |scale| √(Σ q²k²), in nats: 1 for N(0, 1) inputs and
            the usual scale.
        inputs: Type of Q, K and V.
        output: Type of the output.
    """
    u = _RMS * 2.0 ** -BITS[path.operand]
    rho = u**path.parts if operand_error(path, inputs) else 0.0
    rho_p = u**path.p_parts if probability_error(path) else 0.0
    logits = math.hypot(rho, rho, _dropped_rms(path, path.parts, u), _sum_rms(head_dim))
    # the argument of the exponential is of the size of the distance to the largest logit
    distance = 2 + typical_logit * math.sqrt(2 * math.log(kv_len) + 1)
    tile = kv_len if path.p_parts == 1 else min(kv_len, _USUAL_TILE)
    return math.hypot(
        typical_logit * logits,
        _RMS * _U32 * distance,
        rho,
        rho_p,
        _dropped_rms(path, path.p_parts, u),
        _sum_rms(tile),
        _sum_rms(kv_len / tile),
        _RMS * 2.0 ** -BITS[output],
    )


def rounding_rel_l2(output: Dtype) -> float:
    """The rel_l2 that rounding the output costs, whatever computed it.

    With p significant bits a value m·2^e, 1 <= m < 2, is rounded to a grid of 2^(e+1-p), so its
    squared error is 4^(e+1-p) / 12 in the mean, and its share of its own square 4^(1-p) / (12·m²).
    Where values spread smoothly over several powers of two, as attention's outputs do, m is
    distributed as 1 / (m·ln 2), and the mean of 1 / m² is 3 / (8·ln 2).
    """
    return 2.0 ** (1 - BITS[output]) / math.sqrt(32 * math.log(2))


def _is_scaled(path: Path, inputs: Dtype) -> bool:
    return path.operand == "fp16" and inputs is not Dtype.FP16


def _parts_error(operand: str, parts: int, bits: int) -> float:
    """The bound on the rounding of a number of ``bits`` bits to a sum of parts."""
    held = parts * BITS[operand]
    return 0.0 if held >= bits else 2.0**-held


def _left_out(parts_a: int, parts_b: int) -> Iterator[int]:
    """i + j for each product of parts (i, j) that is not formed."""
    most = max(parts_a, parts_b)
    return (i + j for i in range(parts_a) for j in range(parts_b) if i + j >= most)


def _dropped(path: Path, parts: int) -> float:
    """What is left out of a product of a number of ``parts`` parts with Q's, K's or V's parts."""
    u = 2.0 ** -BITS[path.operand]
    return (1 + u) ** 2 * sum(u**order for order in _left_out(parts, path.parts))


def _dropped_rms(path: Path, parts: int, u: float) -> float:
    return math.hypot(*(u**order for order in _left_out(parts, path.parts)))


def _gamma(terms: float, u: float) -> float:
    """The bound on the relative error of a sum of products, in any order, against Σ|a||b|."""
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _sum_rms(terms: float) -> float:
    """The expected error of a sum of independent terms of mean zero, one after another."""
    return _RMS * _U32 * math.sqrt(terms / 2)
