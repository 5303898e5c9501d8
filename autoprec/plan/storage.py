"""The storage of a new cache: the choices of a geometry's phases, made one."""

from collections.abc import Mapping

from autoprec.errors import AutoprecError, InputError
from autoprec.plan.decide import Decider
from autoprec.policy.lookup import nearest
from autoprec.policy.storage import ByForm, Joint, jointly
from autoprec.probe.range import has_a_range
from autoprec.types import Phase, Storage, Workload


def storage_of(
    decider: Decider,
    workloads: Mapping[Phase, Workload],
    asked: Storage | str | None,
    *,
    guarded: bool = False,
) -> Joint:
    """The form that serves all phases, or the one asked for.

    Args:
        workloads: One for each phase that a cache is to serve.
        asked: None: the choice is the plan's.
        guarded: Whether no token may be brought into fp16's range.

    Raises:
        InputError: There is no such form. Whether a kernel reads it is for calls to find out.
        AutoprecError: For no phase was anything measured that keeps to the budget.
    """
    input_dtype = next(iter(workloads.values())).input_dtype
    if asked is not None:
        if asked not in list(Storage):
            raise InputError(f"storage must be one of {', '.join(Storage)}, got {asked!r}.")
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
    return jointly(paths, input_dtype, measured)
