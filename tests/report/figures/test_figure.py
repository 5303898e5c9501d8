"""What pictures show."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from made_up import measurement, profile, rows, workload
from matplotlib.text import Text

from autoprec.report.figures import pictures
from autoprec.report.figures.figure import figures, told
from autoprec.report.figures.heat import Heat
from autoprec.report.figures.pareto import Kind, Pareto, Span, frontier
from autoprec.report.figures.sheet import sheet
from autoprec.report.figures.speed import Speed
from autoprec.report.figures.style import STYLE
from autoprec.report.outcomes import outcomes
from autoprec.types import Conversion, Profile


def drawn(it: Profile | None = None) -> tuple[object, ...]:
    made = it or profile()
    return figures(made, outcomes(made))


def test_a_pair_for_each_phase_and_types_and_then_the_errors() -> None:
    assert [(type(it).__name__, it.title) for it in drawn()] == [
        ("Pareto", "Prefill, fp32"),
        ("Speed", "Prefill, fp32"),
        ("Pareto", "Prefill, bf16"),
        ("Speed", "Prefill, bf16"),
        ("Pareto", "Decode, fp32"),
        ("Speed", "Decode, fp32"),
        ("Pareto", "Decode, bf16"),
        ("Speed", "Decode, bf16"),
        ("Heat", "Prefill, fp32: error by input family"),
        ("Heat", "Prefill, bf16: error by input family"),
        ("Heat", "Decode, fp32: error by input family"),
        ("Heat", "Decode, bf16: error by input family"),
    ]


def test_a_pareto_has_a_mark_for_each_path_over_its_workloads() -> None:
    long = workload(kv_len=8192)
    made = profile([
        measurement("fp16", 1.0, 4e-4),
        measurement("fp16", 0.9, 4e-4, conversion=Conversion.AMORTISED),
        measurement("fp32", 16.0, 5e-7),
        measurement("sdpa-efficient", 4.0, 5e-7),
        measurement("fp16", 2.0, 1e-4, workload=long),
        measurement("sdpa-efficient", 2.0, 5e-7, workload=long),
    ])  # fmt: skip
    pareto = drawn(made)[0]
    assert isinstance(pareto, Pareto)
    marks = {mark.label: mark for mark in pareto.marks}
    assert list(marks) == ["fp16, chosen", "sdpa-efficient", "fp32"]
    chosen = marks["fp16, chosen"]
    assert chosen.kind is Kind.CHOSEN
    assert chosen.error == Span(pytest.approx(2e-4), 1e-4, 4e-4)
    assert chosen.speed == Span(pytest.approx(2.0), 1.0, 4.0)  # without what is prepared
    assert marks["fp32"].speed.mean == pytest.approx(0.25)
    assert (pareto.metric, pareto.bound, pareto.workloads) == ("rel_l2", 0.01, 2)
    assert [mark.label for mark in frontier(pareto.marks)] == ["sdpa-efficient", "fp16, chosen"]


def test_a_speed_has_a_line_for_each_batch_and_a_roof() -> None:
    made = profile([
        measurement(path, ms, 4e-4, workload=workload(phase="decode", batch=batch, kv_len=kv_len))
        for batch in (1, 16)
        for kv_len in (1024, 8192)
        for path, ms in (("bf16", 0.1 * batch), ("sdpa-flash", 0.4 * batch))
    ])  # fmt: skip
    speed = drawn(made)[1]
    assert isinstance(speed, Speed)
    assert [(line.label, len(line.chosen), len(line.baseline)) for line in speed.lines] == [
        ("b1", 2, 2),
        ("b16", 2, 2),
    ]
    assert speed.unit == "GB/s"
    assert [roof.label for roof in speed.roofs] == ["copy bandwidth, 3030"]
    assert speed.lines[0].chosen[0] == (1024, pytest.approx(83.9, rel=1e-2))


def test_a_heat_map_has_the_largest_error_of_each_family() -> None:
    fp32, bf16 = drawn()[8:10]
    assert isinstance(fp32, Heat)
    assert isinstance(bf16, Heat)
    assert fp32.rows == ("fp32", "tf32", "bf16", "fp16", "sdpa-efficient", "sdpa-math")
    assert fp32.columns == bf16.columns == ("gauss", "outlier")
    assert fp32.cells[2] == (3.1e-3, 1.55e-3)
    assert fp32.cells[0] == (5.4e-7, 2.7e-7)
    assert dict(zip(bf16.rows, bf16.cells, strict=True))["bf16"] == (3.4e-3, 1.7e-3)


def test_a_budget_of_other_metrics_has_no_line() -> None:
    for figure in drawn():
        if not isinstance(figure, Speed):
            text = pictures.inline(replace(figure, bound=None), "", "1")
            assert "budget" not in text


def test_no_label_covers_another() -> None:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        for figure in drawn():
            if isinstance(figure, Heat):
                continue
            paper = sheet([figure], 1, 4.5, 3.7)
            axes = paper.axes[0]
            boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
            frame = paper.bbox
            for i, box in enumerate(boxes):
                assert frame.x0 <= box.x0
                assert box.x1 <= frame.x1
                assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize("error", [4e-3, 5e-3, 6e-3])
def test_no_label_stands_on_both_sides_of_the_budget(error: float) -> None:
    import matplotlib as mpl

    paths = "fp16", "tf32", "bf16x3", "bf16x6", "fp16x3"  # of about one error and speed
    rows = [measurement(path, 1 + i / 25, error * (1 - i / 33)) for i, path in enumerate(paths)]
    made = profile([*rows, measurement("sdpa-efficient", 4.0, 5e-7)], budget="rel_l2<=1e-2")
    (pareto, *_) = drawn(made)
    assert isinstance(pareto, Pareto)
    with mpl.rc_context(STYLE):
        axes = sheet([pareto], 1, 4.5, 3.7).axes[0]
        line = axes.transData.transform((pareto.bound, 1))[0]
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        labels = boxes[2:]  # of marks; before them the signs and the budget's name
        assert len(labels) == 6
        assert not any(box.x0 < line < box.x1 for box in labels)


def test_a_title_is_not_cut_and_runs_into_nothing() -> None:
    import matplotlib as mpl

    mixed = {"phase": "append", "input_dtype": "bf16", "out_dtype": "fp32"}
    made = profile([
        measurement(path, workload=workload(kv_len=1024 * n, **mixed))
        for n in range(1, 13)
        for path in ("bf16", "sdpa-efficient")
    ])  # fmt: skip
    by_error, by_length, errors = drawn(made)
    assert errors.title == "Append, bf16 to fp32: error by input family"
    with mpl.rc_context(STYLE):
        for figure in (by_error, by_length, errors):
            paper = sheet([figure, figure], 2, 4.5, 3.7)
            right = paper.axes[1].get_window_extent().x1
            line = [
                text.get_window_extent()
                for text in paper.axes[1].findobj(Text)
                if text.get_text() in (figure.title, "mean of 12 workloads, bars: range")
            ]
            assert len(line) == 1 + (figure is by_error)
            assert all(box.x1 <= right + 1 for box in line)
            assert not any(box.overlaps(other) for i, box in enumerate(line) for other in line[:i])


def test_an_image_is_the_same_each_time_and_well_formed() -> None:
    every = drawn()[:1]
    text = pictures.svg(every)
    assert text == pictures.svg(every)
    words = {it.text for it in ElementTree.fromstring(text).iter() if it.text}
    assert {"Prefill, fp32", "budget 0.01", "fp16, chosen", "sdpa-efficient"} <= words
    assert pictures.png(every).startswith(b"\x89PNG\r\n")


def test_an_inlined_image_brings_no_address_and_no_font() -> None:
    figure = drawn()[0]
    text = pictures.inline(figure, told(figure), "1")
    assert not re.search(r"https?:|font-family|<style|<metadata", text)
    assert text.startswith(
        '<svg role="img" aria-label="Prefill, fp32: speed against rel_l2 of 6 paths and baselines '
        'over 1 workload, the budget at 0.01; fp16, chosen" viewBox="0 0 324 266.4">'
    )


@pytest.mark.parametrize("name", ["$\\frac{1}{", "<script>", "x" * 300, "a\n\0b", "日本"])
def test_any_name_can_be_drawn(name: str) -> None:
    made = profile([*rows(), measurement("sdpa-" + name, 2.0, 1e-4)])
    for figure in drawn(made):
        ElementTree.fromstring(pictures.inline(figure, told(figure), "1"))
