"""One workload from its inputs to its contenders' results."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from autoprec.kernels.interface import Call, Target
from autoprec.probe import search
from autoprec.probe.accuracy import Oracle
from autoprec.probe.compile import Built
from autoprec.probe.contender import Contender, DroppedError
from autoprec.probe.device import free_bytes
from autoprec.probe.effort import Effort
from autoprec.probe.events import Observe, Remark, Working
from autoprec.probe.failures import described
from autoprec.probe.inputs import FAMILIES, call_of, draw
from autoprec.probe.nvml import GIB
from autoprec.probe.share import Share
from autoprec.probe.timing import Timer
from autoprec.types import Config, Phase, Status, Workload

Builds = Mapping[tuple[Contender, int], Future[Built]]
"""The compiling of a contender's configuration, by its number."""

# A configuration whose error is this many times the best one's of its path is broken.
_ASTRAY = 4.0

# Shares of a workload's time: until when configurations are tried, and until when compared.
_TRIED_BY, _SEARCHED_BY = 0.4, 0.6

_LEAST_SAMPLES = 3


@dataclass(kw_only=True)
class Bench:
    """What all workloads share.

    Attributes:
        pace: Seconds for one of ``Workload.flops``, by kernel, path and phase, as last measured.
    """

    device: torch.device
    target: Target
    timer: Timer
    effort: Effort
    seed: int
    observe: Observe
    pace: dict[tuple[str, str, Phase], float] = field(default_factory=dict)


@dataclass(eq=False)
class _Arm:
    """A contender with a configuration, bound to inputs."""

    contender: Contender
    config: Config
    run: Callable[[], object]
    errors: dict[str, float]


class Trial:
    """Measures the contenders of one workload; each comes out with a result or a reason."""

    def __init__(
        self,
        bench: Bench,
        workload: Workload,
        contenders: Sequence[Contender],
        builds: Builds,
        share: Share,
    ) -> None:
        """Take it all down; ``run`` does the work.

        Args:
            bench: What all workloads share.
            workload: What is computed.
            contenders: Its contenders, into which the results are written.
            builds: What is compiled beforehand; empty on a CPU.
            share: Of the time.
        """
        self._bench, self._workload, self._contenders = bench, workload, contenders
        self._builds, self._share = builds, share

    def run(self) -> None:
        """Measure."""
        try:
            self._measure()
        except torch.OutOfMemoryError as error:  # the inputs' or the oracle's
            for contender in self._running():
                contender.drop(DroppedError(Status.FAILED, described(error)))

    def _measure(self) -> None:
        self._drop_what_does_not_fit()
        if not self._running():
            return
        began = time.monotonic()
        call, oracle = self._inputs("gauss", 0)
        inputs_s = time.monotonic() - began
        arms = self._try_all(call, oracle)
        if not arms:
            return
        self._say(f"timing {sum(map(len, arms))} configurations of {len(arms)} paths")
        winners = search.halve(
            arms,
            self._sample_ms,
            rounds=self._bench.effort.rounds,
            stop=lambda count: self._share.past(_SEARCHED_BY),
        )
        families_s = len(FAMILIES) * (inputs_s + sum(min(ms) for _, ms in winners) / 1e3)
        self._time(winners, families_s)
        best = [arm.contender for arm, _ in winners]
        del call, oracle, arms, winners  # make room for other inputs
        self._check_families(best)

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
        return call, Oracle(call, family, rows=effort.rows, groups=effort.groups, seed=seed)

    def _try_all(self, call: Call, oracle: Oracle) -> list[list[_Arm]]:
        """Run each configuration once; the right ones of each contender that has any."""
        arms: dict[Contender, list[_Arm]] = {contender: [] for contender in self._running()}
        dropped: dict[Contender, list[DroppedError]] = {contender: [] for contender in arms}
        self._say(f"trying {sum(len(c.configs) for c in arms)} configurations")
        for number in range(max(len(contender.configs) for contender in arms)):
            for contender, found in arms.items():
                if number < len(contender.configs) and not (found and self._share.past(_TRIED_BY)):
                    try:
                        self._await_build(contender, number, needed=not found)
                        found.append(self._try(contender, number, call, oracle))
                    except DroppedError as reason:
                        dropped[contender].append(reason)
        for contender, reasons in dropped.items():
            if not arms[contender]:
                contender.drop(reasons[-1])
            for why in reasons if arms[contender] else ():
                if why.status is Status.FAILED:
                    self._remark(contender, f"a configuration was left out: {why.reason}")
        return [self._on_track(found) for found in arms.values() if found]

    def _try(self, contender: Contender, number: int, call: Call, oracle: Oracle) -> _Arm:
        pace = self._bench.pace.get((contender.name, contender.path, self._workload.phase), 0.0)
        run_s = pace * self._workload.flops
        # it runs twice at least, to be tried and to be timed; a quick one is always worth that
        if self._share.all_over or 2 * run_s > max(self._share.left_s, 1.0):
            takes = f": one run takes about {run_s:.1f} s" if run_s else ""
            raise DroppedError(Status.SKIPPED, f"there was no time for it{takes}")
        config = contender.configs[number]
        return _Arm(contender, config, *contender.attempt(config, call, oracle))

    def _await_build(self, contender: Contender, number: int, *, needed: bool) -> None:
        if (contender, number) not in self._builds:
            return
        try:
            built = self._share.wait(self._builds[contender, number], needed=needed)
        except TimeoutError:
            late = "it was not compiled before the time was up"
            raise DroppedError(Status.SKIPPED, late) from None
        if built.reason:
            raise DroppedError(Status.FAILED, built.reason)
        target = self._bench.target
        if built.shared_bytes > target.shared_bytes:
            raise DroppedError(
                Status.UNSUPPORTED,
                f"a block needs {built.shared_bytes} bytes of shared memory, and {target.arch} "
                f"has {target.shared_bytes}",
            )

    def _on_track(self, arms: list[_Arm]) -> list[_Arm]:
        """Those whose error is near the best one's: the others compute something else."""
        bound = _ASTRAY * min(arm.errors["rel_l2"] for arm in arms)
        for arm in arms:
            if arm.errors["rel_l2"] > bound:
                self._remark(
                    arm.contender,
                    f"the configuration {arm.config} was left out: its rel_l2 of "
                    f"{arm.errors['rel_l2']:.2e} is over {_ASTRAY:g} times the best one's",
                )
        return [arm for arm in arms if arm.errors["rel_l2"] <= bound]

    def _sample_ms(self, arm: _Arm) -> float:
        try:
            return self._bench.timer.sample_ms(arm.run)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            arm.contender.drop(DroppedError(Status.FAILED, described(error)))
            return math.inf

    def _time(self, winners: list[tuple[_Arm, list[float]]], families_s: float) -> None:
        """Time the fastest configuration of each contender, all in turn.

        Args:
            winners: With their samples from the search.
            families_s: Time to leave for the other families.
        """
        winners = sorted(winners, key=lambda winner: min(winner[1]))
        fastest = min(winners[0][1])
        # For what is far slower, the search's samples will do.
        taken = {arm: ms if min(ms) > search.SLOW * fastest else [] for arm, ms in winners}
        for arm, ms in winners:
            arm.contender.best = arm.config
            arm.contender.errors["gauss"] = arm.errors
            if math.isfinite(min(ms)):  # what broke was another configuration
                arm.contender.status, arm.contender.reason = Status.OK, ""
        search.sample(
            list(taken),
            self._sample_ms,
            taken,
            rounds=self._bench.effort.samples,
            stop=lambda count: (
                self._share.all_over
                or (count >= _LEAST_SAMPLES and self._share.left_s < families_s)
            ),
        )
        for arm, samples in taken.items():
            arm.contender.samples = samples
            if arm.contender.status is Status.OK:
                key = (arm.contender.name, arm.contender.path, self._workload.phase)
                self._bench.pace[key] = min(samples) / 1e3 / self._workload.flops

    def _check_families(self, contenders: list[Contender]) -> None:
        """Measure errors on the draws that are left; the worst one of each family counts."""
        for number, family in itertools.product(range(self._bench.effort.draws), FAMILIES):
            if (number, family) == (0, "gauss") or (number and self._share.past(1.0)):
                continue
            call, oracle = self._inputs(family, number)
            for contender in contenders:
                if contender.status is Status.OK:
                    try:
                        _, errors = contender.attempt(contender.best, call, oracle)
                    except DroppedError as why:
                        contender.drop(why)
                    else:
                        contender.worsen(family, errors)

    def _running(self) -> list[Contender]:
        return [c for c in self._contenders if c.status is Status.OK]

    def _say(self, sentence: str) -> None:
        self._bench.observe(Working(self._workload, sentence))

    def _remark(self, contender: Contender, sentence: str) -> None:
        self._bench.observe(
            Remark(f"{self._workload}, {contender.path} by {contender.name}: {sentence}.")
        )
