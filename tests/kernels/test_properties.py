"""What every kernel must hold beside being near the oracle: each with a few shapes, all paths."""

from typing import Any

import bounds
import hypothesis
import hypothesis.strategies as st
import kernel_cases
import pytest
import torch
from torch import Tensor

from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, run_launches
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Phase

_ALL = kernel_cases.parameters()
# fp16 from fp32 needs scales; cpu-flash has none and says so
_FP16 = kernel_cases.parameters(
    lambda row, path: (
        PATHS[path].operand == "fp16"
        and Dtype.FP32 in PATHS[path].inputs
        and row.name != "cpu-flash"
    )
)


def _lengths(row: Kernel) -> tuple[int, int]:
    return (2, 150) if row.phases == (Phase.DECODE,) else (35, 70)


def _case(row: Kernel, path: str, **changes: Any) -> dict[str, Any]:
    """A case of a kernel and path, with the narrowest results that lose nothing of it."""
    input_dtype = PATHS[path].inputs[0]
    out = Dtype(path) if row.name == "cpu-flash" and path != "fp32" else Dtype.FP32
    if row.name == "cpu-flash" and path == "fp16":
        input_dtype = Dtype.FP16
    return {
        "path": path, "input": input_dtype, "out": out, "lengths": _lengths(row), "heads": (2, 1),
        "dims": (24, 24), "layout": "bhsd", "mask": "bottom-right", "config": 0, "scale": 1.0,
    } | changes  # fmt: skip


def _config(row: Kernel, case: dict[str, Any], device: str) -> Config:
    target = kernel_cases.target(row, device)
    return row.configs(str(case["path"]), kernel_cases.workload(row, case), target)[0]


def _guarded(case: dict[str, Any], q: Tensor, k: Tensor, v: Tensor) -> kernel_cases.Guarded:
    diagonal = kernel_cases.diagonal(str(case["mask"]), q.shape[2], k.shape[2])
    return kernel_cases.guarded(q, k, v, out_dtype=TORCH_DTYPES[case["out"]], diagonal=diagonal)


@pytest.mark.parametrize(("row", "path", "device"), _ALL)
def test_same_bits_twice_and_without_an_lse(row: Kernel, path: str, device: str) -> None:
    case = _case(row, path)
    q, k, v = kernel_cases.inputs(case, device, batch=1)
    first, second = _guarded(case, q, k, v), _guarded(case, q, k, v)
    third = kernel_cases.guarded(
        q, k, v, out_dtype=first.call.out.dtype, diagonal=first.call.diagonal, with_lse=False
    )
    for guard in (first, second, third):
        row.run(guard.call, path, _config(row, case, device))
        guard.assert_untouched()
    assert first.call.lse is not None
    assert second.call.lse is not None
    assert torch.equal(first.call.out, second.call.out)
    assert torch.equal(first.call.lse, second.call.lse)
    assert torch.equal(first.call.out, third.call.out)


@pytest.mark.parametrize(("row", "path", "device"), _ALL)
@pytest.mark.parametrize("bits", [0x7FC00000, -1], ids=["quiet", "all-ones"])
def test_nan_in_a_query_stays_in_its_row(row: Kernel, path: str, device: str, bits: int) -> None:
    case = _case(row, path)
    q, k, v = kernel_cases.inputs(case, device, batch=1)
    clean, poisoned = _guarded(case, q, k, v), _guarded(case, q.clone(), k, v)
    nan = torch.tensor([bits], dtype=torch.int32).view(torch.float32).to(q.dtype)
    poisoned.call.q[0, 1, 1, 3] = nan[0]
    for guard in (clean, poisoned):
        row.run(guard.call, path, _config(row, case, device))
    for a, b in ((poisoned.call.out, clean.call.out), (poisoned.call.lse, clean.call.lse)):
        assert a is not None
        assert b is not None
        assert a[0, 1, 1].isnan().all()
        others = torch.ones(a.shape[:3], dtype=torch.bool)
        others[0, 1, 1] = False
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize(("row", "path", "device"), _FP16)
@pytest.mark.parametrize(
    ("keys", "values"), [(1e-6, 1e-6), (1e4, 1e4), (1e30, 1e30), (1.0, 1e-30)], ids=str
)
def test_size_alone_does_not_break_fp16(
    row: Kernel, path: str, device: str, keys: float, values: float
) -> None:
    """Keys and values of a size, with a scale on the logits that makes up for the keys'."""
    case = _case(row, path)
    q, k, v = kernel_cases.inputs(case, device, batch=1)
    rows = torch.logspace(-3, 3, q.shape[2], device=device)[:, None]  # queries of all sizes as well
    guard = kernel_cases.guarded(
        (q * rows).clamp(-8, 8), k * keys, v * values,
        out_dtype=torch.float32, diagonal=k.shape[2] - q.shape[2], sm_scale=0.2 / keys,
    )  # fmt: skip
    kernel_cases.check(row, guard, path, _config(row, case, device))
    assert guard.call.out.abs().max() > 0.1 * values


@pytest.mark.parametrize(("row", "path", "device"), _FP16)
def test_small_probabilities_count_in_fp16(row: Kernel, path: str, device: str) -> None:
    """A key that takes most of the weight, with a value of zero: the others are the output."""
    case = _case(row, path)
    q, k, v = kernel_cases.inputs(case, device, batch=1)
    q, k, v = q * 0 + 1, k * 0.01, v.clone()
    k[:, :, 0] = 14 / k.shape[3] / 0.25  # 14 nats above: 2^-20 of its weight for each other
    v[:, :, 0] = 0
    guard = _guarded(case | {"mask": "full"}, q, k, v)
    row.run(guard.call, path, _config(row, case, device))
    want = bounds.expected(guard.call, path, row, tensor_cores=False)
    # fp16's floor is 2^-25, or 2^-40 where P is 2^15 times itself: that is 2^-5 or 2^-20 of the
    # others, for their last part. One part alone has 2^-11 of its own.
    unit = 2.0**-11 if PATHS[path].p_parts == 1 else 2.0**-18
    error = (guard.call.out - want.out).norm() / want.out.norm()
    assert error < unit, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    ("row", "path", "device"), kernel_cases.parameters(lambda row, path: row.prepare is not None)
)
def test_prepared_keys_and_values_give_the_same_bits(row: Kernel, path: str, device: str) -> None:
    case = _case(row, path)
    if not row.converts(path, case["input"]):
        pytest.skip("reads K and V as they are")
    q, k, v = kernel_cases.inputs(case, device, batch=1)
    config = _config(row, case, device)
    assert row.prepare is not None
    prepared = row.prepare(k, v, path, config)
    run_launches(prepared.launches)
    plain = _guarded(case, q, k, v)
    row.run(plain.call, path, config)
    again = _guarded(case, q, torch.full_like(k, torch.nan), torch.full_like(v, torch.nan))
    call = Call(**{**vars(again.call), "prepared": prepared})
    row.run(call, path, config)
    assert torch.equal(call.out, plain.call.out)


@pytest.mark.parametrize("row", kernel_cases.rows("cpu"), ids=lambda row: row.name)
@hypothesis.settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    phases=[hypothesis.Phase.generate],  # shrinking takes minutes in the interpreter
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_any_shape_and_strides(row: Kernel, data: st.DataObject) -> None:
    q_len = data.draw(st.integers(1, 16), "q_len")
    kv_len = data.draw(st.integers(1, 150), "kv_len")
    kv_heads = data.draw(st.integers(1, 2), "kv_heads")
    group = data.draw(st.integers(1, 5), "group")
    dim = data.draw(st.integers(1, 80), "head_dim")
    dim_v = dim if row.name == "cpu-flash" else data.draw(st.integers(1, 80), "head_dim_v")
    case = _case(
        row, data.draw(st.sampled_from(row.paths), "path"),
        lengths=(q_len, kv_len), heads=(kv_heads * group, kv_heads), dims=(dim, dim_v),
        layout=data.draw(st.sampled_from(kernel_cases.LAYOUTS), "layout"),
    )  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=data.draw(st.integers(1, 2), "batch"))
    diagonal = data.draw(st.none() | st.integers(-q_len - 1, kv_len + 1), "diagonal")
    guard = _guarded(case, q, k, v)
    guard = kernel_cases.guarded(
        q, k, v, out_dtype=guard.call.out.dtype, layout=str(case["layout"]), diagonal=diagonal,
        sm_scale=data.draw(st.sampled_from([0.0, 0.1, -0.3]), "sm_scale"),
    )  # fmt: skip
    kernel_cases.check(row, guard, str(case["path"]), _config(row, case, "cpu"))
