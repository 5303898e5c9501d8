"""Errors on many draws of every family: a first look for all, and more for what is worth it.

Heads are the draws: each pair of a request and a KV head is one. A round has several of them, with
other numbers in every round, and a band of the queries: the last ones, the first ones, some
between. A family that has only so many heads has no more rounds than it takes to draw each once.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

from autoprec.kernels.interface import Call
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import Attempt, DroppedError, ahead
from autoprec.probe.contender import Contender
from autoprec.probe.device import free_bytes
from autoprec.probe.drawn import Draw
from autoprec.probe.families import Group
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import call_bytes, call_of, in_layout
from autoprec.probe.range import has_a_range
from autoprec.probe.share import Share
from autoprec.types import Layout, Mask, Phase, Role, Status, Workload

_ROUNDS = 4  # in which the draws are taken, the first look included
_LEAST_HEADS = 8  # of a round
_CPU_BAND = 32  # query rows; on a GPU as many as the effort has
_STEP = 16  # bands begin at multiples of it, as compiled kernels like them


class Draws:
    """The draws of one workload.

    Attributes:
        unfinished: Whether anything lacks what ``run`` had no time to draw for it.
    """

    def __init__(
        self, harness: Harness, workload: Workload, contenders: Sequence[Contender], share: Share
    ) -> None:
        """Begin with none.

        Args:
            harness: What all workloads share.
            workload: What is computed.
            contenders: Those whose errors are wanted, each with its best configuration.
            share: Of the time.
        """
        self._harness, self._workload, self._share = harness, workload, share
        self._contenders = contenders
        self.unfinished = True
        heads = max(_LEAST_HEADS, math.ceil(harness.judge.needed / _ROUNDS))
        self._banded = banded(workload, self._band(), math.ceil(heads / workload.kv_heads))
        if 3 * call_bytes(self._banded) > free_bytes(harness.device):
            self._banded = replace(self._banded, batch=1)
        self._drawn = self._banded.batch * workload.kv_heads  # in a round
        self._rounds = max(1, math.ceil(harness.judge.needed / self._drawn))
        self._heads = {
            name: family.heads.count(self._banded)
            for name, family in harness.families.items()
            if family.heads is not None
        }
        for contender in contenders:
            contender.heads = self._heads

    def run(self) -> None:
        """Draw for what is worth it until it has draws enough, then look at the others once."""
        looks = [*self._families(Group.TYPICAL, 0), *self._families(Group.EXTREME, 0)]
        more = [it for n in range(1, self._rounds) for it in self._families(Group.TYPICAL, n)]
        least = len(self._families(Group.TYPICAL, 0))
        self.unfinished = self._share.all_over
        # Who is worth it changes with what is drawn, so each draw is for whoever lacks it then.
        while not self._share.all_over:
            listed = self._listed()
            task = self._missing(listed, looks + more)
            self.unfinished = task is not None
            if task is None or (self._share.past(1.0) and task not in looks[:least]):
                break
            self._draw(*task, listed)
        while (task := self._missing(self._running(), looks)) and not self._share.past(1.0):
            self._draw(*task, self._running())
        self.unfinished |= task is not None

    def resume(self, share: Share) -> None:
        """Go on where there was no time left, with another share of it."""
        self._share = share
        self.run()

    def _families(self, group: Group, number: int) -> list[tuple[int, str]]:
        """The draws of a round, of the families of a group that have heads left for it."""
        return [
            (number, name)
            for name, family in self._harness.families.items()
            if family.group is group and number * self._drawn < self._heads.get(name, math.inf)
        ]

    def _missing(
        self, contenders: Sequence[Contender], tasks: Sequence[tuple[int, str]]
    ) -> tuple[int, str] | None:
        """The first draw that one of the contenders lacks."""
        return next((it for it in tasks if any(self._lacks(one, *it) for one in contenders)), None)

    def _lacks(self, contender: Contender, number: int, name: str) -> bool:
        """Whether a draw is for a contender that has not had it."""
        beside = contender.role is Role.BASELINE or contender.storage is not None
        if self._harness.families[name].group is Group.EXTREME and beside:
            return False  # neither baselines nor forms of a cache are held to extreme families
        return (number, name) not in contender.drawn

    def _running(self) -> list[Contender]:
        return [it for it in self._contenders if it.status is Status.OK]

    def _listed(self) -> list[Contender]:
        """Those that are worth all draws, as things stand."""
        rows = {it: it.measurement() for it in self._running()}
        listed = self._harness.judge.shortlist(list(rows.values()))
        return [it for it, row in rows.items() if any(row is one for one in listed)]

    def _draw(self, number: int, name: str, contenders: Sequence[Contender]) -> None:
        """Draw once, for those of the contenders that lack it."""
        self._harness.say(self._workload, f"drawing {name} inputs")
        draw = self._harness.drawn.get(
            (self._banded, self._workload.q_len, number, name),
            3 * call_bytes(self._banded),  # as they are, in their layout, and the exact results
            functools.partial(self._make, number, name),
        )
        family = self._harness.families[name]
        lacking = [it for it in contenders if self._lacks(it, number, name)]
        # it waits for the device, so not between runs
        wide = draw.range if any(has_a_range(it.path) for it in lacking) else {}
        tasks = ((it, functools.partial(self._begin, it, draw)) for it in lacking)
        for contender, outcome in ahead(tasks):
            contender.drawn.add((number, name))
            if isinstance(outcome, DroppedError):
                contender.drop(outcome)
            else:
                contender.take(name, family.group, outcome.comparison)
            if has_a_range(contender.path):
                contender.see(name, wide)

    def _make(self, number: int, name: str) -> Draw:
        # the inputs of the full workload have the numbers up to 2^16
        seed = self._harness.seed + ((number + 1) << 16)
        family, device = self._harness.families[name], self._harness.device
        if family.heads is None:
            inputs = family.draw(self._banded, seed, device)
        else:
            first = number * self._drawn
            inputs = family.heads.draw(self._banded, self._harness.seed, device, first)
        call = self._shifted(call_of(self._banded, *inputs), number)
        oracle = Oracle(
            call, name, rows=call.q.shape[2], groups=self._banded.batch * call.k.shape[1],
            seed=seed, magnitudes=number == 0 and _is_plain(self._workload),
        )  # fmt: skip
        return Draw(in_layout(self._banded, call), oracle)

    def _begin(self, contender: Contender, draw: Draw) -> Attempt:
        plain = contender.storage is None  # the rounding of a cache's form is its own
        judge = self._harness.judge if plain else None
        return contender.begin(contender.best, draw.call, draw.oracle, judge).for_errors()

    def _shifted(self, call: Call, number: int) -> Call:
        """The call with its queries where the round has its band."""
        room = self._workload.q_len - self._banded.q_len
        first = (room, 0, room // 2)[number % 3] // _STEP * _STEP
        # requests of a layout say where their queries are: at the end
        if not room or self._workload.mask is Mask.FULL or not _is_plain(self._workload):
            return call
        return replace(call, diagonal=self._workload.kv_len - self._workload.q_len + first)

    def _band(self) -> int:
        effort = self._harness.effort
        return min(effort.rows, _CPU_BAND) if self._harness.target.kind == "cpu" else effort.rows


def _is_plain(workload: Workload) -> bool:
    """Whether it is what the error model is of: no window, cap or sinks, and K and V in a piece."""
    modified = (workload.window, workload.soft_cap, workload.sinks or None)
    return workload.layout is Layout.CONTIGUOUS and modified == (None, None, None)


def banded(workload: Workload, rows: int, batch: int) -> Workload:
    """A workload with a band of its queries, and another number of requests."""
    if workload.q_len <= rows:
        return replace(workload, batch=batch)
    phase = Phase.APPEND if rows > 1 and workload.kv_len > rows else Phase.DECODE
    return replace(workload, batch=batch, q_len=rows, phase=phase)
