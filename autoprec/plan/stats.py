"""What a plan has done so far: calls by path, and what fp16's range has cost."""

import threading
from collections import Counter
from typing import TypedDict

import torch
from torch import Tensor


class Stats(TypedDict):
    """What ``Plan.stats`` returns.

    Attributes:
        calls: By path, how many calls ran it; baselines count under their names.
        range: Tiles of queries, keys and values that lost accuracy to fp16's range.
    """

    calls: dict[str, int]
    range: int


class Counts:
    """Counters of calls on the host, and of lost tiles on each device. Threads may share them."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._lost: dict[torch.device, Tensor] = {}

    def called(self, path: str) -> None:
        """Count a call."""
        with self._lock:
            self._calls[path] += 1

    def lost(self, device: torch.device) -> Tensor:
        """The counter of a device, int32 ``[1]``; made, and waited for, when first asked for."""
        counter = self._lost.get(device)
        if counter is None:
            with self._lock:
                counter = self._lost.get(device)
                if counter is None:
                    # a copy from the host is done when it returns: any stream may add to it
                    counter = torch.zeros(1, dtype=torch.int32, device="cpu").to(device)
                    self._lost[device] = counter
        return counter

    def read(self) -> Stats:
        """All counts; waits for the work queued on the devices."""
        with self._lock:
            calls, counters = dict(self._calls), dict(self._lost)
        for device in counters:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return Stats(calls=calls, range=sum(int(counter) for counter in counters.values()))
