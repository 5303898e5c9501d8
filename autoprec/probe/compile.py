"""Compiling configurations in worker processes, ahead of the measuring and safe from it.

A compiler that crashes or hangs takes its worker along and nothing else: the worker is started
anew and the configuration comes back with a sentence.
"""

import heapq
import itertools
import queue
import sys
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import TypeAdapter

from autoprec.kernels.interface import Kernel, Launch, Target
from autoprec.probe.compiler import Compiler
from autoprec.probe.device import cores
from autoprec.probe.failures import described
from autoprec.probe.stored import launches_of
from autoprec.types import Config, Storage, Workload

_MAX_WORKERS = 16
_TIMEOUT_S = 60.0
_COMMAND = (sys.executable, "-P", "-m", "autoprec.probe.compile_worker")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One configuration of one kernel and path, to be compiled for a workload and a target.

    Attributes:
        storage: The form of the cache that holds K and V; None: they are as given.
        with_lse: Whether the log-sum-exp is wanted.
    """

    kernel: str
    path: str
    workload: Workload
    config: Config
    target: Target
    storage: Storage | None = None
    with_lse: bool = True


@dataclass(frozen=True, kw_only=True)
class Built:
    """How a task ended.

    Attributes:
        shared_bytes: The most shared memory a block of any of its launches needs.
        reason: Why there is no binary, without a full stop; "" where there is one.
    """

    shared_bytes: int = 0
    reason: str = ""


TASKS = TypeAdapter(Task)
ANSWERS = TypeAdapter(Built)


class CompilePool:
    """Worker processes that fill Triton's cache on disk, so that the parent's launches hit it."""

    def __init__(
        self,
        target: Target,
        *,
        workers: int | None = None,
        timeout_s: float = _TIMEOUT_S,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        """Start no process yet: each is started when there is work for it, or by ``start``.

        Args:
            target: The chip to compile for.
            workers: Processes; None for a core each, up to 16, with one core left to the parent.
            timeout_s: What takes longer is killed.
            command: Starts a worker, which reads tasks and writes answers, one JSON line each.
        """
        self._target = target
        self._timeout_s = timeout_s
        self._command = command
        count = workers or max(1, min(_MAX_WORKERS, cores() - 1))
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="compile")
        self._idle: queue.LifoQueue[Compiler] = queue.LifoQueue()
        self._workers: list[Compiler] = []
        self._closed = False
        self._lock = threading.Lock()  # no worker may start behind close's back
        self._built: dict[Hashable, Future[Built]] = {}
        self._numbers = itertools.count()
        # a heap: what is urgent first, and then what was submitted first
        self._waiting: list[tuple[bool, int, Task, Future[Built]]] = []

    def start(self) -> Self:
        """Start all processes now: until there is work, they load what takes seconds."""
        try:
            for _ in range(self._count):
                self._idle.put(self._started())
        except OSError:
            pass  # whoever needs one tries again, and says why not
        except BaseException:  # Ctrl+C: nobody has the pool yet, to close it
            self.close()
            raise
        return self

    def submit(
        self,
        kernel: Kernel,
        path: str,
        workload: Workload,
        config: Config,
        storage: Storage | None = None,
        *,
        with_lse: bool = True,
        urgent: bool = False,
    ) -> Future[Built]:
        """Have a configuration compiled, after all that was submitted before and is as urgent.

        What Triton would compile to the very same binaries is compiled once.

        Args:
            kernel: Of whose launches.
            path: The precision path.
            workload: What is computed.
            config: The kernel's.
            storage: As of ``Task``.
            with_lse: As of ``Task``.
            urgent: Whether it goes before all that is not urgent and has not begun.
        """
        task = Task(
            kernel=kernel.name, path=path, workload=workload, config=config, target=self._target,
            storage=storage, with_lse=with_lse,
        )  # fmt: skip
        key: Hashable
        try:
            launches = launches_of(kernel, path, workload, config, storage, with_lse=with_lse)
            key = tuple(_specialisation(launch) for launch in launches)
            hash(key)
        except Exception:  # the worker meets it too, and finds the words for it
            key = repr(task)
        if key not in self._built:
            future: Future[Built] = Future()
            with self._lock:
                place = (not urgent, next(self._numbers))
                heapq.heappush(self._waiting, (*place, task, future))
            self._built[key] = future
            self._threads.submit(self._next)
        elif urgent:
            self._hurry(self._built[key])
        return self._built[key]

    def forget(self) -> None:
        """Drop what is waiting, for nobody does: what is submitted next is not behind it."""
        with self._lock:
            for *_, future in self._waiting:
                future.cancel()
        self._built = {key: it for key, it in self._built.items() if not it.cancelled()}

    def close(self) -> None:
        """Drop what is waiting and end every worker."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for *_, future in self._waiting:
                future.cancel()
            for worker in self._workers:  # and then wait for all of them together
                worker.end()
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Self:
        """The pool itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _hurry(self, wanted: Future[Built]) -> None:
        """Have what waits already wait no longer than what is urgent."""
        with self._lock:
            self._waiting = [
                (patient and future is not wanted, number, task, future)
                for patient, number, task, future in self._waiting
            ]
            heapq.heapify(self._waiting)

    def _next(self) -> None:
        """Build what is first of all that waits."""
        with self._lock:
            *_, task, future = heapq.heappop(self._waiting)
        if future.set_running_or_notify_cancel():
            future.set_result(self._build(task))

    def _build(self, task: Task) -> Built:
        try:
            return self._ask_a_worker(task)
        except _StoppedError:
            return Built(reason="the compiling was stopped")
        except Exception as error:  # no process, no room for its files: a row, never an abort
            return Built(reason=f"there is no compiler process: {described(error)}")

    def _started(self) -> Compiler:
        with self._lock:
            if self._closed:
                raise _StoppedError
            worker = Compiler(self._command)
            self._workers.append(worker)
        return worker

    def _ask_a_worker(self, task: Task) -> Built:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = self._started()
        answer = worker.ask(TASKS.dump_json(task) + b"\n", self._timeout_s)
        if isinstance(answer, str):
            return Built(reason=answer)
        self._idle.put(worker)
        return ANSWERS.validate_json(answer)


class _StoppedError(Exception):
    """No process may start any more."""


def _specialisation(launch: Launch) -> Hashable:
    """What Triton compiles a launch for: equal ones give the same binary."""
    parameters = getattr(launch.function, "params", ())
    constexprs = {p.name for p in parameters if p.is_constexpr}
    runtime = {p.name for p in parameters} - constexprs

    def of(name: str, value: Any) -> Hashable:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), value.untyped_storage().nbytes() < 1 << 31
        if hasattr(value, "block_shape"):  # a tensor descriptor
            kind = value.base.dtype, value.block_shape, getattr(value, "layout", ""), value.padding
            return str(kind)
        if name in runtime and type(value) is int:
            return value == 1, value % 16 == 0, -(1 << 31) <= value < 1 << 31
        return type(value).__name__, value

    kinds = tuple(sorted((name, of(name, value)) for name, value in launch.arguments.items()))
    return launch.function.__module__, launch.function.__name__, kinds
