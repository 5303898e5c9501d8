"""In which form one cache serves all phases of a geometry."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprec.paths import PATHS
from autoprec.policy.standard import Standard
from autoprec.types import Dtype, Measurement, Phase, Role, Status, Storage

ByForm = Mapping[Storage, Measurement]
"""By form of a cache, the row that is taken on it."""


@dataclass(frozen=True)
class Joint:
    """The storage of a cache, and why.

    Attributes:
        storage: The form.
        reason: A sentence that says what each phase would have taken alone.
    """

    storage: Storage
    reason: str


def alone(path: str, input_dtype: Dtype) -> Storage:
    """The smallest form that holds all a path reads of inputs of a type.

    What is rounded once to bf16 may as well be stored so. fp16 parts need a scale, which fp16
    alone has not: two planes have it, and a path of one part reads the high one alone.
    """
    scheme = PATHS.get(path)
    own = Storage(input_dtype.value)
    if scheme is None or input_dtype is not Dtype.FP32:
        return own
    if scheme.operand == "fp16":
        return Storage.PLANES
    return Storage.BF16 if scheme.operand == "bf16" and scheme.parts == 1 else own


def fastest(rows: Sequence[Measurement], held_to: Standard) -> dict[Storage, Measurement]:
    """By form of a cache, the fastest row that keeps to the budget; {} where none was measured.

    On the inputs' own form only kernels count that read others too: these are the ones that read
    caches. A path on another form must keep to the budget without as well, where it had more draws.
    fp16 alone is left out for fp32 inputs, whose range it has not.

    Args:
        rows: The measurements of one workload.
        held_to: What they are held to.
    """
    within = [row for row in rows if row.status is Status.OK and not held_to.violation(row)]
    own = [row for row in within if row.role is Role.CANDIDATE and not row.aside]
    kept = {(row.path, row.kernel) for row in own}
    forms = [
        row
        for row in within
        if row.cached
        and not row.consistent
        and (row.path, row.kernel) in kept
        and not (row.storage is Storage.FP16 and row.workload.input_dtype is Dtype.FP32)
    ]
    readers = {row.kernel for row in rows if row.cached}
    found: dict[Storage, Measurement] = {}
    for row in sorted([it for it in own if it.kernel in readers] + forms, key=_order):
        found.setdefault(row.storage, row)
    return found


def on_form(
    rows: Sequence[Measurement], held_to: Standard, storage: Storage, paths: Sequence[str]
) -> Measurement | None:
    """What is taken on a cache in a form: the fastest row within the budget.

    Args:
        rows: The measurements of one workload.
        held_to: What they are held to.
        storage: The form.
        paths: Those that may run; a single one was asked for whatever its error. (): all may.

    Returns:
        The row; None where nothing was measured on the form that may be taken.
    """
    may = [
        row
        for row in rows
        if row.status is Status.OK and row.cached and not row.consistent
        and row.storage is storage and (not paths or row.path in paths)
    ]  # fmt: skip
    if len(paths) != 1:
        may = [row for row in may if not held_to.violation(row)]
    return min(may, key=_order, default=None)


def jointly(
    paths: Mapping[Phase, str],
    input_dtype: Dtype,
    measured: Mapping[Phase, ByForm] | None = None,
) -> Joint:
    """The form that serves every phase.

    Where every phase was measured on a form that all of them read, it is the one on which they
    lose least against the fastest form of each, in the geometric mean; else the smallest that
    holds what the paths read, or what comes in.

    Args:
        paths: The path chosen for each phase.
        input_dtype: Type of the keys and values that come in, in which every path reads them.
        measured: What ``fastest`` found of each phase.
    """
    times = [(phase, (measured or {}).get(phase, {})) for phase in paths]
    shared = [form for form in Storage if times and all(form in found for _, found in times)]
    if shared and any(len(found) > 1 for _, found in times):
        return _least_lost(dict(times), shared)
    wanted = {phase: alone(path, input_dtype) for phase, path in paths.items()}
    forms = set(wanted.values())
    said = ", ".join(f"{form} for {phase} ({paths[phase]})" for phase, form in wanted.items())
    if len(forms) == 1:
        return Joint(forms.pop(), f"each phase would take it alone: {said}")
    own = Storage(input_dtype.value)
    return Joint(own, f"alone it would be {said}; {own} serves all of them")


def _least_lost(measured: Mapping[Phase, ByForm], shared: Sequence[Storage]) -> Joint:
    """Of the forms that every phase was measured on, the one that costs them least."""
    best = {phase: min(found.values(), key=_order) for phase, found in measured.items()}

    def lost(form: Storage) -> dict[Phase, float]:
        return {
            phase: its[form].median_ms / best[phase].median_ms for phase, its in measured.items()
        }

    form = min(shared, key=lambda it: (math.prod(lost(it).values()), it.nbytes, it))
    said = ", ".join(
        f"{row.storage} for {phase} ({row.path}, {row.median_ms:.4g} ms)"
        for phase, row in best.items()
    )
    if all(row.storage is form for row in best.values()):
        return Joint(form, f"each phase was fastest on it: {said}")
    its = {phase: found[form] for phase, found in measured.items()}
    costs = ", ".join(
        f"{lost(form)[phase]:.2f}x for {phase} ({row.path}, {row.median_ms:.4g} ms)"
        for phase, row in its.items()
    )
    return Joint(form, f"alone it would be {said}; {form} costs them least together: {costs}")


def _order(row: Measurement) -> tuple[float, str, str]:
    return (row.median_ms, row.path, row.kernel)
