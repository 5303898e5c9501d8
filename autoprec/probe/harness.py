"""The harness: what all workloads that are measured together share."""

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future
from dataclasses import dataclass, field

import torch

from autoprec.kernels.interface import Kernel, Target
from autoprec.probe.compile import Built
from autoprec.probe.contender import Contender
from autoprec.probe.drawn import Drawn
from autoprec.probe.effort import Effort
from autoprec.probe.events import Observe, Remark, Working
from autoprec.probe.families import Family, Group
from autoprec.probe.judge import Judge
from autoprec.probe.search import SLOW
from autoprec.probe.share import Share
from autoprec.probe.timing import Timer
from autoprec.types import Config, Phase, Storage, Workload

Submit = Callable[[Kernel, str, Workload, Config, Storage | None], Future[Built]]


@dataclass(kw_only=True)
class Harness:
    """The device and the clock, and what earlier workloads taught.

    Attributes:
        seed: Of the inputs.
        builds: The compiling of each contender's configurations, by number; empty on a CPU.
        max_workspace_gib: What kernels may take beyond inputs and outputs; None for anything.
        families: On which errors are measured, by name.
        judge: What decides who gets how many draws, and what a path may be off.
        submit: Has what is known only now compiled beside the measuring; None where nothing is.
        patience_s: How much longer to wait for compilers, in all.
        drawn: The last draws.
        pace: Seconds for one of ``Workload.flops``, by kernel, path and phase, as last measured.
        won: The configuration that was fastest then.
    """

    device: torch.device
    target: Target
    timer: Timer
    effort: Effort
    seed: int
    observe: Observe
    builds: Mapping[tuple[Contender, int], Future[Built]]
    patience_s: float
    submit: Submit | None
    families: Mapping[str, Family]
    judge: Judge
    max_workspace_gib: float | None
    drawn: Drawn = field(default_factory=lambda: Drawn(0))
    pace: dict[tuple[str, str, Phase], float] = field(default_factory=dict)
    won: dict[tuple[str, str, Phase], Config] = field(default_factory=dict)

    @property
    def typical(self) -> tuple[str, ...]:
        """The families that the budget holds on."""
        return tuple(name for name, it in self.families.items() if it.group is Group.TYPICAL)

    def say(self, workload: Workload, sentence: str) -> None:
        """Tell what is being done."""
        self.observe(Working(workload, sentence))

    def remark(self, contender: Contender, sentence: str) -> None:
        """Tell what a person should know of a contender."""
        self.observe(
            Remark(f"{contender.workload}, {contender.path} by {contender.name}: {sentence}.")
        )

    def wait_for(self, builds: Iterable[Future[Built]], share: Share) -> None:
        """Wait for the first of some compilers, as long as there is patience.

        What is waited does not count in the share: later workloads find much compiled then.
        """
        began = time.monotonic()
        left_s = min(self.patience_s, share.deadline - began)
        concurrent.futures.wait(builds, max(0.0, left_s), FIRST_COMPLETED)
        waited_s = time.monotonic() - began
        self.patience_s = max(0.0, self.patience_s - waited_s)
        share.put_off(waited_s)

    def expected_s(self, contender: Contender) -> float:
        """About how long one run takes, from smaller workloads; 0 where nothing is known."""
        return self.pace.get(_kind(contender), 0.0) * contender.workload.flops

    def learn(self, contender: Contender, ms: float) -> None:
        """Remember how long one run took, and in which configuration."""
        self.pace[_kind(contender)] = ms / 1e3 / contender.workload.flops
        self.won[_kind(contender)] = contender.best

    def worth_trying(self, contender: Contender, fastest_s: float) -> list[int]:
        """Numbers of its configurations: of what is far too slow, the one that won last.

        Args:
            contender: What competes.
            fastest_s: What the fastest beside it is expected to take; 0 where nothing is known.
        """
        numbers = list(range(len(contender.configs)))
        if not fastest_s or self.expected_s(contender) <= SLOW * fastest_s:
            return numbers
        last = self.won.get(_kind(contender))
        return [number for number in numbers if contender.configs[number] == last] or numbers


def _kind(contender: Contender) -> tuple[str, str, Phase]:
    return contender.name, contender.path, contender.workload.phase
