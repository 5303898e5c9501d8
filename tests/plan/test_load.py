"""Which profile a plan is made of."""

from collections.abc import Callable
from pathlib import Path

import made_up
import pytest
import torch
from exact import Recorder, cpu_profile

from autoprec import profile as profiles
from autoprec.errors import (
    AutoprecWarning,
    BudgetError,
    InputError,
    MachineError,
    ProfileError,
    UnsupportedError,
)
from autoprec.plan.load import load_plan
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Environment, Profile

CPU = made_up.device(kind="cpu", name="A CPU", capability="x86_64", units=2)
HERE = made_up.environment(device=CPU, triton=None)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A made-up CPU with an empty user's folder and no bundled profiles; the user's folder."""
    monkeypatch.setattr(devices, "environment", lambda device: HERE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(profiles, "user_dir", lambda: tmp_path / "user")
    monkeypatch.setattr(profiles, "bundled", lambda: [])
    monkeypatch.delenv("AUTOPREC_PROFILE", raising=False)
    return tmp_path / "user"


def made(remark: str, environment: Environment = HERE) -> Profile:
    return cpu_profile(environment=environment, remarks=[remark])


def other() -> Environment:
    return made_up.environment(device=made_up.device(kind="cpu", name="Another CPU"))


def stale() -> Environment:
    return made_up.environment(device=CPU, triton=None, torch="2.12.0")


def loaded(**options: object) -> str:
    """The remark of the profile that a plan was made of."""
    return load_plan(**options).profile.remarks[0]  # type: ignore[arg-type]


def test_a_profile_given_is_taken(tmp_path: Path, machine: Path) -> None:
    profiles.write(made("user's"), machine / "a-cpu.json")
    profiles.write(made("file"), tmp_path / "file.json")
    assert loaded(profile=made("record")) == "record"
    assert loaded(profile=tmp_path / "file.json") == "file"
    assert loaded(profile=str(tmp_path / "file.json")) == "file"


def test_the_variable_comes_before_the_folder(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.write(made("user's"), machine / "a-cpu.json")
    profiles.write(made("variable"), tmp_path / "file.json")
    monkeypatch.setenv("AUTOPREC_PROFILE", str(tmp_path / "file.json"))
    assert loaded() == "variable"
    monkeypatch.setenv("AUTOPREC_PROFILE", "")
    assert loaded() == "user's"


def test_the_users_folder_comes_before_bundled_ones(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.write(made("bundled"), tmp_path / "bundled.json")
    monkeypatch.setattr(profiles, "bundled", lambda: [tmp_path / "bundled.json"])
    assert loaded() == "bundled"
    profiles.write(made("other's", other()), machine / "another.json")
    assert loaded() == "bundled"
    profiles.write(made("user's"), machine / "named-by-hand.json")
    assert loaded() == "user's"
    profiles.write(made("default"), machine / "a-cpu.json")
    assert loaded() == "default"


def test_a_fresh_profile_comes_before_a_stale_one(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.write(made("fresh"), tmp_path / "bundled.json")
    monkeypatch.setattr(profiles, "bundled", lambda: [tmp_path / "bundled.json"])
    profiles.write(made("stale", stale()), machine / "a-cpu.json")
    assert loaded() == "fresh"


def test_a_stale_profile_serves_with_a_warning(
    machine: Path, recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact"))
    file = machine / "a-cpu.json"
    profiles.write(made("stale", stale()), file)
    sentence = (
        f"{file} is stale: the profile was measured with torch 2.12.0, and here it runs "
        "with torch 2.13.0+cu130; autoprec tune --fresh measures again."
    )
    with pytest.warns(AutoprecWarning) as caught:
        plan = load_plan()
    assert [str(warning.message) for warning in caught] == [sentence]
    assert caught[0].filename == __file__
    q = torch.zeros(1, 32, 1, 64)
    k = torch.zeros(1, 8, 1024, 64)
    assert sentence in plan.explain(q, k, k)


def test_another_machines_profile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    difference = (
        "the profile is for Another CPU (9.0), and this is A CPU (x86_64). Try: autoprec tune"
    )
    with pytest.raises(MachineError) as caught:
        load_plan(made("other's", other()))
    assert str(caught.value) == f"the profile given is for another machine: {difference}"
    file = tmp_path / "file.json"
    profiles.write(made("other's", other()), file)
    monkeypatch.setenv("AUTOPREC_PROFILE", str(file))
    with pytest.raises(MachineError) as caught:
        load_plan()
    assert str(caught.value) == (
        f"{file} (named by AUTOPREC_PROFILE) is for another machine: {difference}"
    )


def test_no_profile_says_how_to_make_one(machine: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_plan()
    assert str(caught.value) == "there is no profile for A CPU yet. Try: autoprec tune"
    profiles.write(made("other's", other()), machine / "another.json")
    with pytest.raises(InputError, match="there is no profile"):
        load_plan()


def test_a_file_that_cannot_be_read(tmp_path: Path, machine: Path) -> None:
    with pytest.raises(ProfileError):
        load_plan(tmp_path / "none.json")
    machine.mkdir()
    (machine / "a-cpu.json").write_text("{")
    profiles.write(made("user's"), machine / "whole.json")
    with pytest.warns(AutoprecWarning, match=r"^passed over: .*a-cpu\.json"):
        assert loaded() == "user's"


@pytest.mark.parametrize("budget", ["1e-5", 1e-5, "rel_l2<=1e-5"])
def test_a_budget_chooses_again(budget: str | float) -> None:
    assert {choice.path for choice in load_plan(made("")).choices} == {"bf16"}
    plan = load_plan(made(""), budget)
    assert {choice.path for choice in plan.choices} == {"fp32"}
    assert str(plan.budget) == "rel_l2<=1e-05"
    assert plan.profile.budget == "rel_l2<=0.01"


def test_budgets_that_nothing_keeps_or_that_are_none() -> None:
    with pytest.raises(BudgetError, match="no path keeps to the budget of rel_l2<=1e-12"):
        load_plan(made(""), 1e-12)
    with pytest.raises(InputError, match="little"):
        load_plan(made(""), "little")


def test_consistent_mode_is_refused_where_no_kernel_has_it(
    recorder: Recorder, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "describe", lambda device: CPU)
    register(recorder.kernel("exact"), recorder.kernel("gpu", device="triton", consistent=dict))
    with pytest.raises(UnsupportedError) as caught:
        load_plan(made(""), consistent=True)
    assert str(caught.value) == (
        "consistent is asked for, but no kernel has a consistent mode on A CPU. "
        "Try: consistent=False"
    )
    register(recorder.kernel("exact"), broken={"decode": "decode cannot be imported"})
    with pytest.raises(UnsupportedError, match=r"on A CPU; decode cannot be imported\. Try: "):
        load_plan(made(""), consistent=True)
    register(recorder.kernel("exact", consistent=dict))
    assert load_plan(made(""), consistent=True).consistent


def test_devices() -> None:
    for device in (None, "cpu", torch.device("cpu"), "auto"):
        assert load_plan(made(""), device=device).device == torch.device("cpu")
    for device in ("cuda", "cuda:3", torch.device("meta"), "gpu"):
        with pytest.raises(InputError, match=r"^the device '"):
            load_plan(made(""), device=device)


def test_a_plan_says_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    profiles.write(made(""), file)
    assert repr(load_plan(file, 1e-3)) == (
        f"<Plan for cpu: {file}, made 2026-11-23T12:00:00Z; rel_l2<=0.001; 6 workloads>"
    )
    assert repr(Plan(made(""), torch.device("cpu"))) == (
        "<Plan for cpu: a profile made 2026-11-23T12:00:00Z; rel_l2<=0.01; 6 workloads>"
    )
