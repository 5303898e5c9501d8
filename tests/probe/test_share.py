import time

import pytest

from autoprec.probe.share import Share


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("workloads", "left_s"),
    [(1, 60.0), (2, 30.0), (4, 30.0), (10, 15.0)],  # at most half, or 2.5 equal shares
)
def test_a_share_is_generous_and_no_more_than_half(
    workloads: int, left_s: float, clock: Clock
) -> None:
    share = Share.of_what_is_left(clock.now + 60, workloads)
    assert share is not None
    assert share.left_s == left_s


def test_no_share_is_left_after_the_deadline(clock: Clock) -> None:
    assert Share.of_what_is_left(clock.now, 3) is None


def test_time_passes(clock: Clock) -> None:
    share = Share(clock.now + 10, clock.now + 30)
    assert not share.past(0.4)
    clock.now += 5
    assert share.past(0.4)
    assert not share.past(0.6)
    assert not share.all_over
    clock.now += 20
    assert share.left_s == -15
    assert not share.all_over
    clock.now += 6
    assert share.all_over


def test_what_is_put_off_is_not_counted(clock: Clock) -> None:
    share = Share(clock.now + 10, clock.now + 100)
    clock.now += 4
    share.put_off(4)
    assert share.left_s == 10
    assert not share.past(0.01)


def test_nothing_is_put_off_beyond_the_deadline(clock: Clock) -> None:
    share = Share(clock.now + 90, clock.now + 100)
    clock.now += 20
    share.put_off(20)
    assert share.left_s == 80
