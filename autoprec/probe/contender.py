"""What competes on a workload: a kernel and path, or a baseline; a measurement each."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from autoprec.draws import confidence_of
from autoprec.kernels.interface import Call, Kernel, run_launches
from autoprec.paths import read_bytes
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import (
    Attempt,
    DroppedError,
    Told,
    Tried,
    dropped,
    holes_of,
    share_of,
)
from autoprec.probe.baselines import Baseline, prepare, scratch_bytes, without_unseen
from autoprec.probe.comparison import Comparison
from autoprec.probe.families import Group
from autoprec.probe.inputs import blank_call, call_bytes
from autoprec.probe.judge import Judge
from autoprec.probe.nvml import GIB
from autoprec.probe.stored import stored
from autoprec.probe.timing import quantiles
from autoprec.probe.workspace import Peak
from autoprec.types import Config, Conversion, Measurement, Phase, Role, Status, Storage, Workload


@dataclass(eq=False, kw_only=True)
class Contender:
    """A kernel and path, or a baseline, on a workload.

    Attributes:
        kernel: None where there is none to run.
        name: The kernel's.
        configs: What there is to try; () for one that takes over what ``included`` found, and for
            one on a cache until that is known.
        included: The same kernel and path with the conversion of K and V inside its time, where
            this one has them prepared beforehand, or in a cache.
        storage: The form of the cache that holds them; None: they are as given.
        consistent: Whether its configuration is that of the kernel's consistent mode.
        with_lse: Whether it is to give the log-sum-exp too.
        status: OK as long as it is in the running.
        reason: Why it no longer is.
        lacked_memory: Whether that is for want of memory.
        best: The configuration that was fastest.
        samples: Its times in milliseconds.
        errors: Its errors by typical family; the worst of the whole outputs.
        extremes: The same by extreme family.
        range: What the inputs of each family were, where the path's range is narrow.
        by_head: Its errors of every head looked at, by typical family and metric.
        drawn: The draws that it has had, each a number and a family.
        families: The typical families asked for.
        heads: How many heads there are of those that have only so many.
        typical_row: The relative error of the median row, on gauss.
        workspace_bytes: Memory that a run of ``best`` takes; None where nobody counts.
    """

    role: Role
    path: str
    name: str
    workload: Workload
    conversion: Conversion
    kernel: Kernel | None = None
    configs: Sequence[Config] = ()
    included: "Contender | None" = None
    storage: Storage | None = None
    consistent: bool = False
    with_lse: bool = True
    status: Status = Status.OK
    reason: str = ""
    lacked_memory: bool = False
    best: Config = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    extremes: dict[str, dict[str, float]] = field(default_factory=dict)
    range: dict[str, dict[str, float]] = field(default_factory=dict)
    by_head: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    drawn: set[tuple[int, str]] = field(default_factory=set)
    families: tuple[str, ...] = ("gauss",)
    heads: Mapping[str, int] = field(default_factory=dict)
    typical_row: float = 0.0
    workspace_bytes: int | None = None

    def drop(self, why: DroppedError) -> None:
        """Take it out of the running."""
        self.status, self.reason = why.status, why.reason
        self.lacked_memory = why.lacked_memory
        why.forgetting()

    def running_again(self) -> None:
        """Have it back in the running, where what it was dropped for does not count."""
        self.status, self.reason, self.lacked_memory = Status.OK, "", False

    def attempt(
        self, config: Config, call: Call, oracle: Oracle, judge: Judge | None = None
    ) -> Tried:
        """Run a configuration once and compare it with exact attention; see ``begin``.

        Raises:
            DroppedError: It cannot be run, broke, gave NaN or infinity, or is above its path's
                certified bound.
        """
        return self.begin(config, call, oracle, judge).result()

    def begin(
        self, config: Config, call: Call, oracle: Oracle, judge: Judge | None = None
    ) -> Attempt:
        """Have the device run a configuration once and compare it, without waiting.

        Args:
            config: The kernel's.
            call: The inputs; what was in its outputs is lost.
            oracle: Exact attention of the call.
            judge: Whose certified bounds the output is held to, where the oracle is ready for it.

        Raises:
            DroppedError: It cannot be run; what else there is, the result raises.
        """
        try:
            return self._begin(config, call, oracle, judge)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            why = dropped(error)
        raise why  # outside the handler: the error's traceback would keep tensors alive

    def _begin(self, config: Config, call: Call, oracle: Oracle, judge: Judge | None) -> Attempt:
        if not self.with_lse:
            call = replace(call, lse=None)
        call.out.fill_(float("nan"))  # what is not written must not pass for a result
        if call.lse is not None:
            call.lse.fill_(float("nan"))
        peak = Peak(call.q.device)
        run, out = self._run(config, call)
        # the output that a baseline allocates is an output all the same
        taken = peak.bytes(less=0 if out is call.out else out.nbytes)
        share = None
        if self.kernel is not None and self.role is not Role.BASELINE:
            share = share_of(out, oracle, judge, self.kernel, self.path, self.workload)
        lse = call.lse if out is call.out else None
        comparing = oracle.start(out, lse)
        holes = None if oracle.whole else holes_of(out, lse)
        return Attempt(
            run=run,
            call=call,
            out=out,
            comparing=comparing,
            told=Told(comparing.numbers, holes=holes, share=share),
            workspace_bytes=taken,
        )

    def _run(self, config: Config, call: Call) -> tuple[Callable[[], object], torch.Tensor]:
        """Run once; what can be run again, and where the output is."""
        kernel = self.kernel
        assert kernel is not None
        if isinstance(kernel, Baseline):
            of_prefill = self.workload.phase is Phase.PREFILL
            return prepare(without_unseen(call), self.path, kernel, of_prefill=of_prefill)
        if self.storage is not None:
            call = stored(call, self.storage)
        elif self.included is not None:
            assert kernel.prepare is not None
            prepared = kernel.prepare(call.k, call.v, self.path, config)
            run_launches(prepared.launches)
            call = replace(call, prepared=prepared)
        if kernel.repeat is not None:
            run = kernel.repeat(call, self.path, config)
        else:
            run = functools.partial(kernel.run, call, self.path, config)
        run()
        return run, call.out

    def planes_bytes(self, config: Config) -> int:
        """Bytes of K and V as a cache has them or the kernel prepares them; else 0."""
        if self.storage is not None:
            it = self.workload
            return it.kv_tokens * it.token_bytes(self.storage)
        if self.kernel is None or self.kernel.prepare is None:
            return 0
        blank = blank_call(self.workload)
        return self.kernel.prepare(blank.k, blank.v, self.path, config).nbytes

    def need_bytes(self) -> int:
        """Bytes of device memory it takes to be measured, about."""
        # K and V once more: kernels bring them into another type
        need = call_bytes(self.workload) + self.workload.kv_bytes
        if self.role is Role.BASELINE:
            repeated = self.conversion is Conversion.AMORTISED
            need += scratch_bytes(self.workload, self.path, repeated)
        return need

    def take(self, family: str, group: Group, compared: Comparison) -> None:
        """Take in another draw of a family."""
        if group is Group.EXTREME:
            _worsen(self.extremes, family, compared.errors)
            return
        _worsen(self.errors, family, compared.errors)
        drawn = self.by_head.setdefault(family, {})
        for metric, values in compared.by_head.items():
            drawn.setdefault(metric, []).extend(values)

    def see(self, family: str, wide: dict[str, float]) -> None:
        """Take in the range of a draw's inputs."""
        so_far = self.range.setdefault(family, wide)
        self.range[family] = {name: max(so_far[name], value) for name, value in wide.items()}

    @property
    def draws(self) -> int:
        """Independent draws that it has had of each typical family but the ``captured`` ones."""
        all_drawn = self.captured
        return min((self._drawn(it) for it in self.families if it not in all_drawn), default=0)

    @property
    def captured(self) -> dict[str, int]:
        """The typical families all of whose heads it has had, and how many these are."""
        its = {it: self.heads[it] for it in self.families if it in self.heads}
        return {family: heads for family, heads in its.items() if self._drawn(family) >= heads}

    def _drawn(self, family: str) -> int:
        return len(self.by_head.get(family, {}).get("rel_l2", ()))

    @property
    def bounds(self) -> dict[str, dict[str, float]]:
        """The largest error of any head, by typical family."""
        return {
            family: {metric: max(values) for metric, values in drawn.items()}
            for family, drawn in self.by_head.items()
        }

    @property
    def _kv_bytes(self) -> int:
        """Bytes of K and V that a run has to read."""
        if self.storage is None:
            return self.workload.kv_bytes
        return read_bytes(self.path, self.workload, self.storage)

    @property
    def _workspace_gib(self) -> float | None:
        return None if self.workspace_bytes is None else self.workspace_bytes / GIB

    def output(self, call: Call, oracle: Oracle) -> torch.Tensor:
        """The whole output of its best configuration, which the next run may overwrite.

        Raises:
            DroppedError: As ``attempt`` does.
        """
        return self.attempt(self.best, call, oracle).out

    def measurement(self) -> Measurement:
        """The record of how it went."""
        times: dict[str, Any] = {}
        if self.status is Status.OK:
            p20, p50, p80 = quantiles(tuple(self.samples))
            times = {
                "p20_ms": p20,
                "p50_ms": p50,
                "p80_ms": p80,
                "tflops": self.workload.flops / p50 / 1e9,
                "gb_s": self._kv_bytes / p50 / 1e6,
                "n": len(self.samples),
                "workspace_gib": self._workspace_gib,
                "errors": self.errors,
                "n_draws": self.draws,
                "confidence": confidence_of(min((self.draws, *self.captured.values()))),
                "captured": self.captured,
                "bounds": self.bounds,
                "extremes": self.extremes,
                "range": self.range,
            }
        return Measurement(
            role=self.role,
            path=self.path,
            kernel=self.name,
            config=self.best,
            storage=self.storage or Storage(self.workload.input_dtype.value),
            conversion=self.conversion,
            consistent=self.consistent,
            workload=self.workload,
            status=self.status,
            reason=self.reason,
            lacked_memory=self.lacked_memory,
            **times,
        )


def _worsen(all_errors: dict[str, dict[str, float]], family: str, errors: dict[str, float]) -> None:
    """Keep the larger of each error."""
    so_far = all_errors.get(family, {})
    all_errors[family] = {m: max(so_far.get(m, v), v) for m, v in errors.items()}
