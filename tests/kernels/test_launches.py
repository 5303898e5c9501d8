"""Launches run again are those of before, on other tensors; what cannot be is left to Triton."""

import weakref
from typing import Any

import pytest
import torch

from autoprec.kernels import launches
from autoprec.kernels.interface import Launch
from autoprec.kernels.launches import bind


class Compiled:
    """Stands for a compiled kernel: what it is launched with is kept."""

    function = 77
    packed_metadata = (1, 2)

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []

    def run(self, *arguments: Any) -> None:
        self.launched.append(arguments)


class Function:
    """Stands for a jit function of these arguments."""

    def __init__(self, *names: str) -> None:
        self.arg_names = list(names)
        self.compiled = Compiled()
        self.calls = 0

    def __getitem__(self, grid: Any) -> Any:
        def launch(**arguments: Any) -> Compiled:
            self.calls += 1
            return self.compiled

        return launch


def launch(function: Function, **arguments: Any) -> Launch:
    return Launch(function, (3, 2), {**arguments, "num_warps": 4})


def test_addresses_are_new_and_all_else_is_as_it_was() -> None:
    x, y, space = torch.zeros(8), torch.zeros(8), torch.zeros(64)
    function = Function("N", "X", "M", "Y", "BLOCK", "Z")
    first = launch(function, X=x, Y=y, M=space[16:], N=5, BLOCK=16, Z=None)
    bound = bind([first], [x, y, None], [space])
    assert bound is not None
    assert function.calls == 1
    a, b = torch.zeros(8), torch.zeros(8)
    assert bound.run([a, b, None], 9)
    assert function.calls == 1
    assert function.compiled.launched == [
        (3, 2, 1, 9, 77, (1, 2), None, None, None,
         5, a.data_ptr(), space[16:].data_ptr(), b.data_ptr(), 16, None),
    ]  # fmt: skip


def test_memory_that_is_not_replaced_is_not_held() -> None:
    x, space = torch.zeros(8), torch.zeros(64)
    function = Function("X", "M")
    bound = bind([launch(function, X=x, M=space[16:])], [x], [space])
    gone = weakref.ref(space.untyped_storage())
    address = space[16:].data_ptr()
    del space
    assert gone() is None
    assert bound is not None
    assert bound.run([x], 9)  # the caller has memory there again
    assert function.compiled.launched[0][-2:] == (x.data_ptr(), address)


@pytest.mark.parametrize("reason", ["foreign", "alike", "missing", "object", "no kernel", "hook"])
def test_what_cannot_be_run_again_runs_once(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(8), torch.zeros(8)
    function = Function("X", "Y", "N")
    arguments: dict[str, Any] = {"X": x, "Y": y, "N": 1}
    tensors = [x, y]
    if reason == "foreign":  # memory of this one call
        arguments["Y"] = torch.zeros(8)
    if reason == "alike":  # they may be apart the next time
        tensors = [x, x]
    if reason == "missing":
        del arguments["N"]
    if reason == "object":  # such as a descriptor of a tensor
        arguments["N"] = object()
    if reason == "no kernel":  # as of the interpreter
        function.compiled = None  # type: ignore[assignment]
    if reason == "hook":
        monkeypatch.setattr(launches, "_watched", lambda: True)
    assert bind([launch(function, **arguments)], tensors, []) is None
    assert function.calls == 1


def test_a_profiler_that_comes_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(8)
    function = Function("X")
    bound = bind([launch(function, X=x)], [x], [])
    assert bound is not None
    monkeypatch.setattr(launches, "_watched", lambda: True)
    assert not bound.run([x], 0)
    assert function.compiled.launched == []


def test_a_chain_of_no_hooks_is_none() -> None:
    class Chain:
        calls: list[Any] = []

    chain = Chain()
    assert not launches._has_calls(None)
    assert not launches._has_calls(chain)
    chain.calls = [print]
    assert launches._has_calls(chain)
    assert launches._has_calls(print)
    assert not launches._watched()
