"""A workload's share of the time there is for measuring."""

import time
from concurrent.futures import Future
from typing import Self, TypeVar

Built = TypeVar("Built")

# A workload may take this many times its equal share of the time that is left.
_GENEROUS = 2.5

# Of the time that is left in all: how long a workload waits for its configurations to be compiled.
# Later workloads find most of theirs compiled then, so that the waiting is not charged to it.
_PATIENCE = 0.3


class Share:
    """From now until a moment, which waiting puts off."""

    def __init__(self, until: float, deadline: float) -> None:
        """Begin.

        Args:
            until: When the workload is to be done, by time.monotonic.
            deadline: When everything is.
        """
        self._start, self._until, self.deadline = time.monotonic(), until, deadline
        self._patience_s = _PATIENCE * (deadline - self._start)

    @classmethod
    def of_what_is_left(cls, deadline: float, workloads: int) -> Self | None:
        """The share of the next of some workloads; None where no time is left.

        None but the last may take longer than the rest together.
        """
        now = time.monotonic()
        left_s = deadline - now
        if left_s <= 0:
            return None
        if workloads == 1:
            return cls(deadline, deadline)
        return cls(now + min(_GENEROUS * left_s / workloads, left_s / 2), deadline)

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

    def wait(self, future: "Future[Built]", *, needed: bool) -> Built:
        """The result of something that runs elsewhere.

        Args:
            future: What is waited for, as long as there is patience.
            needed: Whether there is no going on without it: then as long as there is time.

        Raises:
            TimeoutError: It took too long.
        """
        began = time.monotonic()
        try:
            return future.result(max(self._patience_s, self.left_s if needed else 0.0))
        finally:
            waited = time.monotonic() - began
            self._patience_s = max(0.0, self._patience_s - waited)
            self._start += waited
            self._until = min(self._until + waited, self.deadline)
