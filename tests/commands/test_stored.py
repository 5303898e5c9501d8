"""Saved profiles at another budget: ``report`` and ``explain`` with ``--budget``."""

import re
from pathlib import Path

import pytest
from command_line import Cli

from autoprec import profile as profiles
from autoprec.budget import Budget
from autoprec.commands.stored import stored
from autoprec.policy.choose import choose

SIZES = ("--phase", "prefill", "--input-dtype", "fp32")
ANEW = (
    "chosen again for rel_l2<=1e-05 among what was measured for rel_l2<=0.01; nothing was measured "
    "anew."
)


def test_a_profile_is_as_saved_or_chosen_again(saved: Path) -> None:
    own = profiles.read(saved)
    assert stored(saved, None) == own
    budget = Budget.parse("1e-5")
    again = stored(saved, budget)
    choices, refusals = choose(own.measurements, budget)
    assert (again.choices, again.refusals) == (choices, refusals)
    assert {it.path for it in own.choices} != {it.path for it in choices}
    assert (again.budget, again.remarks) == ("rel_l2<=1e-05", [*own.remarks, ANEW])
    assert again.measurements == own.measurements
    assert profiles.read(saved) == own


def test_explain(saved: Path, run: Cli) -> None:
    ended = run("explain", str(saved), *SIZES, "--budget", "1e-5")
    assert (ended.code, ended.err.splitlines()[0]) == (0, f"note: {ANEW}")
    assert "\nbudget         rel_l2<=1e-05 on every input family\n" in ended.out
    assert "\nUse fp32: the fastest path within the budget.\n" in ended.out
    ended = run("explain", str(saved), *SIZES)
    assert "\nbudget         rel_l2<=0.01 on every input family\n" in ended.out
    assert "\nUse fp16: " in ended.out


def test_report(saved: Path, run: Cli) -> None:
    ended = run("report", str(saved), "--budget", "1e-5")
    assert (ended.code, ended.err) == (0, "")
    assert "\nbudget    rel_l2<=1e-05 on every input family\n" in ended.out
    assert f"- {ANEW}" in " ".join(ended.out.split())
    assert "chosen again" not in run("report", str(saved)).out


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_budget_that_is_none(saved: Path, run: Cli, command: str) -> None:
    ended = run(command, str(saved), "--budget", "little")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("autoprec: the budget 'little' cannot be read ")


def test_how_many_workloads_are_explained(saved: Path, run: Cli) -> None:
    count = len({row.workload for row in profiles.read(saved).measurements})
    ended = run("explain", str(saved))
    assert len(re.findall(r"^workload ", ended.out, re.MULTILINE)) == count
    assert ended.err == ""
    ended = run("explain", str(saved), *SIZES)
    assert ended.err == (
        f"note: these sizes are those of 1 of the profile's {count} workloads; without sizes, all "
        "are explained.\n"
    )
    ended = run("explain", str(saved), *SIZES, "--kv-len", "2048")
    assert ended.err == (
        f"note: none of the profile's workloads ({count}) has these sizes; what is explained (1) "
        "was not measured.\n"
    )


def test_help_of_explain_names_no_default_that_is_none(
    run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = run("explain", "--help").out
    assert "Which workloads (each option takes a list; default: the profile's)" in text
    assert re.findall(r"Default: (\S+)", text) == ["this", "the"]
