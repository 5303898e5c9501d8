"""Compiling the kernels of many calls at once, before any of them is launched."""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from autoprec.kernels.interface import Call
from autoprec.plan import execute
from autoprec.plan.decision import Decision
from autoprec.probe.device import cores

_MOST_THREADS = 16


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """Have calls compile what they would launch, on all cores, and launch nothing.

    Their results are whatever memory held. What they compile is there when the ``with`` ends.
    """
    from triton import AsyncCompileMode
    from triton.runtime.jit import KernelInterface

    threads = ThreadPoolExecutor(min(_MOST_THREADS, cores()))
    with pytest.MonkeyPatch.context() as patch, threads, AsyncCompileMode(threads):
        patch.setattr(KernelInterface, "__getitem__", _compiled)
        patch.setattr(execute, "_bind", _unbound)
        yield


def _compiled(function: Any, grid: tuple[int, ...]) -> functools.partial[Any]:
    return functools.partial(function.warmup, grid=grid)


def _unbound(decision: Decision, call: Call) -> None:
    """Run a call as is: what is still being compiled has nothing to bind."""
    decision.kernel.run(call, decision.path, decision.config)
