"""How far a kernel may be from the fp64 oracle: derived from its path, input by input.

The oracle is given the operands as the path rounds them, so that what is left is the kernel's own.
With w the softmax of a row, o its output, sⱼ its logits in base 2, m the largest of them, and
u = 2^-p the unit roundoff of a type of p significant bits:

* QKᵀ. A sum of n products in fp32 is off by about sqrt(n) roundings of partial sums, which are at
  most Aⱼ = |factor| Σ|q||kⱼ|; twice that is allowed. A tensor core truncates as well, once for
  every 4 products. Where operands are split in c parts, products of parts i + j ≥ c are dropped:
  (c - 1) uᶜ Aⱼ. Scaling, m and the argument of the exponential are three more roundings of numbers
  up to |sⱼ| + |m| and the shift of P. An error δⱼ of a logit moves the output by
  ln 2 Σ wⱼ δⱼ |vⱼ - o|.
* The exponential has its own relative error, and so has the sum that it enters.
* P is rounded to parts of the operand type: each key by at most ρ = uᶜ (and what is dropped, as
  above), independently, so that the output moves by at most ρ Σ wⱼ|vⱼ|, and like a random walk of
  steps ρ wⱼ vⱼ / sqrt(3). fp16 also has a floor, 2^-25 of the row's largest probability.
* PV and the sum of P are sums as QKᵀ is, with partial sums of at most Σ wⱼ|vⱼ|.
* The output is rounded once more: u |o|, and 2^-25 for fp16's floor.
* Operands in fp16 are scaled so that their largest is at least 2^14; which ones share a scale is
  the kernel's to choose, and what that can change lies below 2^-38 of the largest.

What is systematic is added up: ``certain``. Roundings of P and of the output are random, with
variance u²/3: ``spread``. An element may be off by ``certain`` and 8 standard deviations, or the
worst case where that is less. The root mean square over an output may be the expected one,
and more where few rows make it up, for the elements of a row share their P.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprec.kernels.interface import DTYPES, Call, Kernel, converts
from autoprec.kernels.reference import attention
from autoprec.paths import PATHS

_BITS = {"fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8}
_U32 = 2.0**-24
_FLOOR_FP16 = 2.0**-25
_SHIFT = 15  # probabilities may be computed as 2^15 times themselves


def _round(x: Tensor, operand: str) -> Tensor:
    """fp64 numbers to the nearest of a type, as fp64."""
    if operand == "fp32":
        return x.float().double()
    if operand == "bf16":
        return x.float().bfloat16().double()  # x has no more than 24 bits here
    if operand == "fp16":
        return x.half().double()
    mantissa, exponent = torch.frexp(x)
    steps = 2.0 ** _BITS["tf32"]
    return torch.ldexp((mantissa.abs() * steps + 0.5).floor() / steps * x.sign(), exponent)


def as_path_rounds(x: Tensor, path: str) -> Tensor:
    """q, k or v in fp64 as the sum of the parts that a path makes of it."""
    scheme = PATHS[path]
    wide = x.double()
    if not converts(path, DTYPES[x.dtype]):
        return wide
    scale = 1.0
    if scheme.operand == "fp16":
        largest = wide[wide.isfinite()].abs().amax() if wide.numel() else wide.new_ones(())
        scale = 2.0 ** (15 - int(torch.frexp(largest)[1]))
    left, total = wide * scale, torch.zeros_like(wide)
    for _ in range(scheme.parts):
        part = _round(left, scheme.operand)
        left, total = left - part, total + part
    return total / scale


def operands(call: Call, path: str) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in fp64 as a path multiplies them; halves are what they hold, exactly."""
    q = as_path_rounds(call.q, path)
    if call.halves is None:
        return q, as_path_rounds(call.k, path), as_path_rounds(call.v, path)
    k, v = (
        x[: PATHS[path].parts].double().sum(0) * inverse.double()[..., None]
        for x, inverse in zip((call.halves.k, call.halves.v), call.halves.inverse, strict=True)
    )
    return q, k, v


@dataclass(frozen=True)
class Expected:
    """What a call should give, and how far from it a kernel may be.

    Attributes:
        out: fp64 ``[batch, q_heads, rows, head_dim_v]``, as are certain, spread and worst.
        lse: fp64 ``[batch, q_heads, rows]``, as is lse_bound.
        rows: The queries these are for; None: all.
    """

    out: Tensor
    certain: Tensor
    spread: Tensor
    worst: Tensor
    lse: Tensor
    lse_bound: Tensor
    rows: Tensor | None


def expected(
    call: Call, path: str, kernel: Kernel, *, tensor_cores: bool, rows: Tensor | None = None
) -> Expected:
    """Derive what a kernel should make of a call, as the module says.

    Args:
        call: Finite inputs; out gives the dtype alone.
        path: The precision path.
        kernel: The row, for the error of its exponential.
        tensor_cores: Whether products run on a GPU.
        rows: The queries to look at; None: all.
    """
    scheme = PATHS[path]
    q, k, v = operands(call, path)
    out, lse = attention(
        q, k, v, diagonal=call.diagonal, sm_scale=call.sm_scale, window_left=call.window_left,
        soft_cap=call.soft_cap, sinks=call.sinks, rows=rows,
    )  # fmt: skip
    chosen = torch.arange(q.shape[2], device=q.device) if rows is None else rows
    position = chosen + (k.shape[2] - q.shape[2] if call.diagonal is None else call.diagonal)
    q = q[:, :, chosen]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    factor = call.sm_scale / math.log(2)
    s = factor * q @ k.mT
    if call.soft_cap is not None:
        cap = call.soft_cap / math.log(2)
        s = cap * torch.tanh(s / cap)
    seen = torch.ones_like(s, dtype=torch.bool)
    keys = torch.arange(k.shape[2], device=q.device)
    if call.diagonal is not None:
        seen &= keys <= position[:, None]
    if call.window_left is not None:
        seen &= keys >= (position - call.window_left)[:, None]
    if not k.shape[2]:
        return Expected(out, *(torch.zeros_like(out),) * 3, lse, torch.full_like(lse, _U32), rows)
    m = s.masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
    m = m.masked_fill(m == -math.inf, 0.0)
    w = torch.exp2(s - lse.nan_to_num(neginf=0.0)[..., None]).masked_fill(~seen, 0.0)

    def sum_error(terms: int) -> float:
        return 2 * math.sqrt(terms) * _U32 + (terms / 4 * 2 * _U32 if tensor_cores else 0.0)

    u = 2.0 ** -_BITS[scheme.operand]
    dropped = (scheme.parts - 1) * u**scheme.parts
    absolute = abs(factor) * q.abs() @ k.abs().mT
    delta = absolute * (sum_error(q.shape[-1] * scheme.qk_products) + dropped)
    delta += 3 * _U32 * (s.abs() + m.abs() + _SHIFT)
    if call.soft_cap is not None:
        delta += 6 * _U32 * s.abs()
    fp16 = scheme.operand == "fp16"
    if fp16 and (converts(path, DTYPES[call.q.dtype]) or converts(path, DTYPES[call.k.dtype])):
        delta += 2.0**-38 * abs(factor) * q.abs().sum(-1)[..., None] * k.abs().amax()
        delta += 2.0**-38 * abs(factor) * q.abs().amax() * k.abs().sum(-1)[..., None, :]

    moved = w * delta
    values = w @ v.abs()
    sums = sum_error(k.shape[2] * scheme.pv_products)
    certain = math.log(2) * (moved @ v.abs() + moved.sum(-1, keepdim=True) * out.abs())
    certain += 2 * (kernel.exp_error(path) + sums) * values + 4 * _U32 * out.abs()
    if scheme.operand == "fp16":
        certain += _FLOOR_FP16 * w.amax(-1, keepdim=True) * (seen.double() @ v.abs())
    if fp16 and (converts(path, DTYPES[call.k.dtype]) or call.halves is not None):
        certain += 2.0**-38 * v.abs().amax() * (1 if call.halves is None else k.shape[2])
    u_out = torch.finfo(call.out.dtype).eps / 2
    if call.out.dtype == torch.float16:
        certain += _FLOOR_FP16
    rho = u**scheme.p_parts + dropped
    return Expected(
        out=out,
        certain=certain,
        spread=torch.sqrt((rho**2 * (w**2 @ v**2) + (u_out * out) ** 2) / 3),
        worst=rho * values + u_out * out.abs(),
        lse=lse,
        lse_bound=moved.sum(-1)
        + (kernel.exp_error(path) + sum_error(k.shape[2])) / math.log(2)
        + 3 * _U32 * (lse.nan_to_num(neginf=0.0).abs() + m[..., 0].abs() + _SHIFT),
        rows=rows,
    )


def check(call: Call, want: Expected) -> None:
    """Compare what a kernel wrote into a call with what was expected of it.

    Raises:
        AssertionError: With the place and the size of what is worst.
    """
    out = call.out.double()
    if want.rows is not None:
        out = out[:, :, want.rows]
    blank = want.lse == -math.inf
    assert (out[(want.out == 0).all(-1)] == 0).all(), "a row that sees no key is not 0"
    error = (out - want.out).abs()
    assert error.isfinite().all(), f"{(~error.isfinite()).sum()} elements are not finite"
    allowed = want.certain + torch.minimum(8 * want.spread, want.worst)
    _within(error, allowed, "output")
    count = max(1, int((~blank).sum()))
    rms, expected_rms, certain_rms = (
        float(x.square().mean().sqrt()) for x in (error, want.spread, want.certain)
    )
    limit = (1 + 2 / math.sqrt(count)) * expected_rms + certain_rms
    assert rms <= limit, (
        f"the output is off by {rms:.2e} in the root mean square, above {limit:.2e}"
    )
    if call.lse is not None:
        lse = call.lse.double()
        if want.rows is not None:
            lse = lse[:, :, want.rows]
        assert (lse[blank] == -math.inf).all(), "the LSE of a row that sees no key is not -inf"
        _within((lse - want.lse)[~blank].abs(), want.lse_bound[~blank], "LSE")


def _within(error: Tensor, allowed: Tensor, name: str) -> None:
    if not error.numel():
        return
    ratio = (error / allowed.clamp_min(1e-300)).nan_to_num(nan=math.inf)
    at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
    assert ratio[at] <= 1, f"{name} at {at} is off by {error[at]:.2e}, above {allowed[at]:.2e}"
