"""One workload from its inputs to its contenders' results."""

import math
from collections.abc import Mapping, Sequence

from autoprec.kernels.interface import Call
from autoprec.probe import caches, search
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import DroppedError, dropped
from autoprec.probe.contender import Contender
from autoprec.probe.device import free_bytes
from autoprec.probe.draws import Draws
from autoprec.probe.failures import lacks_memory
from autoprec.probe.families import FAMILIES
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import call_of, end_to_end, in_a_row, in_layout
from autoprec.probe.memory import too_large
from autoprec.probe.request_oracle import RequestOracle
from autoprec.probe.screen import check_edges, screen
from autoprec.probe.share import Share
from autoprec.probe.tryout import Arm, try_out
from autoprec.types import Config, Role, Status, Workload

# Of a workload's time: until when configurations are compared, and the best of them timed.
_SEARCHED_BY = 0.45
_TIMED_BY = 0.65

# Samples of each kernel and path before time is kept back for the draws.
_LEAST_SAMPLES = 3

# Samples of the fastest baseline.
_BASELINE_SAMPLES = 5


class Trial:
    """Measures the contenders of one workload; each comes out with a result or a reason."""

    def __init__(
        self, harness: Harness, workload: Workload, contenders: Sequence[Contender], share: Share
    ) -> None:
        """Take it all down; ``run`` does the work.

        Args:
            harness: What all workloads share.
            workload: What is computed.
            contenders: Its contenders, into which the results are written.
            share: Of the time.
        """
        self._harness, self._workload = harness, workload
        self._contenders, self._share = contenders, share
        self._draws: Draws | None = None

    def run(self) -> None:
        """Measure."""
        try:
            self._drop_what_does_not_fit()
            if self._running():
                self._measure()
            self._follow()
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            # the inputs' or the oracle's
            for contender in self._running():
                contender.drop(dropped(error))

    def _measure(self) -> None:
        call, oracle = self._inputs()
        running = [it for it in self._running() if it.included is None]
        self._say(f"trying {sum(len(it.configs) for it in running)} configurations")
        arms = try_out(running, call, oracle, self._harness, self._share)
        if not arms:
            return
        self._say(f"timing {sum(map(len, arms))} configurations of {len(arms)} paths")
        taken: dict[Arm, list[float]] = {}
        winners = search.halve(
            arms,
            self._sample_ms,
            rounds=self._harness.effort.rounds,
            stop=lambda count: self._share.past(_SEARCHED_BY),
            taken=taken,
        )
        won = {arm.contender: arm.config for arm, ms in winners if math.isfinite(max(ms))}
        near = {
            group[0].contender: [arm.config for arm in search.near(group, taken)] for group in arms
        }
        del arms, taken  # what lost holds memory
        builds = caches.compiling(self._contenders, won, near, self._harness)
        winners += self._prepared(won, call, oracle)
        self._time(winners)
        best = [arm.contender for arm, _ in winners]
        del winners
        harness, share = self._harness, self._share
        cached = caches.measure(self._contenders, call, oracle, harness, share, builds)
        if not self._share.all_over:
            screen([it for it in best if it.status is Status.OK], call, oracle, self._harness)
        del call, oracle  # make room for other inputs
        if not self._share.all_over:
            check_edges(best, self._workload, self._harness)
        self._draws = Draws(self._harness, self._workload, [*best, *cached], self._share)
        self._draws.run()

    @property
    def unfinished(self) -> bool:
        """Whether draws are missing that there was no time for."""
        return self._draws is not None and self._draws.unfinished

    def resume(self, share: Share) -> None:
        """Draw what is missing, as far as another share of the time and the memory allow."""
        assert self._draws is not None
        try:
            self._draws.resume(share)
        except (RuntimeError, MemoryError) as error:  # what was measured is not lost to it
            if not lacks_memory(error):
                raise
        self._follow()

    def _prepared(
        self, won: Mapping[Contender, Config], call: Call, oracle: Oracle
    ) -> list[tuple[Arm, list[float]]]:
        """What has K and V prepared beforehand, each in the configuration that won with them not.

        Args:
            won: That configuration.
            call: Inputs of gauss.
            oracle: Exact attention of them.

        Returns:
            Arms with a first sample, to be timed in turn with the winners.
        """
        found = []
        for contender in self._running():
            without = contender.included
            if without is None or without not in won or contender.storage is not None:
                continue
            config = won[without]
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
        need, free = contender.planes_bytes(config), free_bytes(self._harness.device)
        if need > 0.5 * free:
            raise too_large("K and V prepared need", need, free)

    def _follow(self) -> None:
        """What has K and V prepared is nothing where the same with the conversion is nothing."""
        for contender in self._running():
            it = contender.included
            if it is not None and it.status is not Status.OK:
                contender.drop(DroppedError(it.status, it.reason, lacked_memory=it.lacked_memory))

    def _drop_what_does_not_fit(self) -> None:
        free = free_bytes(self._harness.device)
        if any(it.need_bytes() > 0.9 * free for it in self._running()):
            self._harness.drawn.clear()
            free = free_bytes(self._harness.device)
        for contender in self._running():
            need = contender.need_bytes()
            if need > 0.9 * free:
                contender.drop(too_large("it needs", need, free))

    def _inputs(self) -> tuple[Call, Oracle]:
        """Inputs of gauss, of the whole workload."""
        self._say("drawing gauss inputs")
        harness, effort = self._harness, self._harness.effort
        rows, groups, seed = effort.rows, effort.groups, harness.seed
        it = in_a_row(self._workload) if self._workload.unequal else self._workload
        call = call_of(it, *FAMILIES["gauss"].draw(it, seed, harness.device))
        if self._workload.unequal:
            call = end_to_end(self._workload, call)
            return call, RequestOracle(call, "gauss", rows=rows, groups=groups, seed=seed)
        oracle = Oracle(call, "gauss", rows=rows, groups=groups, seed=seed)
        return in_layout(self._workload, call), oracle

    def _sample_ms(self, arm: Arm) -> float:
        return arm.sample_ms(self._harness.timer)

    def _time(self, winners: list[tuple[Arm, list[float]]]) -> None:
        """Time the fastest configuration of each contender, all in turn.

        Args:
            winners: With their samples from the search.
        """
        winners = sorted(winners, key=lambda winner: min(winner[1]))
        fastest = min(winners[0][1])
        # For what is far slower, and where no time is left, the search's samples will do.
        over = self._share.past(1.0)
        taken = {arm: ms if over or min(ms) > search.SLOW * fastest else [] for arm, ms in winners}
        for arm, ms in winners:
            arm.settle(self._harness.typical)
            arm.forgive(ms)
        search.sample(
            list(taken),
            self._sample_ms,
            taken,
            rounds=self._harness.effort.samples,
            stop=lambda count: self._share.past(_TIMED_BY if count >= _LEAST_SAMPLES else 1.0),
        )
        self._time_baseline(taken)
        for arm, samples in taken.items():
            arm.contender.samples = samples
            if arm.contender.status is Status.OK and arm.contender.included is None:
                self._harness.learn(arm.contender, min(samples))

    def _time_baseline(self, taken: Mapping[Arm, list[float]]) -> None:
        """Some more samples of the fastest baseline, however slow: speed-ups are over it."""
        ours = [it for it in taken if it.contender.role is Role.BASELINE]
        best = min(ours, key=lambda arm: min(taken[arm]), default=None)
        while best is not None and len(taken[best]) < _BASELINE_SAMPLES:
            if best.contender.status is not Status.OK or self._share.past(_TIMED_BY):
                return
            taken[best].append(self._sample_ms(best))

    def _running(self) -> list[Contender]:
        return [it for it in self._contenders if it.status is Status.OK]

    def _say(self, sentence: str) -> None:
        self._harness.say(self._workload, sentence)
