"""Which precision a call is computed in: the plan's choice, a path by name, or a default."""

import threading
import warnings
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoprec import registry
from autoprec.errors import AutoprecWarning, InputError, ProfileError, UnsupportedError
from autoprec.flashinfer.steady import steadied
from autoprec.kernels.interface import Call, Target
from autoprec.paths import PATHS
from autoprec.plan import sdpa
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Asked, Decision
from autoprec.plan.execute import execute
from autoprec.plan.guard import Mode
from autoprec.plan.load import load_plan
from autoprec.plan.plan import Plan
from autoprec.plan.realise import realised
from autoprec.plan.run import Runner
from autoprec.plan.stats import Counts
from autoprec.policy.lookup import Found
from autoprec.probe import device as devices
from autoprec.types import Choice, Dtype, Phase, Storage, Workload

Precision = Plan | str
"""A plan, whose choices are taken, or the name of a path, which is."""

_NO_BASELINE = "does not take FlashInfer's arguments"

_MAX_DECISIONS = 4096  # a cache that grows asks for a new workload at every step

_set: Precision | None = None
_machine: dict[torch.device, Plan | str] = {}  # or why there is none
_looking = threading.Lock()


def set_plan(plan: Precision | None) -> None:
    """Have everything in this module use a plan, or a path, unless its ``precision`` says else.

    Args:
        plan: A plan, the name of a path such as ``fp16x3``, or None: the plan of
            ``autoprec.plan.sdpa.use``, else this machine's, else a default.

    Raises:
        InputError: There is no path of that name.
        UnsupportedError: No kernel runs that path on any device here, or the plan's guard asks for
            calls to be computed again.
    """
    global _set
    _check(plan)
    if isinstance(plan, Plan):
        _check_guard(plan.runner)
    elif plan is not None:
        _check_kernels(plan)
    _set = plan


def forget() -> None:
    """Forget what was looked for on this machine, and what was said about it."""
    _machine.clear()
    _unplanned.clear()
    _planned.clear()
    _said.clear()


@dataclass(frozen=True, eq=False)
class Chooser:
    """What runs for a workload. Threads may share it.

    Attributes:
        runner: That of the plan whose choices are taken; None: nothing was measured here.
        path: The one path that may run; None: any.
    """

    runner: Runner | None
    path: str | None
    _decider: Decider | None = field(init=False)
    _counts: Counts = field(init=False)
    _decisions: dict[tuple[Workload, torch.device, bool], Decision] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        """Take the plan's choices, or those of the one path."""
        runner = self.runner
        decider = None if runner is None else runner.decider
        if decider is not None and self.path is not None:
            decider = decider.only(self.path)
        object.__setattr__(self, "_decider", decider)
        object.__setattr__(self, "_counts", Counts() if runner is None else runner.counts)

    def decide(self, workload: Workload, device: torch.device, *, steady: bool = False) -> Decision:
        """What runs for a workload on a device.

        Args:
            steady: Whether lengths are to come that nothing is known of, as in CUDA graphs.

        Raises:
            AutoprecError: As ``Plan.attention`` does.
        """
        key = workload, device, steady
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decide(workload, device)
            fixed = self.runner is not None and self.runner.consistent
            if steady and not fixed:
                decision = steadied(decision, devices.target(device))
            if len(self._decisions) >= _MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[key] = decision
            if decision.substituted:
                _warn_once(decision.substituted, stacklevel=5)
        return decision

    def lost(self, decision: Decision, device: torch.device) -> Tensor | None:
        """The plan's counter of tiles lost to fp16's range, where the decision counts them."""
        return self._counts.lost(device) if decision.counts_range else None

    def run(self, decision: Decision, call: Call, bound: dict[object, Any] | None = None) -> None:
        """Run a call as decided, and count it in the plan's stats.

        Args:
            bound: See ``plan.execute.run_bound``.

        Raises:
            UnsupportedError: The plan's guard, which may be set at any time, asks for calls to be
                computed again.
        """
        if self.runner is not None:
            _check_guard(self.runner)
        execute(decision, call, self._counts, bound)

    def _decide(self, workload: Workload, device: torch.device) -> Decision:
        if self.runner is None or self._decider is None:
            return _unmeasured(workload, devices.target(device), self.path)
        target = self.runner.target("q", device)
        if self.runner.consistent:
            return self._decider.decide(
                workload, target, no_baseline=_NO_BASELINE, asked=Asked(consistent=True)
            )
        try:
            found, substituted = self._decider.find(workload, _NO_BASELINE)
        except UnsupportedError as error:
            if self.path is None:
                sentence = f"{error.sentence.removesuffix('.')}; a default path runs"
                _warn_once(sentence, workload=workload)
        else:
            return realised(found, workload, target, substituted)
        return _unmeasured(workload, target, self.path)


def chooser(precision: Precision | None, device: torch.device) -> Chooser:
    """The chooser for a device.

    Args:
        precision: As the caller gave it; None: that of ``set_plan``.

    Raises:
        InputError: There is no path of that name.
        UnsupportedError: The plan's guard asks for calls to be computed again.
        AutoprecError: As ``load_plan`` does, but for a machine that was not measured.
    """
    _check(precision)
    asked = _set if precision is None else precision
    path = asked if isinstance(asked, str) else None
    plan = asked if isinstance(asked, Plan) else None
    if plan is None and isinstance(_set, Plan):
        plan = _set
    if plan is None:
        plan = sdpa.in_use() or _of_machine(device, quiet=path is not None)
    if plan is not None:
        _check_guard(plan.runner)
    kept = _unplanned if plan is None else _planned.setdefault(plan, {})
    if path not in kept:
        kept[path] = Chooser(None if plan is None else plan.runner, path)
    return kept[path]


# Choosers hold a plan's runner, and not the plan, so that it goes when its last user lets it go.
_planned: weakref.WeakKeyDictionary[Plan, dict[str | None, Chooser]] = weakref.WeakKeyDictionary()
_unplanned: dict[str | None, Chooser] = {}


def _check(precision: object) -> None:
    if precision is None or isinstance(precision, Plan) or precision in PATHS:
        return
    raise InputError(
        f"precision must be a Plan or one of {', '.join(PATHS)}, got {precision!r}.",
        "autoprec paths",
    )


def _check_kernels(path: str) -> None:
    """Refuse a path that no kernel runs on any device of this machine."""
    places = [torch.device("cpu")]
    if torch.cuda.is_available():
        places += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    offers = [offer for place in places for offer in registry.overview(devices.target(place))]
    reasons = [offer.reason for offer in offers if offer.path in (path, "")]
    if all(reasons):
        why = "; ".join(dict.fromkeys(reasons))
        raise UnsupportedError(f"no kernel here runs the path {path}: {why}.", "autoprec paths")


def _of_machine(device: torch.device, *, quiet: bool) -> Plan | None:
    """This machine's plan, looked for once; None where it was not measured.

    Args:
        quiet: Whether a path was asked for by name; else it is said, once, that a default runs.
    """
    if device not in _machine:
        with _looking:
            if device not in _machine:
                _machine[device] = _load(device)
    found = _machine[device]
    if isinstance(found, Plan):
        return found
    if not quiet:
        _warn_once(found)
    return None


def _load(device: torch.device) -> Plan | str:
    try:
        return load_plan(device=device)
    except ProfileError:
        raise
    except InputError as error:
        return f"{error.sentence.removesuffix('.')}: a default path runs; try {error.hint}"


def _check_guard(runner: Runner) -> None:
    """Say, once, that calls are not compared, and refuse to leave out what would change them."""
    if runner.guard is Mode.ALWAYS:
        raise UnsupportedError(
            "plan.guard is always, and calls of FlashInfer's functions are not computed again.",
            'plan.guard = "off", or plan.attention',
        )
    if runner.guard is Mode.SAMPLE:
        _warn_once("calls of FlashInfer's functions are not compared with exact attention")


_said: set[str] = set()


def _warn_once(sentence: str, workload: Workload | None = None, stacklevel: int = 6) -> None:
    """Warn, unless it was said before.

    Args:
        workload: What it is said of, where it is: that of another for the same reason is the same.
    """
    reason = sentence if workload is None else sentence.replace(str(workload), "")
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f"{sentence}.", AutoprecWarning, stacklevel=stacklevel)


def _defaults(workload: Workload, target: Target) -> tuple[str, ...]:
    """fp32's accuracy for fp32; for 16 bits their own, and more where that is free."""
    dtype = workload.input_dtype
    if target.kind == "cpu":
        return ("fp32",)
    if dtype is Dtype.FP32:
        return ("fp16x3", "tf32x3", "fp32")
    plain, better = dtype.value, f"{dtype.value}p2"
    free = workload.phase is Phase.DECODE or workload.out_dtype is Dtype.FP32
    return (better, plain) if free else (plain, better)


def _unmeasured(workload: Workload, target: Target, path: str | None) -> Decision:
    """The first kernel that runs the path, or a default one, in its first configuration.

    Raises:
        UnsupportedError: There is none; every kernel's sentence is in it.
    """
    paths = _defaults(workload, target) if path is None else (path,)
    running, unavailable = registry.candidates(workload, target, paths)
    if not running:
        sentences = registry.said_once(row.reason for row in unavailable)
        raise UnsupportedError(f"no kernel runs {workload}: {sentences}.",
                               "autoprec paths")  # fmt: skip
    kernel, name = running[0]
    config = dict(kernel.configs(name, workload, target)[0])
    choice = Choice(
        workload=workload, path=name, kernel=kernel.name, config=config,
        storage=Storage(workload.input_dtype.value), margin=0.0, rejected={},
    )  # fmt: skip
    found = Found(choice, exact=False, note="nothing was measured for it")
    return Decision(workload=workload, found=found, kernel=kernel, config=config, notes=(),
                    substituted="")  # fmt: skip
