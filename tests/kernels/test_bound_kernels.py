"""Every kernel's launches, run again on another call, are handed what Triton would be handed."""

from dataclasses import replace
from typing import Any

import kernel_cases
import pytest
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, Launch, Requests, Target
from autoprec.kernels.launches import bind
from autoprec.paths import PATHS
from autoprec.plan.execute import _fixed, _varying
from autoprec.types import Config, Dtype, Layout, Phase

TARGET = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
ROWS = [row for row in registry.kernels() if row.launches is not None]
BATCH, HEADS, DIM = 2, (4, 2), 64


class Compiled:
    """Stands for a jit function and for what it is compiled to: what that is handed is kept."""

    function, packed_metadata = 1, ()

    def __init__(self, function: Any) -> None:
        self.arg_names = function.arg_names
        self.handed: list[Any] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda **arguments: self

    def run(self, *arguments: Any) -> None:
        self.handed = list(arguments[9:])


def drawn(dtype: Dtype, lengths: tuple[int, int], kind: str) -> Call:
    """A call on new tensors."""
    batch, (q_len, kv_len) = BATCH, lengths
    if kind == "ragged":  # one after the other
        batch, q_len, kv_len = 1, BATCH * q_len, BATCH * kv_len
    q, k, v = (
        torch.randn(batch, HEADS[i > 0], (q_len, kv_len)[i > 0], DIM).to(TORCH_DTYPES[dtype])
        for i in range(3)
    )
    one = torch.ones(8, dtype=torch.int32)
    counted: dict[str, Any] = {"lost": one[:1], "only_if": one[4:5]} if kind == "guarded" else {}
    lse = None if kind == "plain" else torch.empty(q.shape[:3])
    return Call(q=q, k=k, v=v, out=torch.empty_like(q), lse=lse, sm_scale=0.125,
                diagonal=0 if kind == "ragged" else kv_len - q_len, **counted)  # fmt: skip


def ragged(lengths: tuple[int, int]) -> Requests:
    q_starts, kv_starts = (
        torch.arange(BATCH + 1, dtype=torch.int32) * length for length in lengths
    )
    return Requests(kv_lens=kv_starts.diff(), kv_starts=kv_starts, q_starts=q_starts,
                    max_q_len=lengths[0], max_kv_len=lengths[1])  # fmt: skip


def case(row: Kernel, path: str, dtype: Dtype) -> tuple[tuple[int, int], Config]:
    """Lengths of queries and keys, and a configuration."""
    lengths = (1, 300) if row.phases == (Phase.DECODE,) else (70, 300)
    shapes = {"lengths": lengths, "heads": HEADS, "dims": (DIM, DIM), "input": dtype, "out": dtype}
    return lengths, row.configs(path, kernel_cases.workload(row, shapes), TARGET)[0]


def planned(row: Kernel, call: Call, path: str, config: Config) -> list[Launch]:
    assert row.launches is not None
    return row.launches(call, path, config)


def storages(launches: list[Launch]) -> list[range]:
    """Where what launches name as temporary lies."""
    named = [launch.arguments[name] for launch in launches for name in launch.temporary]
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for x in named if isinstance(x, Tensor)}  # fmt: skip
    return [range(first, first + nbytes) for first, nbytes in kept.items()]


def where(value: Any) -> tuple[Any, int | None]:
    """An argument but for its address, and that."""
    if isinstance(value, Tensor):
        return "address", value.data_ptr()
    if hasattr(value, "base"):
        fields = {name: it for name, it in vars(value).items() if name != "base"}
        return (type(value), fields), value.base.data_ptr()
    return value, None


def cases() -> list[Any]:
    found = []
    for row in ROWS:
        for path in row.paths:
            for dtype in (it for it in row.input_dtypes if it in PATHS[path].inputs):
                kinds = ["plain", "guarded"]
                if row.prepare is not None and row.converts(path, dtype):
                    kinds.append("prepared")
                if Layout.RAGGED in row.layouts:
                    kinds.append("ragged")
                name = f"{row.name}-{path}-{dtype}"
                found += [pytest.param(row, path, dtype, it, id=f"{name}-{it}") for it in kinds]
    return found


def calls_of(row: Kernel, path: str, dtype: Dtype, kind: str = "plain") -> list[Call]:
    """Two calls that run the same launches."""
    lengths, config = case(row, path, dtype)
    calls = [drawn(dtype, lengths, kind) for _ in range(2)]
    if kind == "ragged":  # which stay where they are
        requests = ragged(lengths)
        calls = [replace(call, requests=requests) for call in calls]
    space = torch.empty(row.workspace(calls[0], path, config))
    if kind == "prepared":
        assert row.prepare is not None
        made = [row.prepare(it.k, it.v, path, config) for it in calls]
        calls = [replace(call, prepared=replace(it, launches=[]))
                 for call, it in zip(calls, made, strict=True)]  # fmt: skip
    return [replace(call, workspace=space) for call in calls]


def handed(first: list[Launch], calls: list[Call]) -> list[dict[str, Any]]:
    """What the launches of the first call, run again on the second one, are handed, by name."""
    stubs = [Compiled(launch.function) for launch in first]
    stubbed = [replace(launch, function=stub) for launch, stub in zip(first, stubs, strict=True)]
    bound = bind(stubbed, _varying(calls[0]), _fixed(calls[0]))
    assert bound is not None
    assert bound.run(_varying(calls[1]), 0)
    return [dict(zip(stub.arg_names, stub.handed, strict=True)) for stub in stubs]


@pytest.mark.parametrize(("row", "path", "dtype", "kind"), cases())
def test_other_tensors(row: Kernel, path: str, dtype: Dtype, kind: str) -> None:
    calls, config = calls_of(row, path, dtype, kind), case(row, path, dtype)[1]
    first, second = (planned(row, call, path, config) for call in calls)
    there, here = storages(second), dict[int, int]()
    for launch, got in zip(second, handed(first, calls), strict=True):
        for name, value in got.items():
            (kept, address), (kept_too, found) = where(launch.arguments[name]), where(value)
            if address is None:
                assert value == launch.arguments[name], name
                continue
            if kept != "address":
                assert kept == kept_too, name
            found = value if found is None else found
            number = next((i for i, it in enumerate(there) if address in it), None)
            if number is None:
                assert found == address, name
            else:  # all that lies in one temporary does so still
                start = found - (address - there[number].start)
                assert here.setdefault(number, start) == start, name
    assert len(set(here.values())) == len(there)


@pytest.mark.parametrize("programs", [1, 132])
def test_the_counter_is_zeroed_where_it_counts(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill_hopper = pytest.importorskip("autoprec.kernels.prefill_hopper")
    monkeypatch.setattr(prefill_hopper, "_multiprocessors", lambda device: programs)
    row = registry.kernel("hopper-prefill")
    call = calls_of(row, "bf16", Dtype.BF16)[0]
    (launch,) = planned(row, call, "bf16", case(row, "bf16", Dtype.BF16)[1])
    assert launch.temporary == ("NEXT",)
    assert launch.zeroed == (("NEXT",) if programs == 1 else ())
