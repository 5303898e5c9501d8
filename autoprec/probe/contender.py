"""What competes on a workload: a kernel and path, or a baseline; a measurement each."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call, Kernel, run_launches
from autoprec.probe.accuracy import NonFiniteError, Oracle
from autoprec.probe.baselines import Baseline, prepare, scratch_bytes
from autoprec.probe.failures import described
from autoprec.probe.inputs import blank_call, call_bytes
from autoprec.probe.nvml import GIB
from autoprec.probe.timing import quantiles
from autoprec.probe.workspace import Peak
from autoprec.types import Config, Conversion, Measurement, Role, Status, Storage, Workload


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
        errors: Against exact attention.
        workspace_bytes: Memory that it took beyond inputs and outputs; None where nobody counts.
    """

    run: Callable[[], object]
    errors: dict[str, float]
    workspace_bytes: int | None


@dataclass(eq=False, kw_only=True)
class Contender:
    """A kernel and path, or a baseline, on a workload.

    Attributes:
        kernel: None where there is none to run.
        name: The kernel's.
        configs: What there is to try; () for one that takes over what ``included`` found.
        included: The same kernel and path with the conversion of K and V inside its time, where
            this one has them prepared beforehand.
        status: OK as long as it is in the running.
        reason: Why it no longer is.
        best: The configuration that was fastest.
        samples: Its times in milliseconds.
        errors: Its errors by family; the worst of the draws.
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
    status: Status = Status.OK
    reason: str = ""
    best: Config = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    workspace_bytes: int | None = None

    def drop(self, why: DroppedError) -> None:
        """Take it out of the running."""
        self.status, self.reason = why.status, why.reason

    def attempt(self, config: Config, call: Call, oracle: Oracle) -> Tried:
        """Run a configuration once and compare it with exact attention.

        Args:
            config: The kernel's.
            call: The inputs; what was in its outputs is lost.
            oracle: Exact attention of the call.

        Raises:
            DroppedError: It cannot be run, broke, or gave NaN or infinity.
        """
        assert call.lse is not None
        call.out.fill_(float("nan"))  # what is not written must not pass for a result
        call.lse.fill_(float("nan"))
        try:
            peak = Peak(call.q.device)
            run, out = self._run(config, call)
            # the output that a baseline allocates is an output all the same
            taken = peak.bytes(less=0 if out is call.out else out.nbytes)
            return Tried(run, oracle.errors(out, call.lse if out is call.out else None), taken)
        except UnsupportedError as error:
            why = DroppedError(Status.UNSUPPORTED, error.sentence)
        except NonFiniteError as error:
            why = DroppedError(Status.FAILED, error.sentence)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            why = DroppedError(Status.FAILED, described(error))
        raise why  # outside the handlers: the error's traceback would keep tensors alive

    def _run(self, config: Config, call: Call) -> tuple[Callable[[], object], torch.Tensor]:
        """Run once; what can be run again, and where the output is."""
        kernel = self.kernel
        assert kernel is not None
        if isinstance(kernel, Baseline):
            return prepare(call, self.path, kernel)
        if self.included is not None:
            assert kernel.prepare is not None
            prepared = kernel.prepare(call.k, call.v, self.path, config)
            run_launches(prepared.launches)
            call = replace(call, prepared=prepared)
        run = functools.partial(kernel.run, call, self.path, config)
        run()
        return run, call.out

    def planes_bytes(self, config: Config) -> int:
        """Bytes of K and V as the kernel prepares them; 0 where it reads them as they are."""
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

    def worsen(self, family: str, errors: dict[str, float]) -> None:
        """Take in the errors of another draw of a family."""
        so_far = self.errors.setdefault(family, errors)
        self.errors[family] = {name: max(so_far[name], value) for name, value in errors.items()}

    @property
    def _workspace_gib(self) -> float | None:
        return None if self.workspace_bytes is None else self.workspace_bytes / GIB

    def measurement(self) -> Measurement:
        """The record of how it went."""
        times: dict[str, Any] = {}
        if self.status is Status.OK:
            p20, p50, p80 = quantiles(self.samples)
            times = {
                "p20_ms": p20,
                "p50_ms": p50,
                "p80_ms": p80,
                "tflops": self.workload.flops / p50 / 1e9,
                "gb_s": self.workload.kv_bytes / p50 / 1e6,
                "n": len(self.samples),
                "workspace_gib": self._workspace_gib,
                "errors": self.errors,
            }
        return Measurement(
            role=self.role,
            path=self.path,
            kernel=self.name,
            config=self.best,
            storage=Storage(self.workload.input_dtype.value),
            conversion=self.conversion,
            workload=self.workload,
            status=self.status,
            reason=self.reason,
            **times,
        )
