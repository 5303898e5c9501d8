"""Launches run again are those of before, on other tensors; what cannot be is left to Triton."""

import ctypes
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor

from autoprec.kernels import launches
from autoprec.kernels.interface import Launch
from autoprec.kernels.launches import bind


class Compiled:
    """Stands for a compiled kernel: what it is launched with is kept."""

    function = 77
    packed_metadata = (1, 2)

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def run(self, *arguments: Any) -> None:
        self.launched.append(arguments)
        self.meanwhile()

    @property
    def last(self) -> tuple[Any, ...]:
        """The kernel's own arguments of the last launch."""
        return self.launched[-1][9:]


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


def launch(function: Function, temporary: str = "", zeroed: str = "", **arguments: Any) -> Launch:
    """A launch; a letter is the name of an argument."""
    return Launch(function, (3, 2), {**arguments, "num_warps": 4}, tuple(temporary), tuple(zeroed))


def plain(x: Tensor) -> Any:
    return TensorDescriptor.from_tensor(x, [16, 16], padding="nan")


def gluon(x: Tensor) -> Any:
    layout = gl.NVMMASharedLayout.get_default_for([16, 32], gl.float16)
    return GluonDescriptor.from_tensor(x, [16, 32], layout)


def rows(count: int = 64) -> Tensor:
    return torch.zeros(count, 64, dtype=torch.float16)


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


REASONS = ("foreign", "alike", "missing", "object", "no kernel", "hook", "described", "around two",
           "with gaps")  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
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
    if reason == "object":
        arguments["N"] = object()
    if reason == "described":  # memory of this one call too
        arguments["N"] = plain(rows())
    if reason == "around two":  # it may be meant for either
        tensors, arguments["N"] = [x, x[2:], y], x[4:]
    if reason == "with gaps":  # what lies within may belong to another
        packed = torch.zeros(2, 3, 8)
        arguments["X"], arguments["N"] = packed[:, 0], packed[:, 1]
        tensors = [packed[:, 0], y]
    if reason == "no kernel":  # as of the interpreter
        function.compiled = None  # type: ignore[assignment]
    if reason == "hook":
        monkeypatch.setattr(launches, "_watched", lambda: True)
    assert bind([launch(function, **arguments)], tensors, []) is None
    assert function.calls == 1


@pytest.mark.parametrize("describe", [plain, gluon])
def test_descriptors_are_made_over_new_addresses(describe: Callable[[Tensor], Any]) -> None:
    x, y, space = rows(), rows(), rows()
    function = Function("D", "I", "C", "E")
    given = {"D": describe(x[None].flatten(0, 1)), "I": describe(x[16:48]),
             "C": describe(space[8:]), "E": describe(y)}  # fmt: skip
    bound = bind([launch(function, **given)], [x, y], [space])
    assert bound is not None
    gone = weakref.ref(x.untyped_storage())
    a, b = rows(), rows()
    assert bound.run([a, b], 9)
    want = (describe(a), describe(a[16:48]), describe(space[8:]), describe(b))
    for got, wanted in zip(function.compiled.last, want, strict=True):
        assert type(got) is type(wanted)
        assert got.base.data_ptr() == wanted.base.data_ptr()
        assert vars(got) | {"base": None} == vars(wanted) | {"base": None}
    del x, given, want, wanted
    assert gone() is None


@pytest.mark.parametrize("describe", [plain, gluon])
@pytest.mark.parametrize("on_device", [True, False], ids=["filled", "spelled out"])
def test_tritons_launcher_reads_them_as_it_does_its_own(
    describe: Callable[[Tensor], Any], on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    fill = lambda *arguments: ("filled", *arguments)  # noqa: E731
    utils = SimpleNamespace(fill_tma_descriptor=fill, fill_tma_descriptor_tiled=fill)
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(utils=utils))
    x, other = rows(), rows(32)[:16]
    function = Function("D")
    bound = bind([launch(function, D=describe(other))], [other], [])
    assert bound is not None
    assert bound.run([x[16:32]], 0)
    metadata = {"swizzle": 3, "elem_size": 2, "elem_type": 6, "block_size": [16, 32],
                "fp4_padded": False}  # fmt: skip
    got, want = (
        driver.make_tensordesc_arg(it, metadata if on_device else None)
        for it in (function.compiled.last[0], describe(x[16:32]))
    )
    if not on_device:  # which the launcher asks for its address
        got[0], want[0] = got[0].data_ptr(), want[0].data_ptr()
    assert got == want


def test_launches_share_memory_that_each_run_takes_anew() -> None:
    x, made, few = rows(), rows(2048), torch.zeros(8)  # made has a room of its own, few has not
    fills, reads = Function("X", "Y", "F", "N"), Function("D", "Z", "F", "G")
    first = launch(fills, "YFN", X=x, Y=made, F=few, N=None)
    second = launch(reads, "G", D=plain(made[32:]), Z=made[1], F=few[2:], G=torch.zeros(3))
    bound = bind([first, second], [x], [])
    assert bound is not None
    gone = weakref.ref(made.untyped_storage())
    del made, first, second
    assert gone() is None
    began = []

    def meanwhile() -> None:
        """Another run begins before this one has launched all that it has."""
        began.append(fills.compiled.last)
        fills.compiled.meanwhile = lambda: None
        assert bound.run([x], 1)

    fills.compiled.meanwhile = meanwhile
    assert bound.run([x], 0)
    ran = [began[0], reads.compiled.launched[1][9:], fills.compiled.last,
           reads.compiled.launched[0][9:]]  # fmt: skip
    used = []
    for (_, y, f, n), (d, z, within, g) in ((ran[0], ran[1]), (ran[2], ran[3])):
        assert n is None
        assert d.base.data_ptr() - y == 32 * 128
        assert z - y == 128
        assert within - f == 8
        assert y % 16 == f % 16 == g % 16 == 0
        used += [(y, y + 2048 * 128), (f, f + 32), (g, g + 12)]
    used.sort()
    for (_, end), (begin, _) in zip(used, used[1:], strict=False):
        assert end <= begin  # nothing lies in the memory of another, or of the other run


def test_what_must_be_zero_is_so_for_each_run() -> None:
    x, counter, other = rows(), torch.zeros(3, dtype=torch.int32), torch.zeros(5)
    function = Function("N", "M")
    bound = bind([launch(function, "NM", "N", N=counter, M=other)], [x], [])
    assert bound is not None
    found = []

    def meanwhile() -> None:
        address = function.compiled.last[0]
        found.append(ctypes.string_at(address, 12))
        ctypes.memset(address, 7, 12)  # so it is given back

    function.compiled.meanwhile = meanwhile
    for _ in range(50):
        assert bound.run([x], 0)
    assert found == [bytes(12)] * 50
    assert [room.zeroed for room in bound.rooms] == [True, False]


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
