"""The error model of ``bounds.py`` for a workload: what prunes, and what a measurement is held to.

Never what chooses: two paths of equal bounds may have unequal errors.
"""

import math

from autoprec.budget import Budget
from autoprec.paths import PATHS
from autoprec.policy.bounds import Certified, certified, expected_rel_l2
from autoprec.types import Workload

# A path expected to be this many times over the budget is not tried.
_FAR = 8.0


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
    """Why a path is far over the budget before it is measured; "" where it is not."""
    expected = expected_for(path, workload)
    limits = [
        clause.limit()
        for clause in budget.of(workload.phase).clauses
        if clause.key == "rel_l2" and not clause.reference
    ]
    if not limits or expected == math.inf or expected <= _FAR * min(limits):
        return ""
    return (
        f"left out: its expected rel_l2 of {expected:.1e} is far over the budget of "
        f"{min(limits):g}, and a larger --effort measures it all the same"
    )
