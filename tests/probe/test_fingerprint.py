"""The fingerprint: what right products do, and planted ones that do less are noticed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch
from fake_kernels import fake
from torch import Tensor

from autoprec import registry
from autoprec.budget import Budget
from autoprec.paths import PATHS
from autoprec.policy.bounds import BITS
from autoprec.probe import fingerprint
from autoprec.probe.fingerprint import CLAIMS, Multiply, look, refusals
from autoprec.tune import tune
from autoprec.types import DotMode, Status

CPU = torch.device("cpu")

RIGHT = {
    name: DotMode(
        mode=name,
        rows=16,
        operand_bits=claim.bits,
        operand_rounding=claim.rounding,
        products_exact=True,
        accumulator_bits=24,
        accumulator_rounding="nearest",
        guard_bits=3,
        subnormal_operands=True,
        subnormal_sums=True,
    )
    for name, claim in CLAIMS.items()
}


def test_claims_are_those_of_the_bounds() -> None:
    assert {name: claim.bits for name, claim in CLAIMS.items()} == BITS
    assert {path.operand for path in PATHS.values()} == set(CLAIMS)


def test_a_cpu_does_what_it_claims() -> None:
    modes, remarks = fingerprint.take(CPU)
    assert modes == [replace(RIGHT[name], rows=64) for name in CLAIMS]
    assert remarks == []
    assert [refusals(path, modes) for path in PATHS] == [[] for _ in PATHS]


@pytest.mark.parametrize("operand", CLAIMS)
def test_kernels_products_in_the_interpreter(operand: str) -> None:
    pytest.importorskip("triton")
    assert look(operand, operand, 16, fingerprint.triton_product(operand), CPU) == RIGHT[operand]


def test_the_hardware_truncates_tf32() -> None:
    pytest.importorskip("triton")
    mode = look("raw", "tf32", 16, fingerprint.triton_product("tf32", rounded=False), CPU)
    assert mode == replace(RIGHT["tf32"], mode="raw", operand_rounding="toward zero")


# Products of fp32 tensors that are right, and what may go wrong with them.


def _bits(x: Tensor, kept: int, *, nearest: bool = True) -> Tensor:
    """x rounded to so many significant bits, or cut off."""
    mantissa, exponent = torch.frexp(x.double())
    scaled = mantissa * 2.0**kept
    return torch.ldexp(scaled.round() if nearest else scaled.trunc(), exponent - kept)


def _product(
    operand: str,
    *,
    kept: int | None = None,
    nearest: bool = True,
    before: Callable[[Tensor], Tensor] = lambda x: x,
    round_product: int = 64,
    sums: Callable[[Tensor], Tensor] = lambda x: x.float(),
) -> Multiply:
    """Terms added one by one in fp64, and each sum brought to what the accumulator holds."""
    kept = CLAIMS[operand].bits if kept is None else kept

    def multiply(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a, b = (before(_bits(x, kept, nearest=nearest)) for x in (a, b))
        total = sums(c.double()).double()
        for k in range(a.shape[2]):
            term = a[:, :, k, None] * b[:, None, k]
            if round_product < 64:
                term = _bits(term, round_product)
            total = sums(total + term).double()
        return total.float()

    return multiply


def _no_subnormals(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 2.0**-14, 0.0, x)


def _one_tile_corner(multiply: Multiply) -> Multiply:
    """A product whose last element is off by a bit."""

    def broken(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        out = multiply(a, b, c)
        out[:, -1, -1] = _bits(out[:, -1, -1], 23).float()
        return out

    return broken


PLANTED: dict[str, tuple[str, Multiply, list[str]]] = {
    "right": ("fp16", _product("fp16"), []),
    "sums cut off, as on tensor cores": (
        "fp16", _product("fp16", sums=lambda x: _bits(x, 24, nearest=False)), [],
    ),
    "operands cut to bf16": (
        "fp16",
        _product("fp16", kept=8, nearest=False),
        ["fp16 products here keep 8 bits of an operand, not 11 (tiles of 16 rows)"],
    ),
    "tf32 where IEEE was asked for": (
        "fp32",
        _product("fp32", kept=11),
        ["fp32 products here keep 11 bits of an operand, not 24 (tiles of 16 rows)"],
    ),
    "operands truncated": (
        "tf32",
        _product("tf32", nearest=False),
        ["tf32 products here round operands toward zero, not nearest (tiles of 16 rows)"],
    ),
    "sums in 16 bits": (
        "fp16",
        _product("fp16", sums=lambda x: x.half()),
        ["fp16 products here keep 11 bits of a sum, not 24 (tiles of 16 rows)"],
    ),
    "sums as of fp8 on Hopper": (
        "bf16",
        _product("bf16", sums=lambda x: _bits(x, 14, nearest=False)),
        ["bf16 products here keep 14 bits of a sum, not 24 (tiles of 16 rows)"],
    ),
    "fp32 sums cut off": (
        "fp32",
        _product("fp32", sums=lambda x: _bits(x, 24, nearest=False)),
        ["fp32 products here round sums toward zero, not nearest (tiles of 16 rows)"],
    ),
    "products rounded": (
        "fp16",
        _product("fp16", round_product=16),
        ["fp16 products here round the product of two operands (tiles of 16 rows)"],
    ),
    "subnormals flushed": (
        "fp16",
        _product("fp16", before=_no_subnormals),
        ["fp16 products here take subnormal operands as zero (tiles of 16 rows)"],
    ),
    "one element of a tile": (
        "fp16",
        _one_tile_corner(_product("fp16")),
        ["fp16 products here keep 23 bits of a sum, not 24 (tiles of 16 rows)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_products(name: str) -> None:
    operand, multiply, sentences = PLANTED[name]
    mode = look(operand, operand, 16, multiply, CPU)
    path = next(path.name for path in PATHS.values() if path.operand == operand)
    assert refusals(path, [mode]) == sentences


def test_sums_that_truncate_are_seen() -> None:
    multiply = _product("fp16", sums=lambda x: _bits(x, 24, nearest=False))
    mode = look("fp16", "fp16", 16, multiply, CPU)
    assert (mode.accumulator_rounding, mode.guard_bits) == ("toward zero", 0)


def test_a_path_speaks_of_its_own_operands() -> None:
    broken = replace(RIGHT["fp16"], operand_bits=8)
    assert refusals("bf16x3", [broken, RIGHT["bf16"]]) == []
    assert refusals("fp16x3", [broken, replace(broken, rows=64)]) == [
        "fp16 products here keep 8 bits of an operand, not 11 (tiles of 16 and 64 rows)"
    ]
    assert refusals("fp16", []) == []


def test_what_does_not_compile_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(operand: str) -> Multiply:
        if operand == "fp16":
            raise RuntimeError("no such instruction.\nmore")
        return _product(operand)

    monkeypatch.setattr(fingerprint, "_cpu", broken)
    with pytest.raises(RuntimeError):
        list(fingerprint._ways(CPU))

    def late(operand: str) -> Multiply:
        def multiply(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return broken(operand)(a, b, c)

        return multiply

    monkeypatch.setattr(fingerprint, "_cpu", late)
    modes, remarks = fingerprint.take(CPU)
    assert [mode.mode for mode in modes] == ["fp32", "tf32", "bf16"]
    assert remarks == [
        "fp16 products of 64 rows have no fingerprint: RuntimeError: no such instruction."
    ]


def test_tune_refuses_a_path_that_is_not_what_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_load", lambda: ((fake("right", paths=("bf16", "fp32")),), {}))
    rounding = fingerprint.Rounding

    class Truncating(rounding):  # type: ignore[valid-type, misc]
        """Operands of the path bf16 lose a bit more."""

        def operand(self, x: Tensor, name: str, axes: Sequence[int]) -> Any:
            y = super().operand(x, name, axes)
            return _bits(y, 7).float() if self._path == "bf16" else y

    monkeypatch.setattr(fingerprint, "Rounding", Truncating)
    workload = made_up.workload(kv_len=32, head_dim=16, q_heads=2, kv_heads=1)
    profile = tune([workload], device=CPU, budget=Budget.parse("1e-2"), paths=("bf16", "fp32"),
                   effort="quick", time_limit_s=20)  # fmt: skip
    ours = {row.path: row for row in profile.measurements if row.kernel == "right"}
    assert ours["fp32"].status is Status.OK
    assert (ours["bf16"].status, ours["bf16"].reason) == (
        Status.UNSUPPORTED,
        "bf16 products here keep 7 bits of an operand, not 8 (tiles of 64 rows)",
    )
    assert [choice.path for choice in profile.choices] == ["fp32"]
    assert {mode.mode: mode.operand_bits for mode in profile.fingerprint} == BITS | {"bf16": 7}


@pytest.mark.cuda
def test_this_gpu_does_what_it_claims() -> None:
    modes, remarks = fingerprint.take(torch.device("cuda"))
    assert remarks == []
    assert {path: refusals(path, modes) for path in PATHS} == {path: [] for path in PATHS}
    raw = next(mode for mode in modes if mode.mode == fingerprint.UNROUNDED)
    assert (raw.operand_bits, raw.operand_rounding) == (11, "toward zero")
