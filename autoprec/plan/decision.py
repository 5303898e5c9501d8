"""What is asked of a kernel, and what runs: the nouns of deciding."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoprec.kernels.interface import Kernel
from autoprec.paths import PATHS
from autoprec.policy.lookup import Found
from autoprec.types import MAX_DECODE_Q_LEN, Config, Phase, Storage, Workload


class Asked(NamedTuple):
    """What a call asks of a kernel beyond its workload.

    Attributes:
        paths: Those that may run; the first does in place of a choice that is none of them.
            (): all may.
        storage: The form of K and V; None: that of the inputs.
        lengths: Whether requests have lengths of their own.
        known: Whether the host knows the longest of them; else a workload has what there is room
            for.
        consistent: Whether path and configuration must not depend on batch and lengths.
    """

    paths: tuple[str, ...] = ()
    storage: Storage | None = None
    lengths: bool = False
    known: bool = True
    consistent: bool = False


PLAIN = Asked()
"""Nothing beyond the workload."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What runs for a workload.

    Attributes:
        workload: What was asked.
        found: The measured choice this rests on.
        kernel: What runs the choice's path.
        config: Its launch configuration.
        notes: How kernel and configuration differ from the choice's, and why, in sentences.
        substituted: Those of the notes that name another kernel or path than the one chosen; "" for
            none.
    """

    workload: Workload
    found: Found
    kernel: Kernel
    config: Config
    notes: tuple[str, ...]
    substituted: str

    @property
    def path(self) -> str:
        """The precision path, or the baseline."""
        return self.found.choice.path

    @functools.cached_property
    def counts_range(self) -> bool:
        """Whether the kernel scales and rounds these inputs to fp16, which has a range to leave."""
        path = PATHS.get(self.path)
        if path is None or path.operand != "fp16":
            return False
        return self.kernel.converts(self.path, self.workload.input_dtype)

    def on(self, workload: Workload) -> "Decision":
        """The same for another workload, for which keys and values are prepared already."""
        note = f"keys and values were prepared for {self.workload}"
        notes = self.notes if workload == self.workload else (*self.notes, note)
        return replace(self, workload=workload, notes=notes, substituted="")


def phase_of(q_len: int, kv_len: int, named: Phase | None = None) -> Phase:
    """The phase of two lengths.

    Args:
        named: What the caller calls it. Decode is taken at its word; prefill and append are told
            apart by the lengths, since the first chunk of a prompt is a prefill and the next one
            an append, whichever method is called for both.
    """
    if named is Phase.DECODE or q_len == 1:
        return Phase.DECODE
    if q_len >= kv_len:
        return Phase.PREFILL
    if named is None and q_len <= MAX_DECODE_Q_LEN:
        return Phase.DECODE
    return Phase.APPEND
