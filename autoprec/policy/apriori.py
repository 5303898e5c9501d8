"""The error model of ``bounds.py`` for a workload: what prunes, and what a measurement is held to.

Never what chooses: two paths of equal bounds may have unequal errors.
"""

import math
from collections.abc import Sequence

from autoprec.budget import Budget, Clause
from autoprec.errors import BudgetError
from autoprec.paths import PATHS
from autoprec.policy.bounds import Certified, certified, expected_rel_l2, rounding_rel_l2
from autoprec.types import Dtype, Phase, Workload

# A path expected to be this many times over the budget is not tried.
_FAR = 8.0

# Of the whole output, and of single rows, of which the largest is no better.
_RELATIVE = ("rel_l2", "row_rel_p999", "row_rel_max")

LEFT_OUT = "left out: "
"""How the reason of a row begins that was not measured for it is far over the budget."""


def certified_for(
    path: str, workload: Workload, largest_logit: float, widest_logit: float, exp_error: float
) -> Certified:
    """What no right kernel of a path exceeds; see ``bounds.certified``."""
    return certified(
        PATHS[path],
        head_dim=workload.head_dim,
        kv_len=workload.kv_len,
        largest_logit=largest_logit,
        widest_logit=widest_logit,
        inputs=workload.input_dtype,
        output=workload.out_dtype,
        exp_error=exp_error,
    )


def expected_for(path: str, workload: Workload) -> float:
    """The rel_l2 to expect of a path on gauss; see ``bounds.expected_rel_l2``.

    Infinity where the workload has a window, a cap or sinks, which the model does not know.
    """
    if workload.window or workload.soft_cap or workload.sinks:
        return math.inf
    return expected_rel_l2(
        PATHS[path],
        head_dim=workload.head_dim,
        kv_len=workload.kv_len,
        inputs=workload.input_dtype,
        output=workload.out_dtype,
    )


def hopeless(path: str, workload: Workload, budget: Budget) -> str:
    """Why a path is far over the budget, of every layer, before it is measured; else ""."""
    expected = expected_for(path, workload)
    loosest = max(_rel_l2(it) for it in _of_layers(budget, workload.phase))
    if expected == math.inf or expected <= _FAR * loosest:
        return ""
    return (
        f"{LEFT_OUT}its expected rel_l2 of {expected:.1e} is far over the budget of "
        f"{loosest:g}, and a larger --effort measures it all the same"
    )


def _rel_l2(budget: Budget) -> float:
    """The largest rel_l2 that the clauses of one phase and layer let pass; infinity for any."""
    limits = [it.limit() for it in budget.clauses if it.key == "rel_l2" and not it.reference]
    return min(limits, default=math.inf)


def _of_layers(budget: Budget, phase: Phase) -> list[Budget]:
    """What holds for a phase, of layers that no clause names and of those that differ from them.

    A profile serves them all, whatever it was tuned for.
    """
    spans = [it.scope.layers for it in budget.clauses if it.scope.layers is not None]
    starts = {layer for first, last in spans for layer in (first, last + 1)}
    return [budget.of(phase, layer) for layer in (None, *sorted(starts))]


def refuse_out_of_reach(workloads: Sequence[Workload], budget: Budget) -> None:
    """Refuse a budget that nothing can keep to: rounding the exact output would be far over it.

    Of max_abs and lse_abs, which follow the size of the inputs, nothing is known beforehand.

    Raises:
        BudgetError: That is so on every workload, and of every layer.
    """
    found = [_beyond_rounding(workload, budget) for workload in workloads]
    broken = dict.fromkeys(it for it in found if it is not None)
    if not found or None in found:
        return
    sentences = "; ".join(
        f"rounding the output to {dtype} alone costs {rounding_rel_l2(dtype):.1e}, "
        f"far over {clause}"
        for clause, dtype in broken
    )
    fp32 = all(dtype is Dtype.FP32 for _, dtype in broken)
    raise BudgetError(
        f"no path can keep to the budget: {sentences}.",
        "a larger --budget" if fp32 else "a larger --budget, or --out-dtype fp32",
    )


def _beyond_rounding(workload: Workload, budget: Budget) -> tuple[Clause, Dtype] | None:
    """The clause that the rounding of the output breaks by far, and the output's type.

    Where each layer has one of its own, it is the loosest of them.
    """
    if workload.kv_len == 1 or workload.window == 1:
        return None  # one key's value is the output, and may be exact
    dtype = workload.out_dtype
    broken = [
        next((it for it in held_to.clauses if _far_below(it, rounding_rel_l2(dtype))), None)
        for held_to in _of_layers(budget, workload.phase)
    ]
    clauses = [it for it in broken if it is not None]
    if len(clauses) < len(broken):
        return None
    return max(clauses, key=Clause.limit), dtype


def _far_below(clause: Clause, error: float) -> bool:
    """Whether a clause bounds relative errors, and lets pass none that is near this one."""
    relative = clause.key in _RELATIVE and not clause.reference
    return relative and error > _FAR * clause.limit()
