"""The probe itself: workloads in, one measurement for each kernel and path and baseline out."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import torch

from autoprec.kernels.interface import Target
from autoprec.probe import device as devices
from autoprec.probe.attempt import DroppedError
from autoprec.probe.compile import Built, CompilePool
from autoprec.probe.contender import Contender
from autoprec.probe.drawn import Drawn
from autoprec.probe.effort import Effort
from autoprec.probe.events import Measured, Observe, Planned, Remark
from autoprec.probe.families import FAMILIES, Family
from autoprec.probe.harness import Harness, Submit
from autoprec.probe.judge import LENIENT, Judge
from autoprec.probe.lineup import line_up
from autoprec.probe.search import in_turn
from autoprec.probe.share import Share
from autoprec.probe.timing import timer
from autoprec.probe.trial import Trial
from autoprec.types import Measurement, Phase, Status, Workload

LineUp = Callable[[Workload, Target, tuple[str, ...], torch.device], list[Contender]]

Builds = dict[tuple[Contender, int], Future[Built]]

# Of all the time: how much may be spent on waiting for compilers.
_PATIENCE = 0.5

# Of the free memory: what draws may take that are kept for the next workload.
_FOR_DRAWS = 0.1


def measure(
    workloads: Sequence[Workload],
    *,
    device: torch.device,
    paths: tuple[str, ...],
    effort: Effort,
    deadline: float,
    observe: Observe,
    seed: int = 0,
    families: Mapping[str, Family] = FAMILIES,
    judge: Judge = LENIENT,
    max_workspace_gib: float | None = None,
    line_up: LineUp = line_up,
    pool: CompilePool | None = None,
) -> Iterator[Measurement]:
    """Measure kernels, paths, configurations and baselines over workloads.

    Phases take turns, small workloads first. Nothing that goes wrong with one kernel ends the
    measuring: it becomes a measurement that says so. Closing the iterator ends what was started.

    Args:
        workloads: What to compute, each once.
        device: Where.
        paths: The precision paths asked for; baselines are always measured.
        effort: How much is measured.
        deadline: When to be done, by time.monotonic; for the rest the measurements say so.
        observe: Told of what happens.
        seed: Of the inputs.
        families: On which errors are measured, by name, gauss among them.
        judge: What decides who gets how many draws, and what a path may be off.
        max_workspace_gib: What a kernel may take beyond inputs and outputs, where that is known
            before it runs: on a GPU. Baselines take what they take. None for anything.
        line_up: Who competes on a workload; everything that there is, unless told otherwise.
        pool: Compiles for the device, and stays open; None: one of our own.

    Yields:
        For each workload one measurement for each kernel and path that runs it, others where K and
        V can be prepared beforehand or lie in a cache of another form, and one for each path that
        no kernel runs and each baseline. Where a workload had too little time for its draws and
        some is left at the end, it is used for them: its measurements come again then, to replace
        those of the same key.
    """
    target = devices.target(device)
    with _at_work_on(device):  # what baselines take is found by trying
        planned = {
            workload: line_up(workload, target, paths, device) for workload in _in_order(workloads)
        }
    observe(Planned(sum(len(contenders) for contenders in planned.values())))
    watch = _Watch(device, observe)
    with contextlib.ExitStack() as stack:
        builds: Builds = {}
        submit: Submit | None = None
        if target.kind != "cpu":
            if pool is None:
                pool = stack.enter_context(CompilePool(target))
            else:
                stack.callback(pool.forget)
            builds = _submit(pool, planned.values())
            submit = functools.partial(pool.submit, urgent=True)
        harness = Harness(
            device=device, target=target, timer=timer(device), effort=effort, seed=seed,
            observe=observe, families=families, judge=judge, builds=builds,
            patience_s=_PATIENCE * (deadline - time.monotonic()),
            max_workspace_gib=max_workspace_gib, submit=submit,
            drawn=Drawn(int(_FOR_DRAWS * devices.free_bytes(device))),
        )  # fmt: skip
        began = time.monotonic()
        unfinished: list[tuple[Trial, Sequence[Contender]]] = []
        for number, (workload, contenders) in enumerate(planned.items()):
            others_s = time.monotonic() - began if number else math.inf
            share = Share.of_what_is_left(deadline, len(planned) - number, others_s)
            if share is None:
                _skip(contenders)
            else:
                watch.look(workload)
                trial = Trial(harness, workload, contenders, share)
                with _at_work_on(device):
                    trial.run()
                watch.look(workload)
                if trial.unfinished:
                    unfinished.append((trial, contenders))
            for contender in contenders:
                measurement = contender.measurement()
                observe(Measured(measurement))
                yield measurement
        for number, (trial, again) in enumerate(unfinished):
            share = Share.of_what_is_left(deadline, len(unfinished) - number, math.inf)
            if share is None:
                break
            with _at_work_on(device):
                trial.resume(share)
            yield from (contender.measurement() for contender in again)


def _in_order(workloads: Sequence[Workload]) -> list[Workload]:
    """A workload of each phase in turn, the smallest first: no phase waits until time is up."""
    by_phase: dict[Phase, list[Workload]] = {}
    for workload in sorted(workloads, key=lambda workload: workload.flops):
        by_phase.setdefault(workload.phase, []).append(workload)
    return list(in_turn(by_phase.values()))


def _skip(contenders: Sequence[Contender]) -> None:
    for contender in contenders:
        if contender.status is Status.OK:
            contender.drop(DroppedError(Status.SKIPPED, "the time was up before its turn"))


def _submit(pool: CompilePool, lines: Iterable[Sequence[Contender]]) -> Builds:
    """Have everything compiled, in the order in which it will be wanted."""
    builds: Builds = {}
    for contenders in lines:
        jit = [it for it in contenders if it.kernel is not None and it.kernel.launches is not None]
        for it, number in in_turn([(it, n) for n in range(len(it.configs))] for it in jit):
            assert it.kernel is not None
            builds[it, number] = pool.submit(
                it.kernel, it.path, it.workload, it.configs[number], with_lse=it.with_lse
            )
    return builds


@contextlib.contextmanager
def _at_work_on(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one, and leave none of its memory cached."""
    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device):
        yield
        torch.cuda.empty_cache()


class _Watch:
    """Says when a device is held back or shared, each reason once."""

    def __init__(self, device: torch.device, observe: Observe) -> None:
        self._device, self._observe = device, observe
        self._said: set[str] = set()

    def look(self, workload: Workload) -> None:
        state = devices.state(self._device)
        if state.note:
            self._say(state.note, state.note)
        for reason in state.throttle_reasons or ():
            self._say(reason, f"the clocks were held back, first seen at {workload}: {reason}.")
        for process in state.other_processes or ():
            name = process.split(" (")[0]  # what it uses changes
            self._say(name, f"others use the GPU, first seen at {workload}: {process}.")

    def _say(self, key: str, sentence: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._observe(Remark(sentence))
