"""A compiler in a process of its own, which may crash or hang and is ended then."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import IO


class Compiler:
    """One worker process of a CompilePool: it answers each line with a line."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it.

        Raises:
            OSError: There is no such command, or no room for a process.
        """
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, as long as we live
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        # No worker may take memory of a GPU or more than the core that is meant for it.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "",
                        "OMP_NUM_THREADS": "1"}  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._stderr.close()
            raise

    def ask(self, task: bytes, timeout_s: float) -> bytes | str:
        """The answer's line; or a sentence on why there is none, and the worker is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            self._process.stdin.write(task)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            timer.cancel()
        if answer.endswith(b"\n") and not late.is_set():
            return answer
        self.kill()
        if late.is_set():
            return f"the compiler did not end within {timeout_s:g} s"
        return f"the compiler died ({self._last_words()})"

    def end(self) -> None:
        """Have the process end, and the compilers it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it went in between
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """The same, and wait for it."""
        self.end()
        self._process.wait()

    def close(self) -> None:
        """Close the files of a worker that was killed."""
        for file in (self._process.stdin, self._process.stdout, self._stderr):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):  # a task that nobody read
                    file.close()

    def _last_words(self) -> str:
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").split("\n")]
        return ": ".join([how, *[line for line in lines if line][-1:]])
