"""Products of queries and keys that run a tile ahead of the softmax: the same numbers, bit by bit.

What does not run ahead is held to the oracle elsewhere; so is what does, in ``test_kernels.py``.
"""

from dataclasses import replace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import kernel_cases
import pytest
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import Call
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype

# Tiles of 16 keys, of which a block of 16 queries sees from none to four in full.
_CONFIG: Config = {"block_q": 16, "block_kv": 16, "num_warps": 4, "num_stages": 2}
_LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65, 79, 80)


def _call(input_dtype: Dtype, q_len: int, kv_len: int, **changes: Any) -> Call:
    case = {"input": input_dtype, "lengths": (q_len, kv_len), "heads": (2, 1), "dims": (24, 16),
            "layout": "sliced"}  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=1)
    for x in (k, v):  # tiles have scales of their own
        x *= 2.0 ** (torch.arange(kv_len) // 8 % 5)[:, None]
    return replace(kernel_cases.guarded(q, k, v, out_dtype=torch.float32).call, **changes)


def _results(call: Call, path: str, config: Config) -> list[Tensor]:
    registry.kernel("triton-prefill").run(call, path, config)
    assert call.lse is not None
    return [call.out.clone(), call.lse.clone()]


@hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_the_same_bit_by_bit(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(["bf16", "fp16", "fp16p2", "bf16x3", "tf32"]), "path")
    q_len = data.draw(st.sampled_from([1, 15, 16, 33]), "q_len")
    kv_len = data.draw(st.sampled_from(_LENGTHS), "kv_len")
    diagonal = data.draw(st.sampled_from([None, kv_len - q_len, 0, 3, -5]), "diagonal")
    call = _call(
        data.draw(st.sampled_from(PATHS[path].inputs), "input"), q_len, kv_len,
        diagonal=diagonal,
        window_left=data.draw(st.sampled_from([None, 0, 15, 16, 40]), "window"),
        soft_cap=data.draw(st.sampled_from([None, 1.5]), "cap"),
    )  # fmt: skip
    plain = _results(call, path, _CONFIG)
    ahead = _results(call, path, {**_CONFIG, "ahead": 1})
    assert all(map(torch.equal, plain, ahead))


@pytest.mark.parametrize("kv_len", _LENGTHS)
@pytest.mark.parametrize("aligned", ["full", "bottom-right", "upper-left"])
def test_against_the_oracle(kv_len: int, aligned: str) -> None:
    case = {"input": Dtype.BF16, "lengths": (33, kv_len), "heads": (2, 1), "dims": (16, 24),
            "layout": "strided"}  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=1)
    guard = kernel_cases.guarded(
        q, k, v, out_dtype=torch.float32, layout="strided",
        diagonal=kernel_cases.diagonal(aligned, 33, kv_len),
    )  # fmt: skip
    kernel_cases.check(registry.kernel("triton-prefill"), guard, "bf16", {**_CONFIG, "ahead": 1})
