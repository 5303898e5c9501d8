"""From a measured choice to a launch: its kernel, or another, in a configuration that fits."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from autoprec import registry
from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import Call, Kernel, Target
from autoprec.plan.decision import PLAIN, Asked, Decision
from autoprec.policy.lookup import Found
from autoprec.probe.baselines import BASELINES
from autoprec.probe.peers import PEERS
from autoprec.types import MAX_DECODE_Q_LEN, Choice, Config, Phase, Workload

_SELECTING = threading.Lock()


def _one_at_a_time(baseline: Kernel) -> Kernel:
    """A baseline for several threads: it selects PyTorch's backend for the whole process."""

    def run(call: Call, path: str, config: Config) -> None:
        with _SELECTING:
            baseline.run(call, path, config)

    return replace(baseline, run=run)


_BASELINES = {row.name: _one_at_a_time(row) for row in (*BASELINES, *PEERS)}


def realised(
    found: Found,
    workload: Workload,
    target: Target,
    substituted: Sequence[str] = (),
    asked: Asked = PLAIN,
) -> Decision:
    """A choice brought to a workload: its kernel, or another that runs the path, and a launch.

    Args:
        substituted: What is not as chosen already, in sentences.
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
        config, reason = _config(kernel, choice, workload, target, known=asked.known)
    return Decision(
        workload=workload,
        found=found,
        kernel=kernel,
        config=config,
        notes=tuple(note for note in (*substituted, reason) if note),
        substituted="; ".join(substituted),
    )


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
    sentences = registry.said_once([*refusals, *(row.reason for row in unavailable)])
    long = workload.phase is Phase.DECODE and workload.q_len > MAX_DECODE_Q_LEN
    raise UnsupportedError(
        f"no kernel runs the path {path} on {workload}: {sentences}.",
        f"append for more than {MAX_DECODE_Q_LEN} new tokens" if long else "autoprec paths",
    )


def _config(
    kernel: Kernel, choice: Choice, workload: Workload, target: Target, *, known: bool
) -> tuple[Config, str]:
    """The configuration to launch, and a sentence where it is not of the one measured.

    Args:
        known: As of ``Asked``.
    """
    own = kernel.configs(choice.path, workload, target)
    if kernel.name != choice.kernel:
        reason = f"{kernel.name} was not measured here"
    elif not fits(choice.workload, workload):
        reason = "the configuration measured is for blocks of another size"
    elif not any(_resembles(choice.config, config) for config in own):
        reason = f"{kernel.name} has no configuration like the one measured"
    elif kernel.carried is not None and known:
        return kernel.carried(choice.config, choice.workload, workload, target), ""
    else:
        return choice.config, ""
    return dict(own[0]), f"{reason}, so its first configuration is used"


def _resembles(config: Config, own: Config) -> bool:
    """Whether a configuration has the names and types of a kernel's own, and no size below 1.

    A file may be edited by hand, and a kernel launched with blocks of no rows writes nothing.
    """
    return config.keys() == own.keys() and all(
        type(value) is type(own[name]) and (isinstance(value, str) or value > 0)
        for name, value in config.items()
    )


def fits(measured: Workload, workload: Workload) -> bool:
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
