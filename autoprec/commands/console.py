"""Where the command line prints: results to stdout, sentences and errors to stderr."""

import contextlib
import io
import os
import signal
import sys
from types import FrameType
from typing import TextIO

from autoprec.errors import AutoprecError, InputError


class Stderr:
    """What stderr is now, as a file that cannot fail: where it has gone away, nothing is shown.

    What is said on the way is worth less than the measurements it speaks of.
    """

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._stream: TextIO | None = sys.stderr
        self.encoding: str = getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                _silence(self._stream)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                _silence(self._stream)

    def isatty(self) -> bool:
        """Whether a person may be watching."""
        return self._stream is not None and self._stream.isatty()


def prepare() -> None:
    """Make the streams take every character, and keep other files off their numbers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None or sys.stderr is None:
        # A file that is opened takes the lowest free number: the profile would become stdout.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def say(result: str) -> None:
    """Print a result; where nobody reads on, the command still ends as it should.

    Raises:
        InputError: stdout is closed, or takes no more.
    """
    if sys.stdout is None:
        raise InputError("the result cannot be printed: stdout is closed.")
    try:
        sys.stdout.write(result)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise InputError(f"the result cannot be printed: {error.strerror}.") from None


def say_bytes(result: bytes) -> None:
    """Print a result that is no text.

    Raises:
        InputError: stdout is closed, takes no more, or is a terminal.
    """
    if sys.stdout is None:
        raise InputError("the result cannot be printed: stdout is closed.")
    if sys.stdout.isatty():
        raise InputError("a picture cannot be printed in a terminal.", "-o report.png")
    try:
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise InputError(f"the result cannot be printed: {error.strerror}.") from None


def tell(sentence: str) -> None:
    """Print what is no result."""
    stderr = Stderr()
    stderr.write(f"{sentence}\n")
    stderr.flush()


def tell_error(error: AutoprecError) -> None:
    """Print what is wrong, and what to try."""
    tell(f"autoprec: {error.sentence}")
    if error.hint:
        tell(f"try: {error.hint}")


def _silence(stream: TextIO) -> None:
    """Send a stream nowhere, with what it still holds: Python's last flush would fail again."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def leave_on_interrupt() -> None:
    """From now on Ctrl+C ends the process at once; where it is ignored, it stays so.

    For the time before there is something to save: an exception in the middle of an import may be
    swallowed there, or shown with its trace.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_on_interrupt() -> None:
    """From now on Ctrl+C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted; nothing is saved.\n")
    os._exit(130)
