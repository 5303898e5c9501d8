"""The storage of a new cache: the choices of a geometry's phases, made one that kernels read."""

from collections.abc import Mapping

from autoprec.errors import AutoprecError, InputError, UnsupportedError
from autoprec.kernels.interface import Target
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Asked
from autoprec.plan.request import ACCURACIES
from autoprec.policy.lookup import nearest
from autoprec.policy.storage import ByForm, Joint, jointly
from autoprec.probe.range import has_a_range
from autoprec.types import Phase, Storage, Workload

NO_BASELINE = "reads no KVCache"
"""Why no baseline runs on a cache, as a clause."""


def storage_of(
    decider: Decider,
    workloads: Mapping[Phase, Workload],
    asked: Storage | str | None,
    target: Target,
    *,
    guarded: bool = False,
    consistent: bool = False,
) -> Joint:
    """The form that serves all phases, or the one asked for.

    Args:
        workloads: One for each phase that a cache is to serve.
        asked: None: the choice is the plan's; where no kernel reads that, it is the inputs' own.
        target: The device.
        guarded: Whether no token may be brought into fp16's range.
        consistent: Whether path and configuration must not depend on batch and lengths.

    Raises:
        InputError: There is no such form.
        UnsupportedError: No kernel reads it, or nothing of the inputs' type was measured.
        AutoprecError: For no phase was anything measured that keeps to the budget.
    """
    input_dtype = next(iter(workloads.values())).input_dtype
    if asked is not None:
        if asked not in list(Storage):
            raise InputError(f"storage must be one of {', '.join(Storage)}, got {asked!r}.")
        if not any(it.workload.input_dtype is input_dtype for it in decider.choices):
            decider.find(next(iter(workloads.values())), NO_BASELINE)  # says what is missing
        unread = _unread(decider, workloads, Storage(asked), target, consistent=consistent)
        if unread is not None:
            raise UnsupportedError(
                f"storage is {asked}, and no call could read it: {unread.sentence}",
                "no storage: the plan chooses one",
            )
        return Joint(Storage(asked), "it was asked for")
    paths: dict[Phase, str] = {}
    measured: dict[Phase, ByForm] = {}
    failure: AutoprecError | None = None
    for phase, workload in workloads.items():
        try:
            choice = nearest(workload, decider.choices, decider.refusals).choice
            if guarded and has_a_range(choice.path):
                choice = decider.find_safe(workload)[0].choice
            paths[phase] = choice.path
            if not guarded:  # what was measured may be on fp16's planes
                measured[phase] = decider.by_form(choice.workload)
        except AutoprecError as error:
            failure = error
    if not paths:
        assert failure is not None
        raise failure
    joint = jointly(paths, input_dtype, measured)
    own = Storage(input_dtype.value)
    if joint.storage is own or not _unread(
        decider, workloads, joint.storage, target, consistent=consistent
    ):
        return joint
    return Joint(own, f"no kernel here reads {joint.storage}, though {joint.reason}")


def asked_of(
    storage: Storage, accuracy: str | None, *, consistent: bool, known: bool = True
) -> Asked:
    """What a call on a cache in a form asks of kernels beyond its workload; known: as of Asked."""
    paths: tuple[str, ...] = ()
    if storage is Storage.PLANES:
        paths = ("fp16x3", "fp16") if accuracy is None else ACCURACIES[accuracy]
    return Asked(paths, storage, lengths=True, known=known, consistent=consistent)


def _unread(
    decider: Decider,
    workloads: Mapping[Phase, Workload],
    storage: Storage,
    target: Target,
    *,
    consistent: bool,
) -> UnsupportedError | None:
    """Why a call on a cache in a form could not run, whatever it asks for; None where one could.

    Where nothing near was measured, or nothing within the budget, that is for calls to find out:
    theirs may have a window, say.
    """
    failures: list[UnsupportedError] = []
    for workload in workloads.values():
        try:
            decider.find(workload, NO_BASELINE)
        except AutoprecError:
            continue
        for accuracy in (None, *ACCURACIES):
            asked = asked_of(storage, accuracy, consistent=consistent)
            try:
                decider.decide(workload, target, no_baseline=NO_BASELINE, asked=asked)
            except UnsupportedError as error:
                failures.append(error)
            except AutoprecError:  # in consistent mode another workload is looked up
                break
            else:
                return None
    return failures[0] if failures else None
