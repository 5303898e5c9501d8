"""The command line as a person uses it: what goes where, and how it ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import made_up
import pytest
from command_line import Cli

import autoprec
from autoprec import profile
from autoprec.probe import device as devices


def test_an_unknown_command_effort_or_format_exits_2(run: Cli, saved: Path) -> None:
    assert run("tuen").err == (
        "autoprec: No such command 'tuen'. Did you mean 'tune'?\ntry: autoprec --help\n"
    )
    ended = run("report", str(saved), "--format", "xml")
    assert (ended.code, ended.err) == (
        2,
        "autoprec: --format must be one of table, markdown, csv, json, html, png, svg, got 'xml'.\n"
        "try: autoprec report --help\n",
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("tune", "--effort", "fast"),
            "--effort must be one of quick, normal, thorough, got 'fast'.",
        ),
        (("report", "--plot", "it's"), '--plot must be one of pareto, speed, errors, got "it\'s".'),
        (("tune", "--time-limit", "1m"), "--time-limit must be a number, got '1m'."),
        (("verify", "--seed", "1.5"), "--seed must be a whole number, got '1.5'."),
        (("verify", "--seed", "-1"), "--seed must be at least 0, got -1."),
        (("tune", "--effort"), "Option '--effort' requires an argument."),
    ],
)
def test_what_an_option_cannot_be_is_one_plain_sentence(
    run: Cli, words: tuple[str, ...], sentence: str
) -> None:
    ended = run(*words)
    assert (ended.code, ended.err.splitlines()[0]) == (2, f"autoprec: {sentence}")


def test_without_a_profile_report_says_how_to_get_one(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "user_dir", lambda: tmp_path)
    ended = run("report")
    assert ended.code == 2
    assert ended.err.endswith("yet.\ntry: autoprec tune\n")


def test_commands_take_the_profile_that_the_variable_names(
    run: Cli, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPREC_PROFILE", str(saved))
    assert run("report").out.startswith(f"profile   {saved}")
    assert "Use bf16" in run("explain", "--phase", "prefill").out
    for command in ("verify", "bench"):
        ended = run(command, "--device", "cpu")
        assert (ended.code, "the profile is for NVIDIA H100 80GB HBM3" in ended.err) == (3, True)
    missing = tmp_path / "none.json"
    monkeypatch.setenv("AUTOPREC_PROFILE", str(missing))
    for command in ("report", "explain", "verify", "bench"):
        ended = run(command)
        assert (ended.code, ended.err) == (
            2,
            f"autoprec: there is no profile {missing} (named by AUTOPREC_PROFILE).\n"
            "try: autoprec tune, which writes one\n",
        )


def test_a_damaged_profile_is_passed_over_and_one_that_comes_with_autoprec_is_taken(
    run: Cli, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "environment", lambda device: made_up.environment())
    monkeypatch.setattr(profile, "user_dir", lambda: tmp_path / "own")
    monkeypatch.setattr(profile, "bundled", lambda: [saved])
    own = profile.default_path(made_up.device())
    own.parent.mkdir()
    own.write_text("{}")
    ended = run("report")
    assert ended.out.startswith(f"profile   {saved}")
    assert ended.err == (
        f"note: passed over: {own} is no valid profile: it has no schema_version.\n"
    )


def test_explain_finds_the_workload_or_the_nearest(run: Cli, saved: Path) -> None:
    exact = run("explain", str(saved), "--phase", "decode", "--input-dtype", "fp32")
    assert exact.code == 0
    assert "decode b16 q1 kv8192 32/8 d128 causal fp32" in exact.out
    assert "autoprec tune --phase decode --batch 16" in exact.out
    near = run("explain", str(saved), "--phase", "decode", "--batch", "8", "--kv-len", "4096")
    assert near.code == 0
    assert "not measured" in near.out
    assert "autoprec tune --phase decode --batch 8 --q-len 1 --kv-len 4096" in near.out


def test_version_and_help(run: Cli) -> None:
    version, environment = run("--version").out.splitlines()
    assert version == f"autoprec {autoprec.__version__}"
    assert re.fullmatch(
        r"torch [\w.+]+, triton [\w.+]+, python [\d.]+(, driver [\d.]+)?", environment
    )
    assert run("--help").out == run().out
    for command in ("probe", "paths", "tune", "report", "explain", "bench", "doctor"):
        assert run(command, "--help").code == 0


def test_paths_and_probe_print_what_is_here(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(run("paths", "--device", "cpu", "--format", "json").out)
    assert any(row["runs"] and row["path"] == "fp32" for row in listed)
    assert any("needs a GPU" in (row["reason"] or "") for row in listed)
    monkeypatch.setattr("autoprec.probe.ceilings.measure", lambda device: made_up.ceilings())
    ended = run("probe", "--device", "cpu")
    assert ended.code == 0
    assert "3030" in ended.out


def test_where_nobody_reads_the_command_ends_quietly(saved: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = subprocess.run(
        [sys.executable, "-P", "-m", "autoprec", "report", str(saved)],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (command.returncode, command.stderr) == (0, "")


@pytest.mark.parametrize("columns", [80, 112])
def test_help_cuts_nothing(run: Cli, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ("probe", "paths", "tune", "report", "explain", "verify", "bench", "doctor"):
        assert re.findall(r"\S*[a-z0-9=_-]…\s", run(command, "--help").out) == []
    tune = run("tune", "--help").out
    assert "--max-workspace-gib" in tune
    assert "--no-allow-baselines" in tune
    assert "Workloads (each option takes a list, such as 1,8,64)" in tune
    title = "Which workloads (each option takes a list; default: the profile's)"
    assert title in run("explain", "--help").out
    assert title in run("bench", "--help").out


@pytest.mark.parametrize(
    ("redirection", "sentence"),
    [
        (">&-", "stdout is closed"),
        (">/dev/full", "No space left on device"),
        (">&- 2>&-", None),
        (">/dev/full 2>/dev/full", None),
    ],
)
def test_a_stdout_that_takes_nothing_is_one_sentence_and_exits_2(
    saved: Path, redirection: str, sentence: str | None
) -> None:
    command = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -P -m autoprec report "$1" {redirection}', sys.executable, saved],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = f"autoprec: the result cannot be printed: {sentence}.\n" if sentence else ""
    assert (command.returncode, command.stdout, command.stderr) == (2, "", said)


def test_a_character_that_stdout_cannot_print_is_written_out(saved: Path) -> None:
    saved = saved.rename(saved.with_name("é.json"))
    command = subprocess.run(
        [sys.executable, "-P", "-m", "autoprec", "report", saved],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (command.returncode, command.stderr) == (0, "")
    assert "\\xe9.json" in command.stdout


def test_an_interrupt_before_anything_began_is_one_sentence() -> None:
    program = (
        "import os, signal\n"
        "from autoprec import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli._call = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main()\n"
    )
    command = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert (command.returncode, command.stdout) == (130, "")
    assert command.stderr == "Interrupted; nothing is saved.\n"
