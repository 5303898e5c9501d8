"""Where a report goes, and in which form."""

import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest
from command_line import Cli

from autoprec import profile
from autoprec.commands.report import Request, run
from autoprec.errors import InputError
from autoprec.report.figures.figure import KINDS


def asked(*files: Path, **more: Any) -> Request:
    given = {"format": None, "output": None, "plot": "pareto", "fail_if_slower": None} | more
    return Request(files=files, **given)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("r.html", b"<!doctype html>"),
        ("r.HTM", b"<!doctype html>"),
        ("r.md", b"- **profile**"),
        ("r.csv", b"profile,workload,"),
        ("r.json", b"[\n"),
        ("r.png", b"\x89PNG"),
        ("r.svg", b"<?xml"),
        ("r.txt", b"profile  "),
        ("r", b"profile  "),
    ],
)
def test_the_name_of_the_file_gives_the_form(saved: Path, name: str, start: bytes) -> None:
    output = saved.with_name(name)
    run(asked(saved, output=output))
    assert output.read_bytes().startswith(start)


def test_a_name_that_ends_in_no_format_is_refused_before_anything_is_written(saved: Path) -> None:
    output = saved.with_name("r.docx")
    with pytest.raises(InputError) as caught:
        run(asked(saved, output=output))
    assert str(caught.value) == (
        f"{output} ends in no format: .md, .csv, .json, .html, .htm, .png, .svg, .txt. "
        "Try: one of these, or --format table"
    )
    assert not output.exists()
    run(asked(saved, output=output, format="table"))
    assert output.read_bytes().startswith(b"profile  ")


def test_a_format_asked_for_wins_over_the_name(saved: Path) -> None:
    output = saved.with_name("r.html")
    run(asked(saved, output=output, format="csv"))
    assert output.read_text().startswith("profile,workload,")


@pytest.mark.parametrize("plot", KINDS)
def test_every_picture_can_be_had_alone(
    saved: Path, plot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(asked(saved, format="svg", plot=plot))
    assert "</svg>" in capsys.readouterr().out


def test_a_picture_is_bytes_on_stdout_and_refused_in_a_terminal(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return terminal

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(raw))
    terminal = False
    run(asked(saved, format="png"))
    assert raw.getvalue().startswith(b"\x89PNG")
    terminal = True
    with pytest.raises(InputError, match="a picture cannot be printed in a terminal"):
        run(asked(saved, format="png"))


def test_what_cannot_be_done_is_one_sentence(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a png shows one profile, and there are 2"):
        run(asked(saved, saved, format="png"))
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        run(asked(saved, output=tmp_path))
    empty = tmp_path / "empty.json"
    profile.write(made_up.profile([]), empty)
    with pytest.raises(InputError, match="has nothing measured to draw"):
        run(asked(empty, format="svg"))
    with pytest.raises(InputError, match="--fail-if-slower must be a percentage"):
        run(asked(saved, fail_if_slower="fast"))


@pytest.mark.parametrize("format", ["table", "markdown", "csv", "json", "html"])
def test_report_takes_one_profile_or_two_in_every_format(
    run: Cli, saved: Path, tmp_path: Path, format: str
) -> None:
    one = run("report", str(saved), "--format", format)
    assert (one.code, one.err) == (0, "")
    assert one.out.endswith("\n")
    other = shutil.copy(saved, tmp_path / "other.json")
    two = run("report", str(saved), str(other), "--format", format)
    assert (two.code, two.err) == (0, "")
    assert "other.json" in two.out
    assert two.out != one.out


def test_a_report_goes_to_a_file_in_the_form_of_its_name(
    run: Cli, saved: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    ended = run("report", str(saved), "-o", str(page))
    assert (ended.code, ended.out, ended.err) == (0, "", f"saved {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_slower_profile_exits_1_once_the_report_is_printed(
    run: Cli, saved: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.json"
    rows = [
        replace(row, p20_ms=1.2 * row.p20_ms, p50_ms=1.2 * row.p50_ms, p80_ms=1.2 * row.p80_ms)
        if row.p20_ms and row.p50_ms and row.p80_ms
        else row
        for row in made_up.rows()
    ]
    profile.write(made_up.profile(rows), slow)
    assert run("report", str(saved), str(saved), "--fail-if-slower", "5%").code == 0
    ended = run("report", str(saved), str(slow), "--fail-if-slower", "5%")
    assert ended.code == 1
    assert ended.out.startswith("A  ")
    assert f"{slow} is more than 5% slower on 4 workloads of 4: prefill" in ended.err


def test_one_profile_has_nothing_to_be_slower_than_and_nothing_is_printed(
    run: Cli, saved: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.txt"
    for files, more in (((str(saved),), ()), ((), ()), ((str(saved),), ("-o", str(output)))):
        ended = run("report", *files, "--fail-if-slower", "5%", *more)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == (
            "autoprec: --fail-if-slower compares profiles, and there is one.\n"
            "try: autoprec report BEFORE.json AFTER.json --fail-if-slower 5%\n"
        )
    assert not output.exists()


def test_report_of_a_broken_file_exits_2(run: Cli, saved: Path) -> None:
    saved.write_text(saved.read_text()[:-100])
    ended = run("report", str(saved))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"autoprec: {saved}")
