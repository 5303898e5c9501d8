"""A workload's share of the time there is for measuring."""

import time
from typing import Self

_NEVER_TOO_LONG_S = 5.0


class Share:
    """From now until a moment, which can be put off."""

    def __init__(self, until: float, deadline: float) -> None:
        """Begin.

        Args:
            until: When the workload is to be done, by time.monotonic.
            deadline: When everything is.
        """
        self._start, self._until, self.deadline = time.monotonic(), until, deadline

    @classmethod
    def of_what_is_left(cls, deadline: float, workloads: int, others_s: float) -> Self | None:
        """The share of the next of some workloads; None where no time is left.

        All shares are equal, and what one does not use is the others'. The last, which takes
        longest where small workloads come first, gets no more than all others took.

        Args:
            deadline: When everything is to be done, by time.monotonic.
            workloads: How many are left.
            others_s: Seconds that those before took; infinity where there are none.
        """
        now = time.monotonic()
        if now >= deadline:
            return None
        share_s = (deadline - now) / workloads
        if workloads == 1:
            share_s = min(share_s, max(others_s, _NEVER_TOO_LONG_S))
        return cls(now + share_s, deadline)

    @property
    def left_s(self) -> float:
        """Seconds left of the share; negative where it was overdrawn."""
        return self._until - time.monotonic()

    @property
    def all_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def past(self, fraction: float) -> bool:
        """Whether this fraction of the share is over."""
        return time.monotonic() > self._start + fraction * (self._until - self._start)

    def put_off(self, seconds: float) -> None:
        """Do not count these seconds, as far as the deadline allows."""
        self._start += seconds
        self._until = min(self._until + seconds, self.deadline)
