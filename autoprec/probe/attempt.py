"""Running a configuration once: what came of it, why it is dropped, and what is refused."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import torch

from autoprec.errors import AutoprecError, UnsupportedError
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe.accuracy import Oracle
from autoprec.probe.comparison import Comparing, Comparison, NonFiniteError
from autoprec.probe.failures import described, lacks_memory
from autoprec.probe.judge import Judge
from autoprec.types import Status, Workload

# Half the spacing of a type's smallest numbers: what rounding there may cost.
_SMALLEST = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}

# How many runs the host may be ahead of what it has seen the results of, and after how long a wait
# for one it is not: whoever watches the time must know what it went on.
_AHEAD = 8
_LONG_S = 0.1

Key = TypeVar("Key")


class BugError(AutoprecError):
    """A kernel does not compute what its path says."""


class DroppedError(Exception):
    """A configuration is out of the running."""

    def __init__(self, status: Status, reason: str, *, lacked_memory: bool = False) -> None:
        """Keep them; where no configuration is left they become the contender's."""
        super().__init__(status, reason)
        self.status, self.reason = status, reason.rstrip(".")
        self.lacked_memory = lacked_memory

    def on(self, workload: Workload) -> "DroppedError":
        """The same, said of another workload than the one measured."""
        reason = f"on {workload}: {self.reason}"
        return DroppedError(self.status, reason, lacked_memory=self.lacked_memory)

    def forgetting(self) -> Self:
        """The same without its traceback, whose frames keep tensors alive."""
        return self.with_traceback(None)


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


class Told:
    """Numbers on their way to the host, which wait for nothing that is queued behind them."""

    def __init__(self, numbers: torch.Tensor, **more: torch.Tensor | None) -> None:
        """Send them.

        Args:
            numbers: fp64, of the device.
            more: Others by name, one each; None for none.
        """
        device = numbers.device
        there = {name: x for name, x in more.items() if x is not None}
        self._names, self._count = tuple(there), len(numbers)
        if there:
            numbers = torch.cat([numbers, torch.stack(list(there.values()))])
        self._event: torch.cuda.Event | None = None
        self._numbers = numbers.to("cpu", non_blocking=True)  # a GPU's go to pinned memory
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def result(self) -> tuple[list[float], dict[str, float]]:
        """Wait for them: the numbers, and the others by name."""
        if self._event is not None:
            self._event.synchronize()
        values = self._numbers.tolist()
        return values[: self._count], dict(zip(self._names, values[self._count :], strict=True))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A run that has begun; the device may still be at work on what came of it.

    Attributes:
        run: What can be timed.
        call: What it computes.
        out: What it gave, which the next run may overwrite: all else here is kept apart.
        comparing: The comparison with exact attention.
        told: Its numbers; ``holes``, how many rows hold NaN or infinity, where the comparison
            does not see all; and ``share``, the largest error over what its path's certified
            bound allows, where there is one.
        workspace_bytes: As of ``Tried``.
    """

    run: Callable[[], object]
    call: Call
    out: torch.Tensor
    comparing: Comparing
    told: Told
    workspace_bytes: int | None

    def result(self) -> Tried:
        """Wait for the device.

        Raises:
            DroppedError: It broke, gave NaN or infinity, or is above its path's certified bound.
        """
        try:
            return self._read()
        except Exception as error:  # a kernel's failure is a row, whatever it raises
            why = dropped(error)
        raise why  # outside the handler: the error's traceback would keep tensors alive

    def for_errors(self) -> "Attempt":
        """The same without what running it again takes, which may be much memory."""
        return replace(self, run=_gone, out=self.call.out)

    def _read(self) -> Tried:
        numbers, more = self.told.result()
        comparison = self.comparing.read(numbers)
        holes, share = more.get("holes", 0.0), more.get("share", 0.0)
        # inputs that hold NaN may give some
        if holes and all(x.isfinite().all() for x in (self.call.q, self.call.k, self.call.v)):
            rows = self.out[..., 0].numel()
            raise NonFiniteError(
                f"NaN or infinity in {int(holes)} of {rows} rows, on {self.comparing.family}."
            )
        if share > 1:
            raise BugError(
                f"its error is {share:.3g} times the certified bound of its path on "
                f"{self.comparing.family}, which is a bug in the kernel."
            )
        return Tried(self.run, comparison, self.workspace_bytes, self.out)


def ahead(
    tasks: Iterable[tuple[Key, Callable[[], Attempt]]],
) -> Iterator[tuple[Key, Tried | DroppedError]]:
    """Begin attempts before those before them are over, and give what came of each, in order.

    Args:
        tasks: Each begins one, or raises DroppedError.
    """
    begun: deque[tuple[Key, Attempt | DroppedError]] = deque()
    most = 0  # nothing is known of how long they take until the first one is over
    for key, begin in tasks:
        try:
            begun.append((key, begin()))
        except DroppedError as why:
            begun.append((key, why.forgetting()))
        while len(begun) > most:
            since = time.monotonic()
            over = _over(*begun.popleft())
            most = 0 if time.monotonic() - since > _LONG_S else _AHEAD
            yield over
    while begun:
        yield _over(*begun.popleft())


def _gone() -> object:
    raise AssertionError("this was run for its errors alone")


def _over(key: Key, begun: Attempt | DroppedError) -> tuple[Key, Tried | DroppedError]:
    if isinstance(begun, DroppedError):
        return key, begun
    try:
        return key, begun.result()
    except DroppedError as why:
        return key, why.forgetting()


def dropped(error: Exception) -> DroppedError:
    """Why what raised an error is out of the running."""
    if isinstance(error, UnsupportedError):
        return DroppedError(Status.UNSUPPORTED, error.sentence)
    if isinstance(error, NonFiniteError | BugError):
        return DroppedError(Status.FAILED, error.sentence)
    return DroppedError(Status.FAILED, described(error), lacked_memory=lacks_memory(error))


def holes_of(out: torch.Tensor, lse: torch.Tensor | None) -> torch.Tensor:
    """How many rows of an output hold NaN or infinity: one number in fp64, on its device.

    Args:
        out: The output.
        lse: Its LSE, which is -inf where a row sees no key; None where there is none.
    """
    holes = ~out.isfinite().all(-1)
    if lse is not None:
        holes |= ~(lse < float("inf"))
    return holes.sum().double()


def share_of(
    out: torch.Tensor,
    oracle: Oracle,
    judge: Judge | None,
    kernel: Kernel,
    path: str,
    workload: Workload,
) -> torch.Tensor | None:
    """The largest error over a path's certified bound; None where there is none to hold it to."""
    if judge is None or judge.certified is None or oracle.magnitudes is None:
        return None
    certified, exp_error = judge.certified, kernel.exp_error(path)
    return oracle.share_of(
        out,
        lambda logit, widest: certified(path, workload, logit, widest, exp_error),
        _SMALLEST[out.dtype],
    )
