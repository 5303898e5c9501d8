"""Running a configuration once: what came of it, why it is dropped, and what is refused."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from autoprec.errors import AutoprecError
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe.accuracy import Comparison, NonFiniteError, Oracle
from autoprec.probe.judge import Judge
from autoprec.types import Status, Workload

# Half the spacing of a type's smallest numbers: what rounding there may cost.
_SMALLEST = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}


class BugError(AutoprecError):
    """A kernel does not compute what its path says."""


class DroppedError(Exception):
    """A configuration is out of the running."""

    def __init__(self, status: Status, reason: str) -> None:
        """Keep both; where no configuration is left they become the contender's."""
        super().__init__(status, reason)
        self.status, self.reason = status, reason.rstrip(".")


class Tried(NamedTuple):
    """What came of running a configuration once.

    Attributes:
        run: What can be timed.
        comparison: With exact attention.
        workspace_bytes: Memory that it took beyond inputs and outputs; None where nobody counts.
        out: What it gave, which the next run may overwrite.
    """

    run: Callable[[], object]
    comparison: Comparison
    workspace_bytes: int | None
    out: torch.Tensor

    @property
    def errors(self) -> dict[str, float]:
        """Against exact attention."""
        return self.comparison.errors


def refuse_holes(out: torch.Tensor, call: Call, family: str) -> None:
    """Look for NaN and infinity in all rows, of inputs that have none.

    Raises:
        NonFiniteError: There is one.
    """
    if out.isfinite().all() or not all(x.isfinite().all() for x in (call.q, call.k, call.v)):
        return
    rows = out.isfinite().all(-1)
    raise NonFiniteError(
        f"NaN or infinity in {int((~rows).sum())} of {rows.numel()} rows, on {family}."
    )


def refuse_bugs(
    out: torch.Tensor,
    oracle: Oracle,
    judge: Judge | None,
    kernel: Kernel,
    path: str,
    workload: Workload,
) -> None:
    """Hold a path to its certified bound, where the oracle is ready for it.

    Raises:
        BugError: An element is further off than any right kernel's can be.
    """
    if judge is None or judge.certified is None or oracle.magnitudes is None:
        return
    certified, exp_error = judge.certified, kernel.exp_error(path)
    share = oracle.share_of(
        out,
        lambda logit, widest: certified(path, workload, logit, widest, exp_error),
        _SMALLEST[out.dtype],
    )
    if share > 1:
        raise BugError(
            f"its error is {share:.3g} times the certified bound of its path on "
            f"{oracle.family}, which is a bug in the kernel."
        )
