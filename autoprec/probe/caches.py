"""Paths on caches in other forms than the inputs', in the configurations that won without."""

import concurrent.futures
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from autoprec.kernels.interface import Call
from autoprec.probe import search
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import DroppedError
from autoprec.probe.compile import Built
from autoprec.probe.contender import Contender
from autoprec.probe.device import free_bytes
from autoprec.probe.failures import described
from autoprec.probe.harness import Harness
from autoprec.probe.nvml import GIB
from autoprec.probe.share import Share
from autoprec.probe.stored import stored
from autoprec.probe.tryout import Arm
from autoprec.types import Config, Status, Storage

_SAMPLES = 7  # they are compared with each other, and nothing is chosen by a hair's breadth

# Of a workload's time: until when they are timed.
_TIMED_BY = 0.8

Builds = Mapping[Contender, Future[Built]]


def compiling(
    contenders: Sequence[Contender], won: Mapping[Contender, Config], harness: Harness
) -> dict[Contender, Future[Built]]:
    """Have compiled what is timed later, beside what is timed until then.

    Args:
        contenders: Of one workload.
        won: The configuration of each one that has the conversion in its time.
        harness: What all workloads share.
    """
    if harness.submit is None:
        return {}
    return {
        it: harness.submit(it.kernel, it.path, it.workload, won[it.included], it.storage)
        for it in contenders
        if it.storage is not None
        and it.status is Status.OK
        and it.kernel is not None
        and it.kernel.launches is not None
        and it.included is not None
        and it.included in won
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
        arms = _tried(of_form, storage, call, oracle, harness, share, builds)
        taken: dict[Arm, list[float]] = {}
        search.sample(
            arms,
            lambda arm: arm.sample_ms(harness.timer),
            taken,
            rounds=_SAMPLES,
            stop=lambda count: share.past(_TIMED_BY),
        )
        for arm, samples in taken.items():
            arm.settle(harness.typical)
            arm.contender.samples = samples
            timed.append(arm.contender)
    return [it for it in timed if it.status is Status.OK]


def _tried(
    contenders: Sequence[Contender],
    storage: Storage,
    call: Call,
    oracle: Oracle,
    harness: Harness,
    share: Share,
    builds: Builds,
) -> list[Arm]:
    """Each run once on K and V that are brought into the form once for all of them."""
    arms: list[Arm] = []
    held: Call | None = None
    for it in contenders:
        assert it.included is not None
        try:
            _refuse_unbuilt(builds.get(it), harness, share)
            _refuse_large(it, harness, share)
            if held is None:
                held = _stored(call, storage)
            config = it.included.best
            arms.append(Arm(it, config, it.attempt(config, held, oracle)))
        except DroppedError as why:
            it.drop(why)
    return arms


def _stored(call: Call, storage: Storage) -> Call:
    try:
        return stored(call, storage)
    except Exception as error:  # a kernel's failure is a row, whatever it raises
        why = DroppedError(Status.FAILED, described(error))
    raise why


def _refuse_unbuilt(build: Future[Built] | None, harness: Harness, share: Share) -> None:
    if build is None:
        return
    if not build.done():
        began = time.monotonic()
        concurrent.futures.wait([build], max(0.0, min(harness.patience_s, share.left_s)))
        harness.patience_s = max(0.0, harness.patience_s - (time.monotonic() - began))
    if not build.done():
        raise DroppedError(Status.SKIPPED, "it was not compiled before the time was up")
    if build.result().reason:
        raise DroppedError(Status.FAILED, build.result().reason)


def _refuse_large(contender: Contender, harness: Harness, share: Share) -> None:
    if share.past(_TIMED_BY):
        raise DroppedError(Status.SKIPPED, "there was no time for it")
    need, free = contender.planes_bytes({}), free_bytes(harness.device)
    if need > 0.5 * free:
        raise DroppedError(
            Status.SKIPPED,
            f"the cache needs {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free",
        )
