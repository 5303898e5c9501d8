"""From a workload to what runs: the measured choice, made to fit the very workload."""

import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoprec import registry
from autoprec.budget import Budget
from autoprec.errors import BudgetError, InputError, UnsupportedError
from autoprec.kernels.interface import Call, Kernel, Target
from autoprec.paths import PATHS
from autoprec.policy.choose import choose
from autoprec.policy.lookup import Found, nearest_plain
from autoprec.policy.standard import Standard, standard
from autoprec.policy.storage import fastest, on_form
from autoprec.probe.baselines import BASELINES
from autoprec.probe.peers import PEERS
from autoprec.types import (
    MAX_DECODE_Q_LEN,
    Choice,
    Config,
    Measurement,
    Phase,
    Profile,
    Refusal,
    Role,
    Status,
    Storage,
    Workload,
)

_SELECTING = threading.Lock()

_TYPICAL_LEN = 8192


def _one_at_a_time(baseline: Kernel) -> Kernel:
    """A baseline for several threads: it selects PyTorch's backend for the whole process."""

    def run(call: Call, path: str, config: Config) -> None:
        with _SELECTING:
            baseline.run(call, path, config)

    return replace(baseline, run=run)


_BASELINES = {row.name: _one_at_a_time(row) for row in (*BASELINES, *PEERS)}


class Asked(NamedTuple):
    """What a call asks of a kernel beyond its workload.

    Attributes:
        paths: Those that may run; the first does in place of a choice that is none of them.
            (): all may.
        storage: The form of K and V; None: that of the inputs.
        lengths: Whether requests have lengths of their own.
        consistent: Whether path and configuration must not depend on batch and lengths.
    """

    paths: tuple[str, ...] = ()
    storage: Storage | None = None
    lengths: bool = False
    consistent: bool = False


_PLAIN = Asked()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What runs for a workload.

    Attributes:
        workload: What was asked.
        found: The measured choice this rests on.
        kernel: What runs the choice's path.
        config: Its launch configuration.
        notes: How kernel and configuration differ from the choice's, and why, in sentences.
        substituted: What they say of another kernel or path than the one chosen, or "".
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


@dataclass(frozen=True)
class Decider:
    """The choices of a profile, for a budget.

    Attributes:
        budget: The error accepted.
        profile: What was measured.
        choices: One for every workload on which some path keeps to the budget.
        refusals: The other workloads.
        layer: The model's layer that they are for; None for one that the budget does not name.
    """

    budget: Budget
    profile: Profile
    choices: Sequence[Choice]
    refusals: Sequence[Refusal]
    layer: int | None = None

    @classmethod
    def of(cls, profile: Profile, budget: Budget | None, layer: int | None = None) -> "Decider":
        """The choices saved in a profile, or those for another budget or layer, without measuring.

        Raises:
            BudgetError: No path keeps to the budget on any workload measured.
            InputError: The profile has neither choices nor refusals.
        """
        choices, refusals = profile.choices, profile.refusals
        chosen = budget is None and layer is None
        budget = Budget.parse(profile.budget) if budget is None else budget
        if not chosen:
            choices, refusals = choose(
                profile.measurements,
                budget,
                allow_baselines=profile.allow_baselines,
                confidence=profile.confidence,
                layer=layer,
            )
        if not choices and not refusals:
            raise InputError("the profile has no choices: nothing was measured.", "autoprec tune")
        if not choices:
            workload = refusals[0].workload
            measured = {
                row.path
                for row in profile.measurements
                if row.workload == workload and row.status is Status.OK
            }
            sentences = "; ".join(
                f"{path}: {why}" for path, why in refusals[0].rejected.items() if path in measured
            )
            raise BudgetError(
                f"no path keeps to the budget of {budget} on any workload of the profile; "
                f"on {workload}: {sentences or 'none was measured'}.",
                "a looser budget",
            )
        return cls(budget, profile, choices, refusals, layer)

    def decide(
        self,
        workload: Workload,
        target: Target,
        *,
        no_baseline: str = "",
        asked: Asked = _PLAIN,
    ) -> Decision:
        """What runs for a workload on a device.

        Args:
            no_baseline: Why no baseline may run, as a clause; "" where one may.
            asked: What else it must be.

        Raises:
            BudgetError: On the nearest workload measured, no path keeps to the budget.
            UnsupportedError: Nothing near was measured, or no kernel runs what was chosen.
        """
        looked_up = _typical(workload) if asked.consistent else workload
        found, substituted = self.find(looked_up, no_baseline)
        return realised(self._on_form(found, asked), workload, target, substituted, asked)

    def _on_form(self, found: Found, asked: Asked) -> Found:
        """What was fastest on a cache in another form than the inputs', where that was measured."""
        own = found.choice.workload.input_dtype.value
        if asked.storage is None or asked.storage.value == own:
            return found
        rows, held_to = self._rows(found.choice.workload)
        row = on_form(rows, held_to, asked.storage, asked.paths)
        if row is None:
            return found
        choice = replace(
            found.choice, path=row.path, kernel=row.kernel, config=row.config, storage=row.storage,
            margin=held_to.reading(row).margin,
        )  # fmt: skip
        return replace(found, choice=choice)

    def by_form(self, workload: Workload) -> dict[Storage, Measurement]:
        """By form of a cache, what was fastest on it for a workload measured; {} for nothing."""
        return fastest(*self._rows(workload))

    def _rows(self, workload: Workload) -> tuple[list[Measurement], Standard]:
        """The measurements of a workload, and what they are held to."""
        rows = [row for row in self.profile.measurements if row.workload == workload]
        return rows, standard(rows, self.budget, self.layer)

    def find(self, workload: Workload, no_baseline: str = "") -> tuple[Found, list[str]]:
        """The choice of the nearest workload measured, and what it stands in for, in sentences.

        Raises:
            AutoprecError: As ``decide`` does.
        """
        found = nearest_plain(workload, self.choices, self.refusals)
        if not no_baseline or found.choice.path in PATHS:
            return found, []
        baseline = found.choice.path
        found = nearest_plain(workload, *self._own)
        return found, [f"{baseline} was chosen but {no_baseline}, so {found.choice.path} runs"]

    def only(self, path: str) -> "Decider":
        """The same machine with one path alone, in the configurations that were fastest."""
        best: dict[Workload, tuple[float, Choice]] = {}
        for row in self.profile.measurements:
            if row.path != path or row.role is not Role.CANDIDATE or row.aside:
                continue
            if row.p50_ms is None or row.p50_ms >= best.get(row.workload, (math.inf,))[0]:
                continue
            choice = Choice(
                workload=row.workload, path=path, kernel=row.kernel, config=row.config,
                storage=row.storage, margin=0.0, rejected={},
            )  # fmt: skip
            best[row.workload] = (row.p50_ms, choice)
        return replace(self, choices=[choice for _, choice in best.values()], refusals=[])

    def decide_safe(self, workload: Workload, target: Target, *, asked: Asked = _PLAIN) -> Decision:
        """What runs for a workload on a device where fp16's range may be too narrow.

        Raises:
            UnsupportedError: No kernel runs what was chosen.
        """
        found, notes = self.find_safe(workload)
        return realised(found, workload, target, notes, asked)

    def find_safe(self, workload: Workload) -> tuple[Found, list[str]]:
        """The choice among the paths with fp32's range, and what is to be said of it.

        Where none of those was measured within the budget, it is the most accurate that was
        measured, and where none was measured, ``fp32``.
        """
        try:
            return nearest_plain(workload, *self._safe), []
        except (BudgetError, UnsupportedError):
            return self._most_accurate(workload), ["no path with fp32's range is in budget"]

    def _most_accurate(self, workload: Workload) -> Found:
        """The path with fp32's range of the least error measured anywhere, else ``fp32``."""
        rows = [
            row for row in self.profile.measurements
            if row.status is Status.OK and _wide(row) and not row.aside
            and workload.input_dtype in PATHS[row.path].inputs
            and workload.phase == row.workload.phase
        ]  # fmt: skip
        path, kernel, config = "fp32", "", dict[str, int | str]()
        if rows:
            row = min(rows, key=lambda row: max(it["rel_l2"] for it in row.errors.values()))
            path, kernel, config = row.path, row.kernel, row.config
        choice = Choice(
            workload=workload, path=path, kernel=kernel, config=config,
            storage=Storage(workload.input_dtype.value), margin=0.0, rejected={},
        )  # fmt: skip
        return Found(choice, exact=False, note="nothing measured within the budget")

    @functools.cached_property
    def _safe(self) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """Choices and refusals among the paths with fp32's range."""
        return choose(
            # baselines stay, to be compared with
            [row for row in self.profile.measurements if row.path not in PATHS or _wide(row)],
            self.budget,
            confidence=self.profile.confidence,
            layer=self.layer,
        )

    @functools.cached_property
    def _own(self) -> tuple[Sequence[Choice], Sequence[Refusal]]:
        """Choices and refusals where no baseline may be chosen."""
        return choose(
            self.profile.measurements,
            self.budget,
            allow_baselines=False,
            confidence=self.profile.confidence,
            layer=self.layer,
        )


def realised(
    found: Found,
    workload: Workload,
    target: Target,
    substituted: Sequence[str] = (),
    asked: Asked = _PLAIN,
) -> Decision:
    """A choice brought to a workload: its kernel, or another that runs the path, and a launch.

    Args:
        substituted: What was already done otherwise than chosen, in sentences.
        asked: What else it must be.

    Raises:
        UnsupportedError: No kernel runs the path on it.
    """
    substituted = list(substituted)
    if asked.paths and found.choice.path not in asked.paths:
        # another path's configuration may not fit: without one, the kernel's first is used
        found = replace(found, choice=replace(found.choice, path=asked.paths[0], config={}))
    choice = found.choice
    kernel, refusals = _kernel(choice.kernel, choice.path, workload, target, asked)
    if kernel is None:
        kernel = _another(choice.path, workload, target, refusals, asked)
        if choice.kernel:
            substituted.append(
                f"{choice.kernel} was chosen but cannot run this ({'; '.join(refusals)}), "
                f"so {kernel.name} runs the same path"
            )
    if asked.consistent:
        assert kernel.consistent is not None
        config, reason = kernel.consistent(choice.path, workload, target), ""
    else:
        config, reason = _config(kernel, choice, workload, target)
    return Decision(
        workload=workload,
        found=found,
        kernel=kernel,
        config=config,
        notes=tuple(note for note in (*substituted, reason) if note),
        substituted="; ".join(substituted),
    )


def _wide(row: Measurement) -> bool:
    """Whether a row is one of ours, and of a path with fp32's range."""
    return row.path in PATHS and PATHS[row.path].operand != "fp16"


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


def _typical(workload: Workload) -> Workload:
    """A workload of the same geometry, phase and types, whatever the batch and the lengths."""
    if workload.phase is Phase.DECODE:
        return replace(workload, batch=1, q_len=1, kv_len=_TYPICAL_LEN)
    return replace(workload, phase=Phase.PREFILL, batch=1, q_len=_TYPICAL_LEN, kv_len=_TYPICAL_LEN)


def _kernel(
    name: str, path: str, workload: Workload, target: Target, asked: Asked
) -> tuple[Kernel | None, list[str]]:
    """The kernel of a name where it runs the path on the workload; else why not."""
    try:
        row = _BASELINES.get(name) or registry.kernel(name)
    except InputError as error:
        return None, [error.sentence.removesuffix(".")]
    refusals = row.refusals(path, workload, target, storage=asked.storage, lengths=asked.lengths)
    if asked.consistent and row.consistent is None:
        refusals.append(f"{row.name} has no consistent mode")
    return (None if refusals else row), refusals


def _another(
    path: str, workload: Workload, target: Target, refusals: list[str], asked: Asked
) -> Kernel:
    """Another kernel that runs the path.

    Raises:
        UnsupportedError: There is none; every kernel's sentence is in it.
    """
    running, unavailable = registry.candidates(
        workload, target, (path,), storage=asked.storage, lengths=asked.lengths,
        consistent=asked.consistent,
    )  # fmt: skip
    if running:
        return running[0][0]
    sentences = dict.fromkeys(refusals + [row.reason for row in unavailable])
    long = workload.phase is Phase.DECODE and workload.q_len > MAX_DECODE_Q_LEN
    raise UnsupportedError(
        f"no kernel runs the path {path} on {workload}: {'; '.join(sentences)}.",
        f"append for more than {MAX_DECODE_Q_LEN} new tokens" if long else "autoprec paths",
    )


def _config(
    kernel: Kernel, choice: Choice, workload: Workload, target: Target
) -> tuple[Config, str]:
    """The configuration to launch, and a sentence where it is not the one measured."""
    known = kernel.configs(choice.path, workload, target)
    if kernel.name != choice.kernel:
        reason = f"{kernel.name} was not measured here"
    elif not _fits(choice.workload, workload):
        reason = "the configuration measured is for blocks of another size"
    elif choice.config not in kernel.configs(choice.path, choice.workload, target) and not any(
        _resembles(choice.config, config) for config in known
    ):
        reason = f"{kernel.name} does not know the configuration measured"
    else:
        return choice.config, ""
    return dict(known[0]), f"{reason}, so its first configuration is used"


def _resembles(config: Config, own: Config) -> bool:
    """Whether a configuration has the names and types of a kernel's own, and no size below 1.

    A file may be edited by hand, and a kernel launched with blocks of no rows writes nothing.
    """
    return config.keys() == own.keys() and all(
        type(value) is type(own[name]) and (isinstance(value, str) or value > 0)
        for name, value in config.items()
    )


def _fits(measured: Workload, workload: Workload) -> bool:
    """Whether a configuration measured on one workload fits the memory of blocks of another."""
    if workload.phase is Phase.DECODE:
        rows, measured_rows = (_padded(w.q_len * w.group) for w in (workload, measured))
        if rows > measured_rows:
            return False
    return (
        workload.input_dtype == measured.input_dtype
        and _padded(workload.head_dim) == _padded(measured.head_dim)
        and _padded(workload.head_dim_v) == _padded(measured.head_dim_v)
    )


def _padded(size: int) -> int:
    """The power of two, and at least 16, that a block pads a size to."""
    return max(16, 1 << (size - 1).bit_length())
