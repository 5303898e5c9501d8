import math

from autoprec.probe.search import halve, near, sample


class Clock:
    """Takes the milliseconds of an arm from a table, and keeps a record."""

    def __init__(self, **ms: float | list[float]) -> None:
        self.ms = ms
        self.record: list[str] = []

    def __call__(self, arm: str) -> float:
        self.record.append(arm)
        value = self.ms[arm]
        return value.pop(0) if isinstance(value, list) else value


def never(count: int) -> bool:
    return False


def test_samples_are_taken_in_turn() -> None:
    clock = Clock(a=1.0, b=2.0, c=3.0)
    taken: dict[str, list[float]] = {}
    sample("abc", clock, taken, rounds=2, stop=never)
    assert clock.record == list("abcabc")
    assert taken == {"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}


def test_what_is_eight_times_slower_gets_one_sample() -> None:
    clock = Clock(slow=1000.0, fast=100.0, near=799.0)
    taken: dict[str, list[float]] = {}
    sample(["fast", "slow", "near"], clock, taken, rounds=3, stop=never)
    assert {arm: len(samples) for arm, samples in taken.items()} == {
        "fast": 3, "slow": 1, "near": 3,
    }  # fmt: skip


def test_what_was_sampled_before_counts() -> None:
    clock = Clock(a=1.0)
    taken = {"slow": [9.0], "fast": [1.0], "a": []}
    sample(["slow", "a"], clock, taken, rounds=2, stop=never)
    assert clock.record == ["a", "a"]


def test_a_hiccup_is_looked_at_again() -> None:
    clock = Clock(a=1.0, b=[9.5, 1.5, 1.6], slow=[60.0])
    taken: dict[str, list[float]] = {}
    sample(["a", "b", "slow"], clock, taken, rounds=2, stop=never)
    assert taken == {"a": [1.0, 1.0], "b": [1.5, 1.6], "slow": [60.0]}


def test_without_time_every_arm_gets_one_sample() -> None:
    clock = Clock(a=1.0, b=2.0)
    taken: dict[str, list[float]] = {}
    sample("ab", clock, taken, rounds=5, stop=lambda count: True)
    assert clock.record == ["a", "b"]
    sample("ab", clock, taken, rounds=5, stop=lambda count: count >= 3)
    assert {arm: len(samples) for arm, samples in taken.items()} == {"a": 3, "b": 3}


def test_the_faster_half_goes_on() -> None:
    clock = Clock(a=1.48, b=1.45, c=1.1, d=1.0, e=1.49)
    winners = halve(["abcde"], clock, rounds=(1, 2, 4), stop=never)
    assert winners == [("d", [1.0] * 7)]
    assert {arm: clock.record.count(arm) for arm in "abcde"} == {
        "a": 1, "b": 3, "c": 7, "d": 7, "e": 1,
    }  # fmt: skip


def test_what_is_far_behind_does_not_go_on() -> None:
    clock = Clock(a=1.6, b=1.55, c=1.4, d=1.0)
    assert halve(["abcd"], clock, rounds=(1, 2, 4), stop=never) == [("d", [1.0] * 3)]
    assert {arm: clock.record.count(arm) for arm in "abcd"} == {"a": 1, "b": 1, "c": 3, "d": 3}


def test_what_is_decided_is_not_sampled_on() -> None:
    clock = Clock(only=1.0, a=1.0, b=1.2)
    assert halve([["only"], ["a", "b"]], clock, rounds=(1, 2), stop=never) == [
        ("only", [1.0]), ("a", [1.0] * 3)
    ]  # fmt: skip


def test_one_unlucky_sample_drops_nothing() -> None:
    clock = Clock(unlucky=[1.4, *[1.0] * 9], other=1.2)
    winners = halve([["unlucky", "other"]], clock, rounds=(1, 2, 4), stop=never)
    assert winners[0][0] == "unlucky"
    assert clock.record.count("other") == 3  # then it is far enough behind


def test_groups_are_searched_side_by_side() -> None:
    clock = Clock(a=2.0, b=1.0, x=1.0, y=2.0, z=3.0)
    winners = halve(["ab", "xyz"], clock, rounds=(1, 1), stop=never)
    assert winners == [("b", [1.0]), ("x", [1.0])]
    assert clock.record[:5] == list("axbyz")


def test_a_group_far_behind_still_has_a_winner() -> None:
    clock = Clock(fast=10.0, a=200.0, b=100.0)
    winners = halve([["fast"], ["a", "b"]], clock, rounds=(1, 2, 4), stop=never)
    assert winners == [("fast", [10.0]), ("b", [100.0])]


def test_the_median_decides_and_not_one_lucky_sample() -> None:
    clock = Clock(steady=[2.0] * 3, lucky=[1.0, 3.0, 3.0])
    winners = halve([["lucky", "steady"]], clock, rounds=(3,), stop=never)
    assert winners[0][0] == "steady"


def test_what_broke_does_not_win() -> None:
    clock = Clock(a=math.inf, b=2.0)
    assert halve(["ab"], clock, rounds=(1, 2), stop=never) == [("b", [2.0])]
    assert halve(["a"], clock, rounds=(1, 2), stop=never)[0][1][0] == math.inf
    assert halve([], clock, rounds=(1, 2), stop=never) == []


def test_what_breaks_when_it_is_looked_at_again_broke() -> None:
    clock = Clock(a=1.0, b=[9.5, math.inf])
    assert halve(["a", "b"], clock, rounds=(1, 2), stop=never) == [("a", [1.0]), ("b", [math.inf])]


def test_near_is_what_did_not_break() -> None:
    taken = {"broke": [math.inf], "slow": [2.0], "fast": [1.0], "close": [1.4]}
    assert near(["broke", "slow", "fast", "close"], taken) == ["fast", "close"]
    assert near(["broke"], taken) == ["broke"]
    assert near(["a", "b"], {"a": [1.0], "b": [1.0]}) == ["a", "b"]
