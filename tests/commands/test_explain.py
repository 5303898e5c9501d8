"""What ``autoprec explain`` says of a workload that was not measured: what a plan would launch."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
import torch

from autoprec import cli, registry
from autoprec import profile as profiles
from autoprec.commands.explain import launches
from autoprec.kernels.interface import Target
from autoprec.plan.decide import Decider
from autoprec.probe import device as devices
from autoprec.types import Mask, Profile, Workload

H100 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
MEASURED = made_up.workload()
LARGE = {"head_dim": 100000, "head_dim_v": 100000}


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """One of this machine, an H100, that chose Hopper's kernel."""
    pytest.importorskip("triton")
    (config, *_) = registry.kernel("hopper-prefill").configs("fp16x3", MEASURED, H100)
    row = made_up.measurement("fp16x3", 1.0, 4e-7, kernel="hopper-prefill", config=dict(config))
    profile = made_up.profile([row], budget="rel_l2<=1e-5")
    monkeypatch.setattr(devices, "environment", lambda device: profile.environment)
    monkeypatch.setattr(devices, "target", lambda device: H100)
    return profile


@pytest.mark.parametrize(
    ("asked", "kernel"),
    [
        (replace(MEASURED, kv_len=3000, q_len=3000), "hopper-prefill"),
        (replace(MEASURED, window=512), "hopper-prefill"),
        (replace(MEASURED, custom_mask=True, mask=Mask.FULL), "triton-prefill"),
        (replace(MEASURED, head_dim=256, head_dim_v=256), "triton-prefill"),
    ],
)
def test_it_is_the_kernel_that_a_plan_runs(profile: Profile, asked: Workload, kernel: str) -> None:
    launch = launches(profile)(asked)
    decision = Decider.of(profile, None).decide(asked, H100)
    assert launch is not None
    assert launch.kernel == decision.kernel.name == kernel
    assert (launch.config, launch.notes) == (decision.config, decision.notes)
    assert any(note.startswith("hopper-prefill was chosen but ") for note in launch.notes) == (
        kernel != "hopper-prefill"
    )


def test_what_no_kernel_runs_is_said(profile: Profile) -> None:
    launch = launches(profile)(replace(MEASURED, head_dim=1024, head_dim_v=1024))
    assert launch is not None
    assert (launch.kernel, launch.config) == ("", {})
    (note,) = launch.notes
    assert note.startswith("no kernel runs the path fp16x3 on prefill b1 q4096 kv4096 32/8 d1024 ")


@pytest.fixture
def elsewhere(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The same profile on a CPU."""
    here = made_up.environment(device=made_up.device(kind="cpu", name="A CPU"))
    monkeypatch.setattr(devices, "environment", lambda device: here)
    monkeypatch.setattr(devices, "target", lambda device: pytest.fail("it is another machine"))
    return profile


def test_of_another_machine_it_is_what_a_plan_runs_there(elsewhere: Profile) -> None:
    launch = launches(elsewhere)
    changes = ({"custom_mask": True, "mask": Mask.FULL}, LARGE)
    masked, large = (launch(replace(MEASURED, **it)) for it in changes)
    assert masked is not None
    assert large is not None
    assert masked.kernel == "triton-prefill"
    assert (large.kernel, large.others) == ("", ())
    assert "hopper-prefill takes head dims up to 256, not 100000" in large.notes[0]


def test_the_paths_that_do_run_it_are_known(elsewhere: Profile) -> None:
    choice = replace(elsewhere.choices[0], path="bf16p2")
    asked = replace(MEASURED, custom_mask=True, mask=Mask.FULL)
    launch = launches(replace(elsewhere, choices=[choice]))(asked)
    assert launch is not None
    assert (launch.kernel, "fp32" in launch.others, "bf16p2" in launch.others) == ("", True, False)


def test_nothing_is_known_of_what_may_be_installed_on_another_machine(
    elsewhere: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = replace(elsewhere.choices[0], path="flashinfer-fa2", kernel="flashinfer-fa2")
    launch = launches(replace(elsewhere, allow_baselines=True, choices=[library]))
    assert launch(replace(MEASURED, window=512)) is None
    monkeypatch.setattr(registry, "broken_modules", lambda: {"prefill": "no Triton"})
    assert launches(elsewhere)(replace(MEASURED, window=512)) is None


def test_the_command(
    profile: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "h100.json"
    profiles.write(profile, file)
    monkeypatch.setattr(devices, "resolve", lambda text: torch.device("cpu"))
    words = ["--phase", "prefill", "--input-dtype", "fp32", "--head-dim", "256"]
    monkeypatch.setattr(sys, "argv", ["autoprec", "explain", str(file), *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said, complaint = capsys.readouterr()
    assert caught.value.code == 0
    assert complaint == (
        "note: none of the profile's workloads (1) has these sizes; what is explained (2) was not "
        "measured.\n"
    )
    assert "\nkernel         triton-prefill\nconfiguration  block_q=32 " in said
    assert "\nnote           hopper-prefill was chosen but cannot run this (" in said
    assert "\nnote           time and errors are those of hopper-prefill on the nearest\n" in said
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--format", "json"])
    with pytest.raises(SystemExit):
        cli.main()
    found = json.loads(capsys.readouterr().out)
    assert [it["kernel"] for it in found] == ["triton-prefill"] * 2
