"""Paths on caches in other forms than the inputs', in configurations that were fast without."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from autoprec.kernels.interface import Call
from autoprec.probe import search
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import Attempt, DroppedError, Tried, ahead, dropped
from autoprec.probe.compile import Built
from autoprec.probe.contender import Contender
from autoprec.probe.device import free_bytes
from autoprec.probe.harness import Harness
from autoprec.probe.memory import too_large
from autoprec.probe.share import Share
from autoprec.probe.stored import stored
from autoprec.probe.tryout import Arm, on_track
from autoprec.types import Config, Status, Storage

_SAMPLES = 7  # they are compared with each other, and nothing is chosen by a hair's breadth

# Of a workload's time: until when they are timed.
_TIMED_BY = 0.8

# Configurations tried on a GPU: which is fastest depends on the bytes that a form has.
_MOST = 10

Builds = Mapping[tuple[Contender, int], Future[Built]]


def compiling(
    contenders: Sequence[Contender],
    won: Mapping[Contender, Config],
    near: Mapping[Contender, Sequence[Config]],
    harness: Harness,
) -> dict[tuple[Contender, int], Future[Built]]:
    """Give them their configurations, and have these compiled beside what is timed until then.

    Args:
        contenders: Of one workload.
        won: The configuration of each one that has the conversion in its time.
        near: Its others that were nearly as fast, the fastest first.
        harness: What all workloads share.
    """
    ours = [
        it
        for it in contenders
        if it.storage is not None and it.status is Status.OK and it.included in won
    ]
    for it in ours:
        assert it.included is not None
        others = [config for config in near[it.included] if config != won[it.included]]
        most = 1 if harness.target.kind == "cpu" else _MOST
        it.configs = [won[it.included], *others][:most]
    if harness.submit is None:
        return {}
    return {
        (it, number): harness.submit(
            it.kernel, it.path, it.workload, it.configs[number], it.storage
        )
        for it, number in search.in_turn([(it, n) for n in range(len(it.configs))] for it in ours)
        if it.kernel is not None and it.kernel.launches is not None
    }


def measure(
    contenders: Sequence[Contender],
    call: Call,
    oracle: Oracle,
    harness: Harness,
    share: Share,
    builds: Builds,
) -> list[Contender]:
    """Time every path on every form of a cache that suits it, a form at a time.

    Args:
        contenders: Of one workload; the others have been timed.
        call: Inputs of gauss.
        oracle: Exact attention of them, as they are given.
        harness: What all workloads share.
        share: Of the time.
        builds: What ``compiling`` gave.

    Returns:
        Those that were timed.
    """
    timed: list[Contender] = []
    for storage in Storage:
        of_form = [
            it
            for it in contenders
            if it.storage is storage
            and it.status is Status.OK
            and it.included is not None
            and it.included.status is Status.OK
        ]
        groups = _tried(of_form, storage, call, oracle, harness, share, builds)
        timed += _timed(groups, harness, share)
        del groups  # make room for the next form
    return [it for it in timed if it.status is Status.OK]


def _timed(groups: Sequence[Sequence[Arm]], harness: Harness, share: Share) -> Sequence[Contender]:
    """The contenders of arms, each with its fastest one and the times of that."""
    winners = search.halve(
        groups,
        lambda arm: arm.sample_ms(harness.timer),
        rounds=harness.effort.rounds[:2],
        stop=lambda count: share.past(_TIMED_BY),
    )
    for arm, samples in winners:
        arm.forgive(samples)
    taken: dict[Arm, list[float]] = {}
    search.sample(
        [arm for arm, _ in winners],
        lambda arm: arm.sample_ms(harness.timer),
        taken,
        rounds=_SAMPLES,
        stop=lambda count: share.past(_TIMED_BY),
    )
    for arm, samples in taken.items():
        arm.settle(harness.typical)
        arm.contender.samples = samples
    return [arm.contender for arm in taken]


def _tried(
    contenders: Sequence[Contender],
    storage: Storage,
    call: Call,
    oracle: Oracle,
    harness: Harness,
    share: Share,
    builds: Builds,
) -> list[list[Arm]]:
    """Each run once on K and V that are brought into the form once for all of them."""
    held: Call | None = None

    def begin(contender: Contender, number: int) -> Attempt:
        nonlocal held
        _refuse_unbuilt(builds.get((contender, number)), harness, share, waits=number == 0)
        if share.past(_TIMED_BY):
            raise DroppedError(Status.SKIPPED, "there was no time for it")
        if held is None:
            _refuse_large(contender, harness)
            held = _stored(call, storage)
        return contender.begin(contender.configs[number], held, oracle)

    arms: dict[Contender, list[Arm]] = {it: [] for it in contenders}
    tasks = (
        ((it, number), functools.partial(begin, it, number))
        for it in contenders
        for number in range(len(it.configs))
        if it.status is Status.OK
    )
    for (it, number), outcome in ahead(tasks):
        if isinstance(outcome, Tried):
            arms[it].append(Arm(it, it.configs[number], outcome))
        elif number == 0:  # the one that won without stands for it
            it.drop(outcome)
    return [on_track(found, harness) for it, found in arms.items() if it.status is Status.OK]


def _stored(call: Call, storage: Storage) -> Call:
    try:
        return stored(call, storage)
    except Exception as error:  # a kernel's failure is a row, whatever it raises
        why = dropped(error)
    raise why


def _refuse_unbuilt(
    build: Future[Built] | None, harness: Harness, share: Share, *, waits: bool
) -> None:
    if build is None:
        return
    if waits and not build.done():
        harness.wait_for([build], share)
    if not build.done():
        raise DroppedError(Status.SKIPPED, "it was not compiled before the time was up")
    if build.result().reason:
        raise DroppedError(Status.FAILED, build.result().reason)


def _refuse_large(contender: Contender, harness: Harness) -> None:
    need, free = contender.planes_bytes({}), free_bytes(harness.device)
    if need > 0.5 * free:
        raise too_large("the cache needs", need, free)
