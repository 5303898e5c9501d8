"""The main job on this CPU: tune, load the profile, and check its promise from outside."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoprec import load_plan, profile
from autoprec.types import Status

SIZES = (
    "--device", "cpu", "--phase", "prefill,decode", "--batch", "2", "--kv-len", "48",
    "--heads", "6/2", "--head-dim", "24",
)  # fmt: skip


def autoprec(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "autoprec", *words],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention in fp64, aligned bottom-right, written down once more."""
    q, k, v = (x.double() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    seen = torch.ones(logits.shape[-2:]).tril(k.shape[2] - q.shape[2]).bool()
    return logits.masked_fill(~seen, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("budget", [1e-2, 2e-5])
def test_what_tune_promises_holds_on_other_inputs(tmp_path: Path, budget: float) -> None:
    file = tmp_path / "machine.json"
    ended = autoprec("tune", *SIZES, "--budget", str(budget), "--time-limit", "30",
                     "--effort", "quick", "-o", str(file))  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert str(file) in ended.stdout
    found = profile.read(file)
    assert len(found.choices) == 2
    assert not any(row.status is Status.FAILED for row in found.measurements)
    plan = load_plan(file, device="cpu")
    generator = torch.Generator().manual_seed(7)
    for choice in found.choices:
        it = choice.workload
        q = torch.randn(it.batch, it.q_heads, it.q_len, it.head_dim, generator=generator)
        k, v = torch.randn(2, it.batch, it.kv_heads, it.kv_len, it.head_dim, generator=generator)
        out = plan.attention(q, k, v, causal=True).double()
        error = (out - exact(q, k, v)).norm() / exact(q, k, v).norm()
        # N(0, 1) inputs as in the family gauss, so the error is what was measured but for the
        # draw; over the 12 rows of the decode a norm moves by 1/sqrt(2 * 12) = 20 %, and there
        # are two of them
        assert error <= 1.4 * found_error(found, it, choice.path)
        assert error <= budget


def test_what_no_memory_is_large_enough_for_is_not_called_a_want_of_time(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    ended = autoprec("tune", "--device", "cpu", "--phase", "decode", "--batch", "1",
                     "--kv-len", "999999999", "--time-limit", "25", "-o", str(file))  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-4:] == [
        "decode b1 q1 kv999999999 32/8 d128 causal fp32: nothing ran",
        f"saved {file}",
        "autoprec: no path tried runs on 1 of 1 workload.",
        f"try: autoprec explain {file}, which says why",
    ]
    why = autoprec("explain", str(file), "--phase", "decode").stdout
    assert "fp32: unsupported: it needs 15258.8 GiB, and " in why


def found_error(found: profile.Profile, workload: object, path: str) -> float:
    return max(
        row.errors["gauss"]["rel_l2"]
        for row in found.measurements
        if row.workload == workload and row.path == path and row.status is Status.OK
    )
