import re
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.formats.table import render

ROWS = (
    Row(("bf16", "triton-prefill", "0.0421", "55%", "over budget", "rel_l2 3.10e-03 is too much")),
    Row(("fp16", "triton-prefill", "10.3", "3.1%", "chosen", ""), marked=True),
    Row(("[red]tf32", "triton-prefill", "341", "-", "skipped", "no time")),
)
COLUMNS = (
    Column("path"),
    Column("kernel", rank=2),
    Column("p50 ms", Align.POINT),
    Column("ceiling", Align.RIGHT, rank=1),
    Column("verdict"),
    Column("reason", fills=True),
)


def document(**changes: object) -> Document:
    given = {
        "facts": (("device", "NVIDIA H100 80GB HBM3"), ("budget", "rel_l2<=0.01")),
        "sentences": ("A path keeps to the budget.", "It is 9.5x faster than sdpa-flash."),
        "sections": (
            Section("prefill b1", COLUMNS, ROWS, ("fp16: a note that is long enough to go on",)),
            Section("to measure it again", command="autoprec tune --phase prefill --batch 1"),
        ),
        "notes": ("ceiling: what it can do",),
        "records": pd.DataFrame,
    }
    return Document(**given | changes)  # type: ignore[arg-type]


WIDE = """\
device  NVIDIA H100 80GB HBM3
budget  rel_l2<=0.01

A path keeps to the budget.
It is 9.5x faster than sdpa-flash.

prefill b1
  path       kernel            p50 ms  ceiling  verdict      reason
  bf16       triton-prefill    0.0421      55%  over budget  rel_l2 3.10e-03 is too much
> fp16       triton-prefill   10.3        3.1%  chosen
  [red]tf32  triton-prefill  341             -  skipped      no time
- fp16: a note that is long enough to go on

to measure it again
autoprec tune --phase prefill --batch 1

- ceiling: what it can do
"""

NARROW = """\
device  NVIDIA H100 80GB HBM3
budget  rel_l2<=0.01

A path keeps to the budget.
It is 9.5x faster than
sdpa-flash.

prefill b1
  path         p50 ms  verdict
  bf16         0.0421  over budget
> fp16        10.3     chosen
  [red]tf32  341       skipped
- fp16: a note that is long
  enough to go on

to measure it again
autoprec tune --phase prefill --batch 1

- ceiling: what it can do
- left out for want of width:
  kernel, ceiling, reason;
  --format markdown has every
  column
"""


def test_wide() -> None:
    assert render(document(), width=100, colour=False) == WIDE


def test_narrow_leaves_columns_out_by_rank_and_says_so() -> None:
    assert render(document(), width=32, colour=False) == NARROW


def test_a_filling_column_takes_what_room_is_left_over_several_lines() -> None:
    sentence = "no clear difference in time from fp16, which is more accurate than this path"
    section = Section("", (Column("path"), Column("reason", fills=True)), (Row(("a", sentence)),))
    text = render(document(facts=(), sentences=(), sections=(section,), notes=()), 50, colour=False)
    assert text == (
        "\npath  reason\n"
        "a     no clear difference in time from fp16, which\n"
        "      is more accurate than this path\n"
    )


def test_colours_are_only_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1;32m> fp16" in render(document(), width=100, colour=True)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert not sys.stdout.isatty()
    assert "\x1b" not in render(document(), width=100)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in render(document(), width=100)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(document(), width=100)


def test_a_pipe_has_the_width_of_100_or_what_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "32")
    assert render(document(), colour=False) == NARROW
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("os.get_terminal_size", _no_terminal)
    assert render(document(), colour=False) == WIDE


def _no_terminal(_: int) -> None:
    raise OSError


@given(st.integers(1, 200), st.booleans())
def test_nothing_is_cut_off_at_any_width(width: int, colour: bool) -> None:
    text = re.sub("\x1b\\[[0-9;]*m", "", render(document(), width=width, colour=colour))
    for must in ("NVIDIA", "0.0421", "10.3", "341", "over budget", "[red]tf32"):
        assert must in text
    assert "…" not in text
    assert "--phase prefill --batch 1\n" in text  # a command stays whole, to be copied


@given(st.integers(40, 200))
def test_lines_keep_to_the_width(width: int) -> None:
    lines = render(document(), width=width, colour=False).splitlines()
    assert max(cell_len(line) for line in lines) <= width


def test_wide_characters_count_as_two_columns() -> None:
    section = Section("", (Column("x"), Column("y")), (Row(("注意", "1")), Row(("ab", "2"))))
    text = render(document(facts=(), sentences=(), sections=(section,), notes=()), 80, colour=False)
    assert text == "\nx     y\n注意  1\nab    2\n"


def test_sections_alike_have_columns_alike() -> None:
    columns = (Column("path"), Column("p50 ms", Align.POINT))
    sections = (
        Section("one", columns, (Row(("a", "1.25")),)),
        Section("other", (Column("size"),), (Row(("9",)),)),
        Section("two", columns, (Row(("sdpa-efficient", "10")),)),
    )
    text = render(document(facts=(), sentences=(), sections=sections, notes=()), 80, colour=False)
    assert text == (
        "one\npath            p50 ms\na                 1.25\n"
        "\nother\nsize\n9\n"
        "\ntwo\npath            p50 ms\nsdpa-efficient   10\n"
    )
