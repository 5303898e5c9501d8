import math
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


def test_shares_are_equal_and_what_is_not_used_goes_on(clock: Clock) -> None:
    deadline = clock.now + 60
    shares_s = []
    for workloads, used_s in ((3, 5.0), (2, 30.0), (1, 0.0)):
        share = Share.of_what_is_left(deadline, workloads, 35.0)
        assert share is not None
        shares_s.append(share.left_s)
        clock.now += used_s
    assert shares_s == [20.0, 27.5, 25.0]


@pytest.mark.parametrize(("others_s", "share_s"), [(math.inf, 60.0), (12.0, 12.0), (1.0, 5.0)])
def test_the_last_gets_no_more_than_the_others_took(
    others_s: float, share_s: float, clock: Clock
) -> None:
    share = Share.of_what_is_left(clock.now + 60, 1, others_s)
    assert share is not None
    assert share.left_s == share_s


def test_no_share_is_left_after_the_deadline(clock: Clock) -> None:
    assert Share.of_what_is_left(clock.now, 3, 0.0) is None


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
