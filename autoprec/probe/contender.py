"""What competes on a workload: every kernel and path, and every baseline; a measurement each."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autoprec import registry
from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call, Kernel, Target
from autoprec.probe.accuracy import NonFiniteError, Oracle
from autoprec.probe.baselines import BASELINES, Baseline, conversion, prepare, scratch_bytes
from autoprec.probe.failures import described
from autoprec.probe.inputs import call_bytes
from autoprec.probe.timing import quantiles
from autoprec.types import Config, Conversion, Measurement, Role, Status, Storage, Workload


class DroppedError(Exception):
    """A configuration is out of the running."""

    def __init__(self, status: Status, reason: str) -> None:
        """Keep both; where no configuration is left they become the contender's."""
        super().__init__(status, reason)
        self.status, self.reason = status, reason.rstrip(".")


@dataclass(eq=False, kw_only=True)
class Contender:
    """A kernel and path, or a baseline, on a workload.

    Attributes:
        kernel: None where there is none to run.
        name: The kernel's.
        configs: What there is to try.
        status: OK as long as it is in the running.
        reason: Why it no longer is.
        best: The configuration that was fastest.
        samples: Its times in milliseconds.
        errors: Its errors by family; the worst of the draws.
    """

    role: Role
    path: str
    name: str
    workload: Workload
    conversion: Conversion
    kernel: Kernel | None = None
    configs: Sequence[Config] = ()
    status: Status = Status.OK
    reason: str = ""
    best: Config = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def drop(self, why: DroppedError) -> None:
        """Take it out of the running."""
        self.status, self.reason = why.status, why.reason

    def attempt(
        self, config: Config, call: Call, oracle: Oracle
    ) -> tuple[Callable[[], object], dict[str, float]]:
        """Run a configuration once and compare it with exact attention.

        Args:
            config: One of ``configs``.
            call: The inputs; what was in its outputs is lost.
            oracle: Exact attention of the call.

        Returns:
            What can be timed, and the errors.

        Raises:
            DroppedError: It cannot be run, broke, or gave NaN or infinity.
        """
        kernel = self.kernel
        assert kernel is not None
        assert call.lse is not None
        call.out.fill_(float("nan"))  # what is not written must not pass for a result
        call.lse.fill_(float("nan"))
        try:
            if isinstance(kernel, Baseline):
                timed, out = prepare(call, self.path)
                return timed, oracle.errors(out, None)
            run = functools.partial(kernel.run, call, self.path, config)
            run()
            return run, oracle.errors(call.out, call.lse)
        except UnsupportedError as error:
            why = DroppedError(Status.UNSUPPORTED, error.sentence)
        except NonFiniteError as error:
            why = DroppedError(Status.FAILED, error.sentence)
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            why = DroppedError(Status.FAILED, described(error))
        raise why  # outside the handlers: the error's traceback would keep tensors alive

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


def line_up(
    workload: Workload, target: Target, paths: tuple[str, ...], device: torch.device
) -> list[Contender]:
    """Everything that has a measurement on a workload; what cannot run here says why."""
    running, unavailable = registry.candidates(workload, target, paths)
    contenders = [
        Contender(
            role=Role.CANDIDATE,
            path=path,
            name=kernel.name,
            workload=workload,
            conversion=_included(kernel, path, workload),
            kernel=kernel,
            configs=kernel.configs(path, workload, target),
        )
        for kernel, path in running
    ]
    contenders += [
        Contender(
            role=Role.CANDIDATE,
            path=refused.path,
            name=refused.kernel,
            workload=workload,
            conversion=Conversion.NONE,
            status=Status.UNSUPPORTED,
            reason=refused.reason,
        )
        for refused in unavailable
    ]
    for baseline in BASELINES:
        for path in baseline.paths:
            reasons = baseline.refusals(path, workload, target)
            contenders.append(
                Contender(
                    role=Role.BASELINE,
                    path=path,
                    name=baseline.name,
                    workload=workload,
                    conversion=conversion(workload, path, device),
                    kernel=baseline,
                    configs=({},),
                    status=Status.UNSUPPORTED if reasons else Status.OK,
                    reason="; ".join(reasons),
                )
            )
    return contenders


def _included(kernel: Kernel, path: str, workload: Workload) -> Conversion:
    converts = kernel.converts(path, workload.input_dtype)
    return Conversion.INCLUDED if converts else Conversion.NONE
