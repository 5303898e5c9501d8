"""Thousands of launches of a prefill kernel, of sizes at random, on several streams at once.

A kernel whose programs wait for one another may hang where it does so on few launches of many. That
cannot be caught from within, so a storm on a GPU runs in a process of its own, which ``watched``
ends.
"""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bounds
import kernel_cases
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, Target, converts, run_launches
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype

HEADS, DIM, BATCH = (16, 4), 64, 2
_ROWS = 32  # of a result that is checked
_UNTOUCHED = -77.0


@dataclass(frozen=True)
class Size:
    """How large a storm is.

    Attributes:
        launches: Calls of the kernel.
        longest: Queries, or keys, of most calls; of one in 50 the keys are three times as many.
        every: Of so many calls one is checked, beside the last of each stream.
    """

    launches: int
    longest: int
    every: int
    streams: int


ON_A_GPU = Size(launches=1700, longest=1500, every=100, streams=4)  # six paths: 10,000


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a kernel is compiled for anew: all else is drawn for each call."""

    causal: bool
    counted: bool = False
    guarded: bool = False
    prepared: bool = False
    with_lse: bool = True


def variants(path: str, inputs: Dtype) -> list[Variant]:
    """In which every two of what may be asked meet, but for what a path does not have."""
    found = [
        Variant(causal=True, counted=True, guarded=True),
        Variant(causal=False, guarded=True, with_lse=False),
        Variant(causal=True, with_lse=False),
    ]
    if converts(path, inputs):
        found += [
            Variant(causal=False, counted=True, prepared=True),
            Variant(causal=True, prepared=True),
        ]
    return found


@dataclass
class _Stream:
    """What belongs to one of the streams."""

    entered: Callable[[], AbstractContextManager[Any]]
    lost: Tensor
    wrong: Tensor  # calls that wrote where they should not, or not where they should
    last: Call | None = None


@dataclass
class Storm:
    """A kernel and path, and what its calls read."""

    row: Kernel
    path: str
    inputs: Dtype
    device: str
    size: Size
    seed: int = 0
    checks: int = 0
    q: Tensor = field(init=False)
    k: Tensor = field(init=False)
    v: Tensor = field(init=False)
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        """Draw queries, keys and values, of which calls read parts."""
        self.target = kernel_cases.target(self.row, self.device)
        draw = torch.Generator(self.device).manual_seed(self.seed)
        longest = self.size.longest

        def drawn(heads: int, tokens: int) -> Tensor:
            x = torch.randn((BATCH, heads, tokens, DIM), generator=draw, device=self.device)
            return x.to(TORCH_DTYPES[self.inputs])

        self.q = drawn(HEADS[0], longest)
        self.k, self.v = drawn(HEADS[1], 3 * longest), drawn(HEADS[1], 3 * longest)

    def run(self) -> None:
        """Launch, and check some of the results and the last of each stream.

        Raises:
            AssertionError: One is wrong.
        """
        draw = random.Random(self.seed)
        streams = self._streams()
        one, zero = (torch.full((1,), n, dtype=torch.int32, device=self.device) for n in (1, 0))
        kinds = variants(self.path, self.inputs)
        self._wait()  # what was drawn is there for every stream
        for number in range(self.size.launches):
            stream, kind = draw.choice(streams), draw.choice(kinds)
            runs = not kind.guarded or draw.random() < 0.5
            with stream.entered():
                call = self._call(kind, draw, stream.lost)
                if kind.guarded:
                    call = replace(call, only_if=one if runs else zero)
                if kind.prepared:
                    call = self._with_planes(call)
                self.row.run(call, self.path, self._config(call))
                stream.wrong += _wrong(call.out, runs)
            if runs:
                stream.last = call
            if runs and number % self.size.every == 0:
                self._wait()
                self._check(call, draw)
        self._wait()
        for stream in streams:
            if stream.last is not None:
                self._check(stream.last, draw)
            assert int(stream.wrong) == 0, "a call has written too much, too little, or no numbers"
            assert int(stream.lost) == 0, "N(0, 1) has lost to fp16's range"

    def _streams(self) -> list[_Stream]:
        def stream() -> _Stream:
            entered: Callable[[], AbstractContextManager[Any]] = nullcontext
            if self.device == "cuda":
                own = torch.cuda.Stream()
                entered = lambda: torch.cuda.stream(own)  # noqa: E731
            lost, wrong = torch.zeros((2, 1), dtype=torch.int32, device=self.device)
            return _Stream(entered, lost, wrong)

        return [stream() for _ in range(self.size.streams)]

    def _call(self, kind: Variant, draw: random.Random, lost: Tensor) -> Call:
        """A call of a kind, of any size."""
        batch, longest = draw.randint(1, BATCH), self.size.longest
        edges = [n for n in (1, 63, 64, 65, 127, 128, 129, 256, 257) if n <= longest]
        q_len, kv_len = (draw.choice([draw.choice(edges), draw.randint(1, longest)]) for _ in "qk")
        if draw.random() < 0.02:
            kv_len = draw.randint(longest, 3 * longest)
        diagonal = None
        if kind.causal:
            diagonal = draw.choice([kv_len - q_len, 0, draw.randint(-q_len, kv_len)])
        q, k, v = self.q[:batch, :, :q_len], self.k[:batch, :, :kv_len], self.v[:batch, :, :kv_len]
        return Call(
            q=q, k=k, v=v, out=torch.full_like(q, _UNTOUCHED, dtype=torch.float32),
            lse=torch.full(q.shape[:3], _UNTOUCHED, device=q.device) if kind.with_lse else None,
            diagonal=diagonal, sm_scale=DIM**-0.5, lost=lost if kind.counted else None,
        )  # fmt: skip

    def _config(self, call: Call) -> Config:
        case = {"lengths": (call.q.shape[2], call.k.shape[2]), "heads": HEADS, "dims": (DIM, DIM),
                "input": self.inputs, "out": Dtype.FP32}  # fmt: skip
        workload = kernel_cases.workload(self.row, case)
        return self.row.configs(self.path, workload, self.target)[0]

    def _with_planes(self, call: Call) -> Call:
        assert self.row.prepare is not None
        planes = self.row.prepare(call.k, call.v, self.path, self._config(call), call.lost)
        run_launches(planes.launches)
        return replace(call, prepared=replace(planes, launches=[]))

    def _check(self, call: Call, draw: random.Random) -> None:
        self.checks += 1
        rows = draw.sample(range(call.q.shape[2]), min(_ROWS, call.q.shape[2]))
        chosen = torch.tensor(sorted(rows), device=call.q.device)
        want = bounds.expected(
            call, self.path, self.row, tensor_cores=call.q.is_cuda, rows=chosen
        )  # fmt: skip
        bounds.check(call, want)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _wrong(out: Tensor, ran: bool) -> Tensor:
    """Whether elements are as they were, of a call that ran, or another than that, of others."""
    if ran:
        return ((out == _UNTOUCHED) | ~out.isfinite()).any()
    return (out != _UNTOUCHED).any()


def inputs_of(row: Kernel, path: str) -> Dtype:
    """What a storm hands a kernel: the widest type that the path takes."""
    return next(dtype for dtype in PATHS[path].inputs if dtype in row.input_dtypes)


def on_a_gpu(name: str, path: str) -> None:
    """A whole storm, for a process of its own; see ``watched``."""
    row = registry.kernel(name)
    storm = Storm(row, path, inputs_of(row, path), "cuda", ON_A_GPU)
    storm.run()
    print(f"{ON_A_GPU.launches} launches, {storm.checks} results checked")


def watched(code: str, timeout_s: float) -> str:
    """What a process prints that runs this code, with the tests' modules to import.

    Raises:
        AssertionError: It failed, or did not end in time; it is then ended.
    """
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"{path}; {code}"],
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"it did not end within {timeout_s:g} s: {code}") from error
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout
