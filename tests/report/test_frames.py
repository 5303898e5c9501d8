import pandas as pd
import pytest
from made_up import environment, measurement, profile, workload

from autoprec.report.facts import config_text
from autoprec.report.frames import COLUMNS, COMPARED, compared, frame
from autoprec.report.outcomes import outcomes
from autoprec.report.pairs import geometric_means, pairs
from autoprec.types import Conversion, Profile, Status

SKIPPED = {"status": Status.SKIPPED, "reason": "no time"}


def test_a_frame_has_the_documented_columns_and_types() -> None:
    table = frame(profile(), "h100")
    assert list(table.columns) == list(COLUMNS)
    assert all(COLUMNS.values())
    assert len(table) == len(profile().measurements)
    assert table["profile"].unique().tolist() == ["h100"]
    floats = ["p20_ms", "p50_ms", "p80_ms", "tflops", "gb_s", "ceiling_share", "rel_l2", "speedup"]
    assert set(table[floats].dtypes) == {pd.api.types.pandas_dtype("float64")}
    assert table["batch"].dtype == "int64"
    assert table["window"].isna().all()


def test_a_frame_of_nothing_has_the_same_columns() -> None:
    table = frame(profile([]))
    assert list(table.columns) == list(COLUMNS)
    assert table["p50_ms"].dtype == "float64"
    assert table.empty


def test_a_window_stays_a_whole_number_beside_missing_ones() -> None:
    shapes = [workload(), workload(window=512, soft_cap=30.0)]
    table = frame(profile([measurement("fp16", workload=shape) for shape in shapes]))
    assert table["window"].astype(object).tolist() == [pd.NA, 512]
    assert table["soft_cap"].isna().tolist() == [True, False]


def test_frames_answer_what_a_notebook_asks() -> None:
    table = frame(profile())
    chosen = table.query("verdict == 'chosen' and phase == 'decode'")
    assert chosen.set_index("input_dtype")["path"].to_dict() == {"fp32": "fp16", "bf16": "bf16"}
    assert table.groupby("role")["p50_ms"].count().to_dict() == {"baseline": 6, "candidate": 10}


def test_config_text() -> None:
    assert config_text({"block_q": 128, "mode": "split"}) == "block_q=128 mode=split"
    assert config_text({}) == ""


def before_and_after() -> tuple[Profile, Profile]:
    a = [
        measurement("fp32", 10.0, 5e-7),
        measurement("fp16", 1.0, 4e-4),
        measurement("bf16", 2.0, 3e-3),
        measurement("tf32", 3.0, 4e-4),
        measurement("fp16x3", None, None, **SKIPPED),
        measurement("sdpa-flash", 4.0, 4e-4),
    ]
    b = [
        measurement("fp32", 8.0, 5e-7),
        measurement("fp16", 1.1, 4e-4),
        measurement("bf16", 2.05, 3e-3),  # 2.009 to 2.1115 meets 1.96 to 2.06
        measurement("tf32", None, None, **SKIPPED),
        measurement("fp16x3", None, None, **SKIPPED),
        measurement("bf16x3", 3.0, 6e-6),
        measurement("sdpa-flash", 4.0, 4e-4),
    ]
    return profile(a), profile(b, environment=environment(triton="3.8.0"))


def test_compared() -> None:
    table = compared(*before_and_after(), "old", "new")
    assert list(table.columns) == list(COMPARED)
    assert all(COMPARED.values())
    assert table["profile_a"].unique().tolist() == ["old"]
    assert table.set_index("path")["change"].to_dict() == {
        "fp16": "1.10x slower",
        "bf16": "inconclusive",
        "tf32": "skipped in new",
        "sdpa-flash": "same",
        "fp32": "1.25x faster",
        "fp16x3": "measured in neither",
        "bf16x3": "only in new",
    }
    speedups = table.set_index("path")["speedup"]
    assert speedups["fp32"] == 1.25
    assert speedups.isna().sum() == 3


def test_compared_the_other_way_round() -> None:
    a, b = before_and_after()
    changes = compared(b, a).set_index("path")["change"]
    assert changes["fp32"] == "1.25x slower"
    assert changes["fp16"] == "1.10x faster"
    assert changes["tf32"] == "skipped in A"
    assert changes["bf16x3"] == "only in A"


def means_of(a: Profile, b: Profile) -> dict[str, tuple[float, int]]:
    one, other = outcomes(a), outcomes(b)
    return geometric_means(one, other, pairs(one, other))


def test_geometric_means_say_over_how_many() -> None:
    means = means_of(*before_and_after())
    assert {what: count for what, (_, count) in means.items()} == {
        "choices": 1, "candidates": 3, "baselines": 1,
    }  # fmt: skip
    expected = (1.25 * (1.0 / 1.1) * (2.0 / 2.05)) ** (1 / 3)
    assert means["candidates"][0] == pytest.approx(expected)
    assert means["choices"][0] == pytest.approx(1 / 1.1)
    assert means["baselines"][0] == 1.0


def test_the_fastest_kernel_stands_for_a_path() -> None:
    one = profile([measurement("fp32", 2.0, kernel="a"), measurement("fp32", 1.0, kernel="b")])
    other = profile([measurement("fp32", 0.5, kernel="a"), measurement("fp32", 1.0, kernel="b")])
    (row,) = compared(one, other).to_dict("records")
    assert (row["kernel_a"], row["kernel_b"], row["speedup"]) == ("b", "a", 2.0)


def test_k_and_v_prepared_are_a_row_of_their_own_and_in_no_mean() -> None:
    included, amortised = ({"conversion": it} for it in (Conversion.INCLUDED, Conversion.AMORTISED))
    a = profile([measurement("fp16", 2.0, **included), measurement("fp16", 1.0, **amortised)])
    b = profile([measurement("fp16", 2.0, **included), measurement("fp16", 0.5, **amortised)])
    rows = compared(a, b).set_index("prepared")
    assert rows["speedup"].to_dict() == {False: 1.0, True: 2.0}
    assert rows["verdict_b"].to_dict() == {False: "chosen", True: "prepared"}
    assert means_of(a, b) == {"choices": (1.0, 1), "candidates": (1.0, 1)}


def test_nothing_in_common() -> None:
    one, other = profile([measurement("fp32")]), profile([])
    assert compared(one, other)["change"].tolist() == ["only in A"]
    assert means_of(one, other) == {}
