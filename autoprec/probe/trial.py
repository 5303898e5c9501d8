"""One workload from its inputs to its contenders' results."""

import itertools
import math
import time
from collections.abc import Sequence

import torch

from autoprec.kernels.interface import Call
from autoprec.probe import search
from autoprec.probe.accuracy import Oracle
from autoprec.probe.bench import Bench
from autoprec.probe.contender import Contender, DroppedError
from autoprec.probe.device import free_bytes
from autoprec.probe.failures import described
from autoprec.probe.inputs import FAMILIES, call_of, draw, in_layout
from autoprec.probe.nvml import GIB
from autoprec.probe.share import Share
from autoprec.probe.tryout import Arm, try_out
from autoprec.types import Config, Status, Workload

# Of a workload's time: until when configurations are compared.
_SEARCHED_BY = 0.6

# Samples of each kernel and path before time is kept back for the other input families.
_LEAST_SAMPLES = 3


class Trial:
    """Measures the contenders of one workload; each comes out with a result or a reason."""

    def __init__(
        self, bench: Bench, workload: Workload, contenders: Sequence[Contender], share: Share
    ) -> None:
        """Take it all down; ``run`` does the work.

        Args:
            bench: What all workloads share.
            workload: What is computed.
            contenders: Its contenders, into which the results are written.
            share: Of the time.
        """
        self._bench, self._workload = bench, workload
        self._contenders, self._share = contenders, share

    def run(self) -> None:
        """Measure."""
        try:
            self._drop_what_does_not_fit()
            if self._running():
                self._measure()
            self._follow()
        except torch.OutOfMemoryError as error:  # the inputs' or the oracle's
            for contender in self._running():
                contender.drop(DroppedError(Status.FAILED, described(error)))

    def _measure(self) -> None:
        began = time.monotonic()
        call, oracle = self._inputs("gauss", 0)
        inputs_s = time.monotonic() - began
        running = [it for it in self._running() if it.included is None]
        self._say(f"trying {sum(len(it.configs) for it in running)} configurations")
        arms = try_out(running, call, oracle, self._bench, self._share)
        if not arms:
            return
        self._say(f"timing {sum(map(len, arms))} configurations of {len(arms)} paths")
        winners = search.halve(
            arms,
            self._sample_ms,
            rounds=self._bench.effort.rounds,
            stop=lambda count: self._share.past(_SEARCHED_BY),
        )
        winners += self._prepared(winners, call, oracle)
        families_s = len(FAMILIES) * (inputs_s + sum(min(ms) for _, ms in winners) / 1e3)
        self._time(winners, families_s)
        best = [arm.contender for arm, _ in winners]
        del call, oracle, arms, winners  # make room for other inputs
        self._check_families(best)

    def _prepared(
        self, winners: list[tuple[Arm, list[float]]], call: Call, oracle: Oracle
    ) -> list[tuple[Arm, list[float]]]:
        """What has K and V prepared beforehand, each in the configuration that won with them not.

        Returns:
            Arms with a first sample, to be timed in turn with the winners.
        """
        won = {arm.contender: arm.config for arm, ms in winners if math.isfinite(min(ms))}
        found = []
        for contender in self._running():
            if contender.included not in won:
                continue
            config = won[contender.included]
            try:
                self._refuse_planes(contender, config)
                arm = Arm(contender, config, contender.attempt(config, call, oracle))
            except DroppedError as why:
                contender.drop(why)
            else:
                found.append((arm, [self._sample_ms(arm)]))
        return found

    def _refuse_planes(self, contender: Contender, config: Config) -> None:
        """Drop what would hold too much memory while the others are timed beside it."""
        if self._share.all_over:
            raise DroppedError(Status.SKIPPED, "there was no time for it")
        need, free = contender.planes_bytes(config), free_bytes(self._bench.device)
        if need > 0.5 * free:
            raise DroppedError(
                Status.SKIPPED,
                f"K and V prepared need {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free",
            )

    def _follow(self) -> None:
        """What has K and V prepared is nothing where the same with the conversion is nothing."""
        for contender in self._running():
            it = contender.included
            if it is not None and it.status is not Status.OK:
                contender.drop(DroppedError(it.status, it.reason))

    def _drop_what_does_not_fit(self) -> None:
        free = free_bytes(self._bench.device)
        for contender in self._running():
            need = contender.need_bytes()
            if need > 0.9 * free:
                sentence = f"it needs {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
                contender.drop(DroppedError(Status.SKIPPED, sentence))

    def _inputs(self, family: str, number: int) -> tuple[Call, Oracle]:
        self._say(f"drawing {family} inputs")
        bench, effort = self._bench, self._bench.effort
        seed = bench.seed + number
        call = call_of(self._workload, *draw(self._workload, family, seed, bench.device))
        oracle = Oracle(call, family, rows=effort.rows, groups=effort.groups, seed=seed)
        return in_layout(self._workload, call), oracle

    def _sample_ms(self, arm: Arm) -> float:
        try:
            return self._bench.timer.sample_ms(arm.tried.run)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            arm.contender.drop(DroppedError(Status.FAILED, described(error)))
            return math.inf

    def _time(self, winners: list[tuple[Arm, list[float]]], families_s: float) -> None:
        """Time the fastest configuration of each contender, all in turn.

        Args:
            winners: With their samples from the search.
            families_s: Time to leave for the other families.
        """
        winners = sorted(winners, key=lambda winner: min(winner[1]))
        fastest = min(winners[0][1])
        # For what is far slower, and where no time is left, the search's samples will do.
        over = self._share.past(1.0)
        taken = {arm: ms if over or min(ms) > search.SLOW * fastest else [] for arm, ms in winners}
        for arm, ms in winners:
            arm.contender.best = arm.config
            arm.contender.errors["gauss"] = arm.tried.errors
            arm.contender.workspace_bytes = arm.tried.workspace_bytes
            if math.isfinite(min(ms)):  # what broke was another configuration
                arm.contender.status, arm.contender.reason = Status.OK, ""
        search.sample(
            list(taken),
            self._sample_ms,
            taken,
            rounds=self._bench.effort.samples,
            stop=lambda count: (
                self._share.left_s < (families_s if count >= _LEAST_SAMPLES else 0.0)
            ),
        )
        for arm, samples in taken.items():
            arm.contender.samples = samples
            if arm.contender.status is Status.OK and arm.contender.included is None:
                self._bench.learn(arm.contender, min(samples))

    def _check_families(self, contenders: list[Contender]) -> None:
        """Measure errors on the draws that are left; the worst one of each family counts."""
        for number, family in itertools.product(range(self._bench.effort.draws), FAMILIES):
            if (number, family) == (0, "gauss") or (number and self._share.past(1.0)):
                continue
            call, oracle = self._inputs(family, number)
            for contender in contenders:
                if contender.status is Status.OK:
                    try:
                        errors = contender.attempt(contender.best, call, oracle).errors
                    except DroppedError as why:
                        contender.drop(why)
                    else:
                        contender.worsen(family, errors)

    def _running(self) -> list[Contender]:
        return [it for it in self._contenders if it.status is Status.OK]

    def _say(self, sentence: str) -> None:
        self._bench.say(self._workload, sentence)
