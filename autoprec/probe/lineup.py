"""Who competes on a workload: every kernel and path that runs it, and every baseline."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from autoprec import registry
from autoprec.kernels.interface import Kernel, Target
from autoprec.probe import peers
from autoprec.probe.baselines import BASELINES, Baseline, conversion
from autoprec.probe.contender import Contender
from autoprec.probe.fingerprint import refusals
from autoprec.probe.stored import forms
from autoprec.registry import Unavailable
from autoprec.types import Conversion, DotMode, Layout, Phase, Role, Status, Workload


def line_up(
    workload: Workload,
    target: Target,
    paths: tuple[str, ...],
    device: torch.device,
    fingerprint: Sequence[DotMode] = (),
) -> list[Contender]:
    """Everything that has a measurement on a workload; what cannot run here says why.

    A kernel that converts K and V in a launch of its own stands twice, for prefill and append:
    with the conversion inside its time, and right after that with K and V prepared beforehand; one
    that reads caches, once more for each form that suits the path.

    Args:
        workload: What is to be computed.
        target: The device.
        paths: The precision paths asked for.
        device: The same device, on which it is tried what baselines take.
        fingerprint: What its products do: paths of which they do not do what is claimed are out.
    """
    running, unavailable = registry.candidates(workload, target, paths)
    false = {path: "; ".join(refusals(path, fingerprint)) for path in paths}
    unavailable += [Unavailable(it.name, path, false[path]) for it, path in running if false[path]]
    running = [(it, path) for it, path in running if not false[path]]
    contenders = [
        contender
        for kernel, path in running
        for contender in _candidates(kernel, path, workload, target)
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
        for refused in joined(unavailable)
    ]
    for baseline in (*BASELINES, *peers.installed()):
        for path in baseline.paths:
            contender = of_baseline(baseline, path, workload, target, device)
            if contender.status is Status.OK and (sentence := peers.unbuilt(baseline)):
                contender.status, contender.reason = Status.UNSUPPORTED, sentence
            contenders.append(contender)
    return contenders


def of_baseline(
    baseline: Baseline, path: str, workload: Workload, target: Target, device: torch.device
) -> Contender:
    """A baseline on a workload; what it is known to refuse, it has as its reason."""
    reasons = baseline.refusals(path, workload, target)
    return Contender(
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


def _candidates(
    kernel: Kernel, path: str, workload: Workload, target: Target
) -> Iterator[Contender]:
    converts = kernel.converts(path, workload.input_dtype)
    included = Contender(
        role=Role.CANDIDATE,
        path=path,
        name=kernel.name,
        workload=workload,
        conversion=Conversion.INCLUDED if converts else Conversion.NONE,
        kernel=kernel,
        configs=kernel.configs(path, workload, target),
    )
    yield included
    prepares = workload.layout is Layout.CONTIGUOUS and workload.phase is not Phase.DECODE
    if converts and kernel.prepare is not None and prepares:
        yield Contender(
            role=Role.CANDIDATE,
            path=path,
            name=kernel.name,
            workload=workload,
            conversion=Conversion.AMORTISED,
            kernel=kernel,
            included=included,
        )
    for storage in forms(kernel, path, workload, target):
        yield Contender(
            role=Role.CANDIDATE,
            path=path,
            name=kernel.name,
            workload=workload,
            conversion=Conversion.AMORTISED,
            kernel=kernel,
            included=included,
            storage=storage,
        )


def joined(unavailable: Iterable[Unavailable]) -> list[Unavailable]:
    """One refusal for each path; where several kernels refuse it, it names none but in its reason.

    What all of a path's kernels say stands for everything that some of them say as well.
    """
    by_path: dict[str, list[Unavailable]] = {}
    for refused in unavailable:
        by_path.setdefault(refused.path, []).append(refused)
    return [
        refusals[0] if len(refusals) == 1 else Unavailable("", path, _reason(refusals))
        for path, refusals in by_path.items()
    ]


def _reason(refusals: list[Unavailable]) -> str:
    """Every kernel's reasons in one sentence, each said once: ``needs a GPU (one, two)``."""
    names: dict[str, list[str]] = {}  # by what is said, the kernels it is said of
    said_by: dict[str, int] = {}
    for refused in refusals:
        for piece in refused.reason.split("; "):
            said = piece.removeprefix("autoprec.kernels.").removeprefix(f"{refused.kernel} ")
            said_by[said] = said_by.get(said, 0) + 1
            names.setdefault(said, [])
            if said != piece:
                names[said].append(refused.kernel)
    common = [said for said, count in said_by.items() if count == len(refusals)]
    return "; ".join(
        f"{said} ({', '.join(names[said])})" if names[said] else said for said in common or said_by
    )
