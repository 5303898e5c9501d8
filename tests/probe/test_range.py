import made_up
import pytest
import torch

from autoprec.probe.inputs import call_of
from autoprec.probe.range import has_a_range, observed


def test_what_is_observed() -> None:
    workload = made_up.workload(kv_len=200, head_dim=4, q_heads=2, kv_heads=1)
    q, k, v = torch.ones(1, 2, 200, 4), torch.ones(1, 1, 200, 4), torch.ones(1, 1, 200, 4)
    q[0, 1, 3, 2], q[0, 0, 0, 0] = -7.0, torch.inf
    assert observed(call_of(workload, q, k, v)) == {
        "q_max": 7.0, "k_max": 1.0, "v_max": 1.0, "spread_bits": 0.0,
    }  # fmt: skip
    k[:, :, 100:] *= 2.0**20  # in the tile of the first, and in the next
    k[:, :, 150:] *= 2.0**-5
    v[:, :, 5] = 0.0
    assert observed(call_of(workload, q, k, v))["spread_bits"] == pytest.approx(20.0)
    assert observed(call_of(workload, q * 0, k * 0, v * 0)) == {
        "q_max": 0.0, "k_max": 0.0, "v_max": 0.0, "spread_bits": 0.0,
    }  # fmt: skip


def test_paths_with_a_range() -> None:
    paths = ("fp16", "fp16x3", "fp32", "bf16x3", "sdpa-math")
    assert [path for path in paths if has_a_range(path)] == [
        "fp16", "fp16x3",
    ]  # fmt: skip
