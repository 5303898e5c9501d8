"""What a plan has done so far: calls by path, what fp16's range has cost, and what guards saw."""

import threading
from collections import Counter
from typing import TypedDict

import torch
from torch import Tensor

DRIFT = ("rel_l2", "row_rel_max", "max_abs")
"""The errors of calls that are checked as they run, as in a measurement."""


class Stats(TypedDict):
    """What ``Plan.stats`` returns.

    Attributes:
        calls: By path, how many calls ran it; baselines count under their names.
        range: Tiles of queries, keys and values that lost accuracy to fp16's range.
        fell: By ``PATH>PATH``, how many calls were computed again by the second path, since the
            first one's range was too narrow (``guard="always"``).
        drift: By path, how many calls were ``checked`` and the worst of their errors against exact
            attention (``guard="sample"``).
    """

    calls: dict[str, int]
    range: int
    fell: dict[str, int]
    drift: dict[str, dict[str, float]]


class Counts:
    """Counters of calls on the host, and of lost tiles on each device. Threads may share them."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._checks: Counter[str] = Counter()
        self._lost: dict[torch.device, Tensor] = {}
        self._guarded: dict[tuple[torch.device, str], Tensor] = {}
        self._verdicts: dict[tuple[object, str], Tensor] = {}
        self._worst: dict[tuple[object, str], Tensor] = {}

    def called(self, path: str) -> int:
        """Count a call; how many there were before, of any path."""
        with self._lock:
            before = self._calls.total()
            self._calls[path] += 1
        return before

    def checked(self, path: str) -> None:
        """Count a check."""
        with self._lock:
            self._checks[path] += 1

    def lost(self, device: torch.device) -> Tensor:
        """The counter of a device, int32 ``[1]``; made, and waited for, when first asked for."""
        counter = self._lost.get(device)
        if counter is None:
            with self._lock:
                counter = self._lost.setdefault(device, _zeros(1, torch.int32, device))
        return counter

    def guarded(self, device: torch.device, path: str, safe: str) -> Tensor:
        """The counters of a device and two paths, int32 ``[2]``: tiles lost, calls that had any."""
        key = (device, f"{path}>{safe}")
        counter = self._guarded.get(key)
        if counter is None:
            with self._lock:
                counter = self._guarded.setdefault(key, _zeros(2, torch.int32, device))
        return counter

    def verdicts(self, path: str, safe: str, owner: object, ring: Tensor) -> None:
        """Count what an owner's ring holds, which is ``kernels.guard.verdicts``."""
        with self._lock:
            self._verdicts[owner, f"{path}>{safe}"] = ring

    def worst(self, device: torch.device, path: str, owner: object) -> Tensor:
        """An owner's worst errors of a path on a device, fp64, one for each of DRIFT."""
        place = self._worst.get((owner, path))
        if place is None:
            with self._lock:
                place = self._worst[owner, path] = _zeros(len(DRIFT), torch.float64, device)
        return place

    def read(self) -> Stats:
        """All counts; waits for the work queued on the devices."""
        with self._lock:
            calls, checks = dict(self._calls), dict(self._checks)
            lost, guarded, worst = dict(self._lost), dict(self._guarded), dict(self._worst)
            verdicts = dict(self._verdicts)
        tensors = [*lost.values(), *guarded.values(), *verdicts.values(), *worst.values()]
        for device in {tensor.device for tensor in tensors}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        fell: Counter[str] = Counter()
        tiles = sum(int(counter) for counter in lost.values())
        for (_, paths), counter in guarded.items():
            tiles += int(counter[0])
            fell[paths] += int(counter[1])
        for (_, paths), ring in verdicts.items():
            held = ring.cpu()  # at once: it may be collected meanwhile
            each, collected = held[:, 0], held[0, 1:3].tolist()
            tiles += int(each.sum()) + collected[0]
            fell[paths] += int(each.count_nonzero()) + collected[1]
        drift: dict[str, dict[str, float]] = {}
        for path, count in checks.items():
            places = torch.stack([place.cpu() for (_, of), place in worst.items() if of == path])
            numbers = dict(zip(DRIFT, places.amax(0).tolist(), strict=True))
            drift[path] = {"checked": count, **numbers}
        return Stats(calls=calls, range=tiles, fell=dict(+fell), drift=drift)


def _zeros(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that are there when this returns, as copies from the host are: for any stream.

    They may be added to in and out of inference mode.
    """
    with torch.inference_mode(False):
        return torch.zeros(count, dtype=dtype, device="cpu").to(device)
