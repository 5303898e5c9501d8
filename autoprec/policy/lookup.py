"""What to use for a workload that nobody measured: the choice of the nearest one measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from autoprec.errors import BudgetError, UnsupportedError
from autoprec.policy.bounds import BITS
from autoprec.types import Choice, Phase, Refusal, Workload
from autoprec.workloads import tune_command


@dataclass(frozen=True)
class Found:
    """A measured choice for a workload.

    Attributes:
        choice: The choice; its workload is the one measured.
        exact: Whether that is the very workload asked for.
        note: A sentence on what was used instead and how it differs; "" where it is exact.
    """

    choice: Choice
    exact: bool
    note: str


# What must be alike, as (what it is called, its value): time and error of one side say nothing of
# the other's. A chunk of a prompt runs the same kernels as a whole one.
_ALIKE: tuple[tuple[str, Callable[[Workload], str]], ...] = (
    ("phase", lambda w: "decode" if w.phase is Phase.DECODE else "prefill or append"),
    ("input dtype", lambda w: w.input_dtype),
    ("window", lambda w: "none" if w.window is None else "set"),
    ("soft cap", lambda w: "none" if w.soft_cap is None else "set"),
)

# How much a doubling counts, by how far it moves the order of the paths: head dims decide how many
# blocks fit on the chip, lengths the balance of products and bytes; batch and heads only how many
# blocks there are.
_DOUBLING = {
    "head_dim": 2.0,
    "head_dim_v": 2.0,
    "q_len": 1.0,
    "kv_len": 1.0,
    "window": 1.0,
    "soft_cap": 1.0,
    "group": 0.5,
    "batch": 0.25,
    "kv_heads": 0.25,
}
# Another phase, mask, layout or out_dtype counts like a doubled length; sinks, and another size of
# pages, move next to nothing.
_SLIGHT = 0.125


def nearest(
    workload: Workload, choices: Sequence[Choice], refusals: Sequence[Refusal] = ()
) -> Found:
    """The choice of the nearest measured workload.

    What must be alike is in the table above. The output must be measured as coarse as the one asked
    for, or coarser, since rounding further could break the budget; what was refused with a finer
    output stays refused. All else may differ, and the nearest is taken.

    Where nothing with such a window or cap was measured, one without stands in: both move time and
    error of all paths alike. That is less sure than a measurement, and the note says on what the
    choice rests.

    Args:
        workload: What is to be computed.
        choices: Those of a profile, in any order.
        refusals: Workloads measured on which no path keeps to the budget.

    Raises:
        BudgetError: A refused workload is as near as any chosen one; no path runs on it, or none
            keeps to the budget.
        UnsupportedError: Nothing comparable was measured.
    """
    plainer = dict.fromkeys((
        workload,
        replace(workload, window=None),
        replace(workload, soft_cap=None),
        replace(workload, window=None, soft_cap=None),
    ))  # fmt: skip
    missing: UnsupportedError | None = None
    for stand_in in plainer:
        try:
            found = _like(stand_in, choices, refusals)
        except UnsupportedError as error:
            missing = missing or error
            continue
        if stand_in == workload:
            return found
        differences = ", ".join(_differences(found.choice.workload, workload))
        note = f"nearest measured: {found.choice.workload}; here {differences}"
        return Found(found.choice, exact=False, note=note)
    assert missing is not None  # a workload stands in for itself
    raise missing


def _like(workload: Workload, choices: Sequence[Choice], refusals: Sequence[Refusal]) -> Found:
    """The nearest of what is alike in all that the table above has.

    Raises:
        AutoprecError: As ``nearest`` does.
    """
    for choice in choices:
        if choice.workload == workload:
            return Found(choice, exact=True, note="")
    asked = BITS[workload.out_dtype]
    fitting: list[Choice | Refusal] = [
        *(r for r in refusals if _alike(r, workload) and asked <= BITS[r.workload.out_dtype]),
        *(c for c in choices if _alike(c, workload) and asked >= BITS[c.workload.out_dtype]),
    ]
    if not fitting:
        measured = [c.workload for c in choices] + [r.workload for r in refusals]
        raise UnsupportedError(
            f"nothing measured can stand in for {workload}: {_obstacle(workload, measured)}.",
            tune_command(workload),
        )
    distances = [_distance(record.workload, workload) for record in fitting]
    shortest = min(distances)
    level = [r for r, distance in zip(fitting, distances, strict=True) if distance == shortest]
    found = min(level, key=lambda record: (isinstance(record, Choice), str(record.workload)))
    if isinstance(found, Refusal):
        sentences = "; ".join(f"{path}: {why}" for path, why in found.rejected.items())
        fails = "keeps to the budget" if found.ran else "runs"
        raise BudgetError(
            f"no path {fails} on {found.workload}: {sentences}.",
            "accept a looser budget" if found.ran else "autoprec paths, which says what runs",
        )
    differences = _differences(found.workload, workload)
    note = f"nearest measured: {found.workload}; here {', '.join(differences)}"
    return Found(found, exact=not differences, note=note if differences else "")


def _alike(record: Choice | Refusal, workload: Workload) -> bool:
    return all(value(record.workload) == value(workload) for _, value in _ALIKE)


def _same_mask(one: Workload, other: Workload) -> bool:
    """Whether two masks hide the same: from a single query, causal hides nothing."""
    return one.mask == other.mask or (one.q_len == other.q_len == 1 and one.window is None)


def _distance(measured: Workload, asked: Workload) -> float:
    """How far apart two workloads are, in doublings of a length."""
    distance = 0.0
    distance += measured.phase != asked.phase
    distance += measured.out_dtype != asked.out_dtype
    distance += not _same_mask(measured, asked)
    distance += measured.layout != asked.layout
    distance += _SLIGHT * (measured.page_size != asked.page_size)
    distance += _SLIGHT * (measured.sinks != asked.sinks)
    distance += measured.custom_mask != asked.custom_mask
    for name, weight in _DOUBLING.items():
        here, there = getattr(asked, name), getattr(measured, name)
        if here != there:
            distance += weight * abs(math.log2(here / there))
    return distance


def _differences(measured: Workload, asked: Workload) -> list[str]:
    """Every difference, such as ``kv_len 5000 instead of 4096``."""
    pairs = [
        (field.name, getattr(asked, field.name), getattr(measured, field.name))
        for field in fields(Workload)
        if field.name != "mask" or not _same_mask(measured, asked)
    ]
    return [
        f"{name} {_said(here)} instead of {_said(there)}"
        for name, here, there in pairs
        if here != there
    ]


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _obstacle(workload: Workload, measured: Sequence[Workload]) -> str:
    """Why nothing measured can stand in for a workload."""
    if not measured:
        return "the profile has no choices"
    for name, value in _ALIKE:
        others = ", ".join(sorted({value(other) for other in measured}))
        measured = [other for other in measured if value(other) == value(workload)]
        if not measured:
            return f"its {name} is {value(workload)}, and the profile has {others}"
    finer = {o.out_dtype for o in measured if BITS[o.out_dtype] > BITS[workload.out_dtype]}
    if finer:
        return (
            f"the budget was kept with {', '.join(sorted(finer))} outputs, "
            f"and rounding them to {workload.out_dtype} could break it"
        )
    outputs = ", ".join(sorted({other.out_dtype for other in measured}))
    return f"no path kept to the budget with {outputs} outputs, and no other was measured"
