"""The error of every kernel and path against the error model of ``policy/bounds.py``.

Triton kernels run in the interpreter; marked ``cuda``, they are compiled and rows are longer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel
from autoprec.kernels.reference import attention
from autoprec.paths import PATHS
from autoprec.policy import bounds
from autoprec.types import Config, Dtype, Phase

_DIM = 64
_KEYS = 256
_CONFIGS: dict[str, Config] = {
    "triton-prefill": {"block_q": 64, "block_kv": 64, "num_warps": 4, "num_stages": 2},
    "triton-decode": {"block_kv": 64, "split": 128, "num_warps": 4, "num_stages": 2},
    "hopper-prefill": {"block_q": 128, "block_kv": 64, "num_stages": 2, "programs_per_sm": 1},
    "cpu-blocked": {"block_q": 32, "block_kv": 64},
    "cpu-flash": {},
}
_ROWS = dict(PATHS)  # as they are, whatever a test plants
_SCALE = _DIM**-0.5


def _gauss(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
    pass


def _outlier(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
    for x in (q, k, v):
        hit = torch.rand(x.shape, generator=draw) < 0.001
        x += 10 * torch.randn(x.shape, generator=draw) * hit


def _sink(lead: float, value: float) -> Callable[[Tensor, Tensor, Tensor, Any], None]:
    """The first key's logit is lead nats, the others' N(0, 1); its value is small."""

    def fill(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
        q[..., 0] = 1.0
        k[..., 0] = 0.0
        k[:, :, 0] = 0.0
        k[:, :, 0, 0] = lead / _SCALE
        v[:, :, 0] *= value

    return fill


def _channel_bias(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
    k[..., 3] += 25
    k[..., 17] -= 20
    q[..., [3, 17]] *= 4


def _peaky(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
    q *= 9


def _times(factor: float) -> Callable[[Tensor, Tensor, Tensor, Any], None]:
    def fill(q: Tensor, k: Tensor, v: Tensor, draw: torch.Generator) -> None:
        for x in (q, k, v):
            x *= factor

    return fill


_FAMILIES = {
    "gauss": _gauss,
    "outlier": _outlier,
    **{f"sink {lead}": _sink(lead, 0.1) for lead in (4, 8, 12, 16)},
    "worthless sink": _sink(16, 0.0),
    "channel bias": _channel_bias,
    "peaky": _peaky,
    "tiny": _times(1e-6),
    "large": _times(1e4),
    "huge": _times(1e4),
}
_MODELLED = [name for name in _FAMILIES if name not in ("tiny", "large", "huge")]
# their logits are brought back to those of gauss
_FACTORS = {"tiny": 1e-6, "large": 1e4}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The error of one output: of all of it, of the worst row, and against the certified bound."""

    rel_l2: float
    worst_row: float
    share_of_bound: float


def _call(row: Kernel, path: str, family: str, *, device: str, rows: int, keys: int) -> Call:
    draw = torch.Generator().manual_seed(1)
    shapes = ((1, 1, rows, _DIM), (1, 1, keys, _DIM), (1, 1, keys, _DIM))
    q, k, v = (torch.randn(shape, generator=draw) for shape in shapes)
    _FAMILIES[family](q, k, v, draw)
    # cpu-flash knows one type for operands and results
    narrow = row.name == "cpu-flash"
    dtype = TORCH_DTYPES[Dtype(path) if narrow else _ROWS[path].inputs[0]]
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    return Call(
        q=q, k=k, v=v,
        out=torch.empty(q.shape, dtype=dtype if narrow else torch.float32, device=device),
        lse=None, diagonal=None, sm_scale=_SCALE / _FACTORS.get(family, 1.0) ** 2,
    )  # fmt: skip


def _bound(row: Kernel, path: str, call: Call) -> Tensor:
    """The certified bound of every element of the output, from the inputs."""
    q, k, v = (x.double() for x in (call.q, call.k, call.v))
    w = torch.softmax(call.sm_scale * q @ k.mT, -1)
    scale = abs(call.sm_scale)
    largest = scale * (q.abs() @ k.abs().mT).amax(-1)
    widest = scale * (q.abs().amax(-1) * k.abs().sum(-1).amax() + k.abs().amax() * q.abs().sum(-1))
    certified = [
        bounds.certified(
            _ROWS[path], head_dim=_DIM, kv_len=k.shape[2], largest_logit=logit, widest_logit=wide,
            inputs=_dtype(call.q), output=_dtype(call.out), exp_error=row.exp_error(path),
        )
        for logit, wide in zip(largest.flatten().tolist(), widest.flatten().tolist(), strict=True)
    ]  # fmt: skip
    relative, p_floor, v_floor = (
        w.new_tensor([getattr(one, name) for one in certified]).view(*w.shape[:3], 1)
        for name in ("relative", "p_floor", "v_floor")
    )
    floors = p_floor * w.amax(-1, keepdim=True) * v.abs().sum(-2, keepdim=True)
    return relative * (w @ v.abs()) + floors + v_floor * v.abs().amax()


def _dtype(x: Tensor) -> Dtype:
    return {theirs: ours for ours, theirs in TORCH_DTYPES.items()}[x.dtype]


def _measure(
    row: Kernel, path: str, family: str, *, device: str = "cpu", keys: int = _KEYS
) -> Measured:
    rows = 16 if row.phases == (Phase.DECODE,) else 64
    call = _call(row, path, family, device=device, rows=rows, keys=keys)
    row.run(call, path, _CONFIGS[row.name])
    exact, _ = attention(call.q, call.k, call.v, diagonal=None, sm_scale=call.sm_scale)
    error = (call.out.double() - exact).abs()
    by_row = error.norm(dim=-1) / exact.norm(dim=-1)
    return Measured(
        rel_l2=float(error.norm() / exact.norm()),
        worst_row=float(by_row.max()),
        share_of_bound=float((error / _bound(row, path, call)).max()),
    )


@functools.cache
def _measured(name: str, path: str, family: str) -> Measured:
    return _measure(registry.kernel(name), path, family)


def _expected(name: str, path: str, keys: int = _KEYS) -> float:
    inputs, output = _ROWS[path].inputs[0], Dtype.FP32
    if name == "cpu-flash":
        inputs = output = Dtype(path)
    return bounds.expected_rel_l2(
        _ROWS[path], head_dim=_DIM, kv_len=keys, inputs=inputs, output=output
    )


def _pairs(devices: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for row in registry.kernels():
        if row.device in devices:
            yield from ((row.name, path) for path in row.paths)


_HERE = list(_pairs(("cpu", "triton")))
_TRITON = sorted({name for name, _ in _pairs(("triton",))})
# The model knows roundings but not the order of a library's sums, nor how far they cancel.
_EXPECTED_WITHIN = 2.0


def assert_as_expected(name: str, path: str, rel_l2: float, expected: float) -> None:
    low, high = expected / _EXPECTED_WITHIN, expected * _EXPECTED_WITHIN
    assert low <= rel_l2 <= high, f"{name} {path}: {rel_l2:.2e} is not in {low:.2e}…{high:.2e}"


@pytest.mark.parametrize(("name", "path"), _HERE)
def test_no_error_exceeds_the_certified_bound(name: str, path: str) -> None:
    families = list(_MODELLED)
    if (name, path) == ("cpu-flash", "fp16"):
        families.remove("worthless sink")  # its fp16 output of 1e-7 underflows
    shares = {family: _measured(name, path, family).share_of_bound for family in families}
    assert max(shares.values()) <= 1, shares


@pytest.mark.parametrize(("name", "path"), _HERE)
def test_the_error_on_gauss_is_the_expected_one(name: str, path: str) -> None:
    got = _measured(name, path, "gauss").rel_l2
    assert_as_expected(name, path, got, _expected(name, path))
    if name != "cpu-flash":  # the table is for fp32 results
        ratio = got / _ROWS[path].expected_rel_l2
        assert 1 / 3 <= ratio <= 3, f"{name} {path}: {ratio:.2f} times the table's error"


@pytest.mark.parametrize("name", [*_TRITON, "cpu-blocked"])
def test_paths_are_ordered_as_the_table_says(name: str) -> None:
    paths = registry.kernel(name).paths
    got = {path: _measured(name, path, "gauss").rel_l2 for path in paths}
    table = {path: _ROWS[path].expected_rel_l2 for path in paths}
    wrong = [(a, b) for a in paths for b in paths if table[a] > 3 * table[b] and got[a] <= got[b]]
    assert wrong == []


_HARD = [name for name in _FAMILIES if name.startswith("sink")] + ["channel bias", "peaky"]


def _fp32_like(row: str, family: str, worst_row: float) -> None:
    """Fail where the worst row is above max(twice the fp32 path's, 2^-20)."""
    limit = max(2 * _measured(row, "fp32", family).worst_row, 2.0**-20)
    assert worst_row <= limit, f"{row} on {family}: {worst_row:.2e} is above {limit:.2e}"


@pytest.mark.parametrize("name", _TRITON)
@pytest.mark.parametrize("family", _HARD)
def test_fp16x3_is_as_good_as_fp32_on_hard_inputs(name: str, family: str) -> None:
    _fp32_like(name, family, _measured(name, "fp16x3", family).worst_row)


@pytest.mark.parametrize(("name", "path"), _HERE)
@pytest.mark.parametrize("family", ["tiny", "large"])
def test_size_does_not_matter(name: str, path: str, family: str) -> None:
    if _ROWS[path].inputs[0] is Dtype.FP16 or (name, path) == ("cpu-flash", "fp16"):
        pytest.skip("fp16 inputs of 1e-6 have three bits, and logits of 1e4 squared are the same")
    got, gauss = (_measured(name, path, inputs).rel_l2 for inputs in (family, "gauss"))
    assert got <= 1.5 * gauss


@pytest.mark.parametrize(("name", "path"), [it for it in _HERE if it[0] != "cpu-flash"])
def test_logits_may_be_huge(name: str, path: str) -> None:
    """N(0, 1) times 1e4, the scale as it is: one key takes all, and the output is its value."""
    assert _measured(name, path, "huge").rel_l2 <= 1.5 * _ROWS[path].expected_rel_l2


# Accuracy lost on purpose.


def _without_low_b(a: Any, b: Any, acc: Any, OPERAND: str, PARTS_A: int, PARTS_B: int) -> Any:  # noqa: N803
    from autoprec.kernels import blocks

    if PARTS_A >= 2:
        acc = blocks._dot(a[1], b[0], acc, OPERAND)
    return blocks._dot(a[0], b[0], acc, OPERAND)


def _without_low_a(a: Any, b: Any, acc: Any, OPERAND: str, PARTS_A: int, PARTS_B: int) -> Any:  # noqa: N803
    from autoprec.kernels import blocks

    if PARTS_B >= 2:
        acc = blocks._dot(a[0], b[1], acc, OPERAND)
    return blocks._dot(a[0], b[0], acc, OPERAND)


# module of the kernels package, name in it, what stands there instead, path
_BUGS: dict[str, tuple[str, str, Any, str]] = {
    "tf32 truncates": ("blocks", "round_tf32", lambda x: x, "tf32"),
    "lo q times hi k is left out": ("steps", "products", _without_low_a, "fp16x3"),
    "hi q times lo k is left out": ("steps", "products", _without_low_b, "fp16x3"),
    "lo p times hi v is left out": ("blocks", "products", _without_low_a, "fp16x3"),
    "hi p times lo v is left out": ("blocks", "products", _without_low_b, "fp16x3"),
    "lo q times hi k is left out (bf16)": ("steps", "products", _without_low_a, "bf16x3"),
    "hi p times lo v is left out (bf16)": ("blocks", "products", _without_low_b, "bf16x3"),
    "hi p times lo v is left out (tf32)": ("blocks", "products", _without_low_b, "tf32x3"),
}
_NARROWER = {
    "p is not split (bf16)": ("bf16p2", {"p_parts": 1}),
    "p is not split (fp16)": ("fp16p2", {"p_parts": 1}),
    "p is not split (x3)": ("bf16x3", {"p_parts": 1}),
    "two parts for three": ("bf16x6", {"parts": 2, "p_parts": 2}),
    "bf16 for fp16": ("fp16", {"operand": "bf16"}),
}


def _module(name: str) -> Any:
    from autoprec.kernels import decode, prefill

    return {"triton-prefill": prefill, "triton-decode": decode}[name]


def _assert_noticed(name: str, path: str) -> None:
    got = _measure(registry.kernel(name), path, "gauss")
    with pytest.raises(AssertionError):
        assert_as_expected(name, path, got.rel_l2, _expected(name, path))


@pytest.mark.parametrize("name", _TRITON)
@pytest.mark.parametrize("bug", _BUGS)
def test_a_lost_rounding_or_product_is_noticed(
    name: str, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprec.kernels import blocks, steps

    where, attribute, replacement, path = _BUGS[bug]
    monkeypatch.setattr({"blocks": blocks, "steps": steps}[where], attribute, replacement)
    _assert_noticed(name, path)


@pytest.mark.parametrize("name", _TRITON)
@pytest.mark.parametrize("bug", _NARROWER)
def test_a_narrower_scheme_is_noticed(name: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, change = _NARROWER[bug]
    monkeypatch.setitem(PATHS, path, dataclasses.replace(PATHS[path], **change))
    _assert_noticed(name, path)


@pytest.mark.parametrize("name", _TRITON)
def test_a_missing_shift_of_p_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_module(name), "P_SHIFT_FP16", 0)
    got = _measure(registry.kernel(name), "fp16x3", "sink 16")
    with pytest.raises(AssertionError):
        _fp32_like(name, "sink 16", got.worst_row)


# On a GPU tensor cores truncate as they accumulate, which long rows show.
_LONG = 8192


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Specified kernel cache directory")  # of torch's own kernels
@pytest.mark.parametrize(("name", "path"), list(_pairs(("triton", "hopper"))))
def test_compiled_kernels_on_long_rows(name: str, path: str) -> None:
    from autoprec.probe.device import target

    row = registry.kernel(name)
    if row.device_refusals(target(torch.device("cuda"))):
        pytest.skip("; ".join(row.device_refusals(target(torch.device("cuda")))))
    got = _measure(row, path, "gauss", device="cuda", keys=_LONG)
    assert got.share_of_bound <= 1
    assert got.rel_l2 <= 3 * _expected(name, path, _LONG)
    assert math.isfinite(got.worst_row)
