"""Draws kept for whoever wants them again: workloads that differ in their batch draw the same."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

from autoprec.kernels.interface import Call
from autoprec.probe.accuracy import Oracle
from autoprec.probe.failures import lacks_memory
from autoprec.probe.range import observed


@dataclass(frozen=True)
class Draw:
    """Inputs of a family, and exact attention of them.

    Attributes:
        call: Of them, in the layout of the workload.
        oracle: Of them, in a piece.
    """

    call: Call
    oracle: Oracle

    @cached_property
    def range(self) -> dict[str, float]:
        """What the inputs are; see ``observed``."""
        return observed(self.oracle.call)


class Drawn:
    """The last draws, as many as fit into some memory of the device."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with none.

        Args:
            most_bytes: What is kept at most, about.
        """
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Draw, int]] = OrderedDict()
        self._bytes = 0

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._bytes = 0

    def get(self, key: Hashable, nbytes: int, make: Callable[[], Draw]) -> Draw:
        """The draw of a key, made where it is not there.

        Args:
            key: Equal for equal draws alone.
            nbytes: What it takes.
            make: Makes it.
        """
        if key in self._kept:
            return self._kept[key][0]
        while self._kept and self._bytes + nbytes > self._most_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        try:
            draw = make()
        except (RuntimeError, MemoryError) as error:
            if not self._kept or not lacks_memory(error):
                raise
            self.clear()
            draw = make()
        if nbytes <= self._most_bytes:
            self._kept[key] = draw, nbytes
            self._bytes += nbytes
        return draw
