"""``--fail-if-slower``: what a later profile chose against the first one's choice."""

import pytest
from made_up import measurement, profile, workload

from autoprec.errors import CheckError, InputError
from autoprec.report.gate import check, parse
from autoprec.types import Profile

LONG = workload(kv_len=8192)


def timed(ms: float, long_ms: float = 4.0, path: str = "fp16", **changes: object) -> Profile:
    rows = [measurement(path, ms, 4e-4), measurement("fp16", long_ms, 4e-4, workload=LONG)]
    return profile(rows, **changes)


def test_as_fast_or_faster_passes() -> None:
    check([("a", timed(1.0)), ("b", timed(1.0)), ("c", timed(0.5))], 0.05)


def test_slower_fails_with_the_workloads_and_times() -> None:
    with pytest.raises(CheckError) as caught:
        check([("a.json", timed(1.0)), ("b.json", timed(1.2, path="bf16"))], 0.05)
    assert caught.value.sentence == (
        "b.json is more than 5% slower on 1 workload of 2: prefill b1 q4096 kv4096 32/8 d128 "
        "causal fp32 (fp16, now bf16) 1.20x slower, 1.00 to 1.20 ms."
    )
    assert caught.value.exit_code == 1


def test_within_the_limit_passes() -> None:
    check([("a", timed(1.0)), ("b", timed(1.2))], 0.25)


def test_a_path_lost_fails() -> None:
    with pytest.raises(CheckError, match="q8192 .* has no path within the budget any more"):
        check([("a", timed(1.0)), ("b", timed(1.0, budget="1e-9"))], 0.05)


def test_nothing_in_common_is_no_pass() -> None:
    other = profile([measurement("fp16", workload=workload(kv_len=64))])
    with pytest.raises(CheckError, match="have decided no workload in common"):
        check([("a", timed(1.0)), ("b", other)], 0.05)


def test_one_profile_is_wrong_usage() -> None:
    with pytest.raises(InputError, match="there is one"):
        check([("a", timed(1.0))], 0.05)


@pytest.mark.parametrize(("text", "part"), [("5%", 0.05), ("5", 0.05), (" 0.5% ", 0.005)])
def test_a_percentage_is_read(text: str, part: float) -> None:
    assert parse(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["", "%", "x", "-1%", "nan", "inf"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if-slower must be a percentage"):
        parse(text)
