"""Every configuration run once: which ones are compiled, run, and are right."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoprec.kernels.interface import Call
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import Attempt, DroppedError, Tried, ahead, dropped
from autoprec.probe.contender import Contender
from autoprec.probe.families import Group
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import blank_call
from autoprec.probe.nvml import GIB
from autoprec.probe.search import in_turn
from autoprec.probe.share import Share
from autoprec.probe.timing import Timer
from autoprec.probe.workspace import planned_bytes
from autoprec.types import Config, Role, Status

# A configuration whose error is this many times the best one's of its path is broken.
_ASTRAY = 4.0

# Of a workload's time: until when second and further configurations are tried.
_TRIED_BY = 0.4


@dataclass(eq=False)
class Arm:
    """A configuration of a contender, bound to inputs."""

    contender: Contender
    config: Config
    tried: Tried

    def sample_ms(self, timer: Timer) -> float:
        """A sample; infinity, and the contender is dropped, where it broke."""
        try:
            return timer.sample_ms(self.tried.run)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            self.contender.drop(dropped(error))
            return math.inf

    def forgive(self, samples: Sequence[float]) -> None:
        """Have its contender go on with it, where what broke was another configuration.

        Args:
            samples: Its own until now.
        """
        if math.isfinite(max(samples)):
            self.contender.running_again()

    def settle(self, typical: tuple[str, ...]) -> None:
        """Have it stand for its contender, with its errors on gauss.

        Args:
            typical: The families that errors are wanted on.
        """
        contender, tried = self.contender, self.tried
        contender.best = self.config
        contender.families = typical
        contender.take("gauss", Group.TYPICAL, tried.comparison)
        contender.typical_row = tried.comparison.typical_row
        contender.workspace_bytes = tried.workspace_bytes


def try_out(
    contenders: Sequence[Contender], call: Call, oracle: Oracle, harness: Harness, share: Share
) -> list[list[Arm]]:
    """Run each configuration once; a contender without a right one is dropped.

    Args:
        contenders: Those in the running.
        call: The inputs.
        oracle: Exact attention of them.
        harness: What all workloads share.
        share: Of the time; each contender is tried once though it be over.

    Returns:
        The right configurations of each contender that has any, in the kernel's order or, where
        they had to be waited for, as they were compiled.
    """
    arms: dict[Contender, list[Arm]] = {it: [] for it in contenders}
    dropped: dict[Contender, list[DroppedError]] = {it: [] for it in contenders}
    for contender in contenders:
        if contender.role is Role.CANDIDATE and (reason := _hopeless(contender, harness)):
            contender.drop(DroppedError(Status.UNSUPPORTED, reason))
    running = [it for it in contenders if it.status is Status.OK]
    fastest_s = min((s for it in running if (s := harness.expected_s(it))), default=0.0)
    waiting = in_turn([(it, n) for n in harness.worth_trying(it, fastest_s)] for it in running)
    every = in_turn([(it, n) for n in range(len(it.configs))] for it in running)
    late = [it for it in every if it not in waiting]
    hopeful: Counter[Contender] = Counter()

    def begin(contender: Contender, number: int) -> Attempt:
        _refuse_unbuilt(contender, number, harness)
        _refuse_endless(contender, harness, share)
        config = contender.configs[number]
        _refuse_large(contender, config, harness)
        return contender.begin(config, call, oracle)

    def tasks() -> Iterator[tuple[tuple[Contender, Config], Callable[[], Attempt]]]:
        while waiting:
            contender, number = waiting.pop(_first_built(waiting, harness, share))
            if hopeful[contender] and share.past(_TRIED_BY):
                late.append((contender, number))
                continue
            hopeful[contender] += 1
            key = (contender, contender.configs[number])
            yield key, functools.partial(begin, contender, number)

    while waiting:
        for (contender, config), outcome in ahead(tasks()):
            if isinstance(outcome, DroppedError):
                hopeful[contender] -= 1
                dropped[contender].append(outcome)
            else:
                arms[contender].append(Arm(contender, config, outcome))
        # what was hoped for in their place may have come to nothing
        waiting, late = [it for it in late if not hopeful[it[0]]], []
    for contender, reasons in dropped.items():
        if not arms[contender]:
            if reasons:
                contender.drop(reasons[-1])
            continue
        for why in reasons:
            if why.status is Status.FAILED:
                harness.remark(contender, f"a configuration was left out: {why.reason}")
    return [on_track(found, harness) for found in arms.values() if found]


def _hopeless(contender: Contender, harness: Harness) -> str:
    return harness.judge.hopeless(contender.path, contender.workload)


def _first_built(waiting: list[tuple[Contender, int]], harness: Harness, share: Share) -> int:
    """Which configuration to try next: the first that is compiled, as long as we may wait."""
    builds = [harness.builds.get(it) for it in waiting]

    def first() -> int | None:
        ready = (i for i, build in enumerate(builds) if build is None or build.done())
        return next(ready, None)

    if (number := first()) is not None:
        return number
    harness.wait_for([build for build in builds if build is not None], share)
    return first() or 0


def _refuse_unbuilt(contender: Contender, number: int, harness: Harness) -> None:
    build = harness.builds.get((contender, number))
    if build is None:
        return
    if not build.done():
        raise DroppedError(Status.SKIPPED, "it was not compiled before the time was up")
    built = build.result()
    if built.reason:
        raise DroppedError(Status.FAILED, built.reason)
    if built.shared_bytes > harness.target.shared_bytes:
        raise DroppedError(
            Status.UNSUPPORTED,
            f"a block needs {built.shared_bytes} bytes of shared memory, and "
            f"{harness.target.arch} has {harness.target.shared_bytes}",
        )


def _refuse_large(contender: Contender, config: Config, harness: Harness) -> None:
    kernel, most_gib = contender.kernel, harness.max_workspace_gib
    if most_gib is None or kernel is None or kernel.launches is None:
        return
    call = blank_call(contender.workload)
    need_gib = planned_bytes(kernel.launches(call, contender.path, config), call) / GIB
    if need_gib > most_gib:
        raise DroppedError(
            Status.UNSUPPORTED,
            f"it needs {need_gib:.3g} GiB of workspace, and at most {most_gib:g} GiB are allowed",
        )


def _refuse_endless(contender: Contender, harness: Harness, share: Share) -> None:
    run_s = harness.expected_s(contender)
    # it runs twice at least, to be tried and to be timed; a quick one is always worth that
    if share.all_over or 2 * run_s > max(share.left_s, 1.0):
        takes = f": one run takes about {run_s:.1f} s" if run_s >= 0.05 else ""
        raise DroppedError(Status.SKIPPED, f"there was no time for it{takes}")


def on_track(arms: list[Arm], harness: Harness) -> list[Arm]:
    """Those whose error is near the best one's: the others compute something else."""
    bound = _ASTRAY * min(arm.tried.errors["rel_l2"] for arm in arms)
    for arm in arms:
        if arm.tried.errors["rel_l2"] > bound:
            harness.remark(
                arm.contender,
                f"the configuration {arm.config} was left out: its rel_l2 of "
                f"{arm.tried.errors['rel_l2']:.2e} is over {_ASTRAY:g} times the best one's",
            )
    return [arm for arm in arms if arm.tried.errors["rel_l2"] <= bound]
