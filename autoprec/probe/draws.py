"""Errors on many draws of every family: a first look for all, and more for what is worth it.

Heads are the draws: each pair of a request and a KV head is one. A round has several of them, with
other numbers in every round, and a band of the queries: the last ones, the first ones, some
between.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from autoprec.kernels.interface import Call
from autoprec.probe.accuracy import Oracle
from autoprec.probe.bench import Bench
from autoprec.probe.contender import Contender, DroppedError
from autoprec.probe.device import free_bytes
from autoprec.probe.families import Group
from autoprec.probe.inputs import call_bytes, call_of
from autoprec.probe.share import Share
from autoprec.types import Mask, Phase, Role, Status, Workload

_ROUNDS = 4  # in which the draws are taken, the first look included
_LEAST_HEADS = 8  # of a round
_CPU_BAND = 32  # query rows; on a GPU as many as the effort has
_STEP = 16  # bands begin at multiples of it, as compiled kernels like them


class Draws:
    """The draws of one workload."""

    def __init__(
        self, bench: Bench, workload: Workload, contenders: Sequence[Contender], share: Share
    ) -> None:
        """Begin with none.

        Args:
            bench: What all workloads share.
            workload: What is computed.
            contenders: Those whose errors are wanted, each with its best configuration.
            share: Of the time.
        """
        self._bench, self._workload, self._share = bench, workload, share
        self._contenders = contenders
        heads = max(_LEAST_HEADS, math.ceil(bench.judge.needed / _ROUNDS))
        self._banded = banded(workload, self._band(), math.ceil(heads / workload.kv_heads))
        if 3 * call_bytes(self._banded) > free_bytes(bench.device):
            self._banded = replace(self._banded, batch=1)

    def run(self) -> None:
        """Look at everything once, and at what is worth it until it has draws enough."""
        # typical families first: there may be no time for both
        self._round(0, Group.TYPICAL, self._running())
        if not self._share.past(1.0):
            self._round(0, Group.EXTREME, self._running())
        for contender in self._contenders:
            contender.rounds = 1
        while not self._share.past(1.0):
            wanting = self._wanting()
            if not wanting:
                break
            number = min(it.rounds for it in wanting)
            now = [it for it in wanting if it.rounds == number]
            self._round(number, Group.TYPICAL, now)
            for contender in now:
                contender.rounds += 1

    def _wanting(self) -> list[Contender]:
        """Who is worth more draws than it has had."""
        needed = self._bench.judge.needed
        return [it for it in self._listed(self._running()) if it.draws < needed]

    def _listed(self, contenders: Sequence[Contender]) -> list[Contender]:
        """Those of some that are worth all draws, as things stand."""
        rows = {it: it.measurement() for it in contenders if it.status is Status.OK}
        listed = self._bench.judge.shortlist(list(rows.values()))
        return [it for it, row in rows.items() if any(row is one for one in listed)]

    def _round(self, number: int, group: Group, contenders: Sequence[Contender]) -> None:
        """One round of the families of a group; baselines are not held to extreme ones."""
        if group is Group.EXTREME:
            contenders = [it for it in contenders if it.role is Role.CANDIDATE]
        for name, family in self._bench.families.items():
            if family.group is not group or (self._share.past(1.0) and number):
                continue
            if self._share.all_over or not contenders:
                return
            self._bench.say(self._workload, f"drawing {name} inputs")
            # the inputs of the full workload have the numbers up to 2^16
            seed = self._bench.seed + ((number + 1) << 16)
            call = self._shifted(
                call_of(self._banded, *family.draw(self._banded, seed, self._bench.device)), number
            )
            oracle = Oracle(
                call, name, rows=call.q.shape[2], groups=self._banded.batch * call.k.shape[1],
                seed=seed, magnitudes=number == 0,
            )  # fmt: skip
            late = self._share.past(1.0)
            for contender in self._listed(contenders) if late else contenders:
                self._take(contender, name, call, oracle)

    def _take(self, contender: Contender, name: str, call: Call, oracle: Oracle) -> None:
        if contender.status is not Status.OK:
            return
        judge, group = self._bench.judge, self._bench.families[name].group
        try:
            tried = contender.attempt(contender.best, call, oracle, judge)
        except DroppedError as why:
            contender.drop(why)
        else:
            contender.take(name, group, tried.comparison)

    def _shifted(self, call: Call, number: int) -> Call:
        """The call with its queries where the round has its band."""
        room = self._workload.q_len - self._banded.q_len
        first = (room, 0, room // 2)[number % 3] // _STEP * _STEP
        if not room or self._workload.mask is Mask.FULL:
            return call
        return replace(call, diagonal=self._workload.kv_len - self._workload.q_len + first)

    def _band(self) -> int:
        effort = self._bench.effort
        return min(effort.rows, _CPU_BAND) if self._bench.target.kind == "cpu" else effort.rows

    def _running(self) -> list[Contender]:
        return [it for it in self._contenders if it.status is Status.OK]


def banded(workload: Workload, rows: int, batch: int) -> Workload:
    """A workload with a band of its queries, and another number of requests."""
    if workload.q_len <= rows:
        return replace(workload, batch=batch)
    phase = Phase.APPEND if rows > 1 and workload.kv_len > rows else Phase.DECODE
    return replace(workload, batch=batch, q_len=rows, phase=phase)
