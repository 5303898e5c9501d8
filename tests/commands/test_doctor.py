"""``autoprec doctor``: the table, and how it ends."""

from collections.abc import Callable
from pathlib import Path

import made_up
import pytest

from autoprec import profile
from autoprec.commands import doctor as doctoring
from autoprec.probe.doctor import Finding, State

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    def doctor(*findings: Finding, format: str = "table") -> tuple[int, str]:
        monkeypatch.setattr(doctoring, "look", lambda device: findings)
        monkeypatch.setattr(doctoring.devices, "environment", lambda device: made_up.environment())
        return doctoring.run("cpu", format), capsys.readouterr().out

    return doctor


def test_without_a_profile(doctor: Doctor) -> None:
    code, out = doctor(Finding("python", State.OK, "3.12"))
    assert code == 0
    assert out.startswith("0 problems, 1 note.\n\nwhat was looked at\nwhat     state  found\n")
    assert out.endswith("\n- profile: try autoprec tune\n")


def test_all_is_well(doctor: Doctor) -> None:
    profile.write(made_up.profile(), profile.default_path(made_up.device()))
    code, out = doctor(Finding("python", State.OK, "3.12"))
    assert (code, out.splitlines()[0]) == (0, "Everything is as it should be.")


def test_a_stale_profile_and_a_broken_one(doctor: Doctor) -> None:
    path = profile.default_path(made_up.device())
    profile.write(made_up.profile(environment=made_up.environment(torch="2.0")), path)
    code, out = doctor()
    assert code == 0
    assert out.endswith("\n- profile: try autoprec tune --fresh\n")
    path.write_text("{")
    assert doctor()[0] == 1


def test_the_profile_that_the_variable_names(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named.json"
    monkeypatch.setenv("AUTOPREC_PROFILE", str(named))
    profile.write(made_up.profile(), profile.default_path(made_up.device()))

    def found() -> tuple[int, str]:
        code, out = doctor(format="csv")
        return code, out.splitlines()[1]

    assert found() == (
        1,
        f"profile,problem,AUTOPREC_PROFILE={named}: that file is not there,unset AUTOPREC_PROFILE",
    )
    profile.write(made_up.profile(), named)
    assert found() == (0, f'profile,ok,"{named}, which AUTOPREC_PROFILE names",')
    other = made_up.environment(device=made_up.device(name="Another"))
    profile.write(made_up.profile(environment=other), named)
    assert found() == (
        1,
        f'profile,problem,"{named}, which AUTOPREC_PROFILE names: the profile is for Another (9.0),'
        ' and this is NVIDIA H100 80GB HBM3 (9.0)",unset AUTOPREC_PROFILE',
    )


def test_a_problem_exits_1_in_every_format(doctor: Doctor) -> None:
    broken = Finding("compiler", State.PROBLEM, "there is none", "apt-get install gcc")
    code, out = doctor(broken)
    assert code == 1
    assert "\n> compiler  problem  there is none\n" in out
    assert "\n- compiler: try apt-get install gcc\n" in out
    assert doctor(broken, format="csv")[1].splitlines()[:2] == [
        "what,state,found,try", "compiler,problem,there is none,apt-get install gcc",
    ]  # fmt: skip
