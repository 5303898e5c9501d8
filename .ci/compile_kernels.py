"""Compile every Triton kernel for every chip that it claims, without a GPU, and look at the result.

``compile_tasks.py`` says what that is. Checked are shared memory and tensor memory against the
chip's, spilled registers against the kernel's budget below, that products of the path's type are
there, that a launch which overlaps the one before it waits before all else, and where a kernel is
for Hopper alone the order of waits and exponentials (``machine_code.py``).

    python -P .ci/compile_kernels.py [CHIP ...]      exits 1 where something is wrong
"""

import argparse
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from autoprec import registry
from autoprec.kernels import dots, guard
from autoprec.kernels.interface import Call, Launch, PackedMask
from autoprec.paths import PATHS
from autoprec.probe.offline import Compiled
from autoprec.types import Layout, Storage

sys.path.append(str(Path(__file__).parent))  # python -P leaves it out
import machine_code  # noqa: E402
from compile_tasks import CHIPS, Task, target_of, tasks_of, variants_of  # noqa: E402

WORKERS = 2
TIMEOUT_S = 120.0
TENSOR_MEMORY_COLUMNS = 512  # of sm_100

# What a kernel may spill in its first configuration: bytes of a thread's stack, or vector registers
# on AMD. Hopper's does so outside its loops, where that costs little. The path fp32 has no tensor
# cores on NVIDIA: its operands fill the registers, and 16-bit inputs, which are widened there,
# overflow them.
SPILLS = {"triton-prefill": 384, "triton-decode": 384, "hopper-prefill": 32}
SPILLS_FP32 = {"triton-prefill": 7000, "triton-decode": 3500}
# Where requests have lengths of their own, or queries see less: between loops, never inside one.
SPILLS_BETWEEN_LOOPS = {"hopper-prefill": 160}

ATTENTION = ("_forward", "_split")  # the functions that multiply; others convert, or merge


@dataclass(frozen=True)
class Outcome:
    """What a task came to; ``problems`` are sentences."""

    shared_bytes: int = 0
    spills: int = 0
    problems: tuple[str, ...] = ()


def call_for(task: Task) -> tuple[Call, list[Launch]]:
    """The call of a task, of tensors without memory, and what is launched beside it."""
    from autoprec.kernels.kv_cache import append, new_halves
    from autoprec.kernels.states import merge_many, merge_two
    from autoprec.probe.inputs import blank_call

    call = blank_call(task.workload)
    lost = torch.empty(1, dtype=torch.int32, device="meta")
    if task.guarded:
        return replace(call, only_if=lost), beside()
    if task.workload.custom_mask:
        bits = torch.empty(1 << 20, dtype=torch.uint8, device="meta")
        states = torch.empty((8, 3, 4, 128), dtype=call.q.dtype, device="meta")
        lses = torch.empty((8, 3, 4), dtype=torch.float32, device="meta")
        (a, b, _), (s, t, _) = states.unbind(1), lses.unbind(1)
        call = replace(call, mask=PackedMask(bits, lost))
        return call, merge_many(states, lses, a, s) + merge_two(a, s, b, t, a, s, bits[:8])
    if task.storage is not Storage.PLANES:
        return call, []
    assert call.requests is not None
    halves = new_halves(call.k.shape, call.v.shape, call.k.device)
    call = replace(call, k=halves.k[0], v=halves.v[0], halves=halves, lost=lost)
    new_k, new_v = (
        torch.empty(
            (call.batch, x.shape[1], call.max_q_len, x.shape[3]), dtype=call.q.dtype, device="meta"
        )
        for x in (call.k, call.v)
    )
    return call, [append(new_k, new_v, call.k, call.v, call.requests, halves=halves, lost=lost)]


def build(task: Task) -> Outcome:
    """Compile a task and judge the binaries; what the compiler raises is a problem."""
    from autoprec.probe.failures import described
    from autoprec.probe.offline import compile_launches

    kernel = registry.kernel(task.kernel)
    assert kernel.launches is not None
    try:
        call, others = call_for(task)
        launches = [*others, *kernel.launches(call, task.path, task.config)]
        compiled = compile_launches(launches, target_of(task.chip))
    except Exception as error:
        return Outcome(problems=(described(error),))
    shared = max(binary.shared_bytes for binary in compiled)
    problems: list[str] = []
    if task.first and shared > CHIPS[task.chip][0]:
        problems.append(f"{shared} bytes of shared memory, the chip has {CHIPS[task.chip][0]}")
    spills = 0
    for launch, binary, behind in zip(launches, compiled, [*compiled[1:], None], strict=True):
        columns = getattr(binary.kernel.metadata, "tmem_size", None) or 0
        if columns > TENSOR_MEMORY_COLUMNS:
            problems.append(f"{columns} columns of tensor memory, there are 512")
        name = launch.function.__name__
        multiplies = name in ATTENTION
        operand = PATHS[task.path].operand if multiplies else None
        count, found = machine_code.judge(binary.kernel.asm, operand)
        if multiplies and kernel.device == "hopper":
            found += machine_code.loop_problems(binary.kernel.asm["cubin"])
            found += machine_code.barrier_problems(binary.kernel.asm["ttgir"])
        elif multiplies and task.chip == "sm_90":
            ahead = "ahead" in task.config
            found += machine_code.order_problems(binary.kernel.asm["cubin"], ahead=ahead)
        if "ptx" in binary.kernel.asm:
            tells, waits = overlaps(behind), overlaps(binary)
            found += machine_code.overlap_problems(
                binary.kernel.asm["ptx"], tells=tells, waits=waits
            )
        spills = max(spills, count)
        problems += [f"{name} {problem}" for problem in found]
    if task.first and spills > budget_of(task):
        problems.append(f"{spills} spills, {budget_of(task)} are allowed")
    return Outcome(shared, spills, tuple(problems))


def overlaps(binary: Compiled | None) -> bool:
    """Whether a launch begins before the one before it has ended."""
    return binary is not None and bool(getattr(binary.kernel.metadata, "launch_pdl", False))


def budget_of(task: Task) -> int:
    """What a task's kernel may spill."""
    workload = task.workload
    plain = (workload.layout, workload.window, workload.soft_cap) == (Layout.CONTIGUOUS, None, None)
    if not plain and task.kernel in SPILLS_BETWEEN_LOOPS:
        return SPILLS_BETWEEN_LOOPS[task.kernel]
    return (SPILLS_FP32 if task.path == "fp32" else SPILLS).get(task.kernel, 0)


def beside() -> list[Launch]:
    """What guards and the fingerprint launch beside kernels."""

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    slot, totals = meta(18, dtype=torch.int32), meta(2, dtype=torch.int32)
    tiles = (meta(4, 64, 32), meta(4, 32, 16), meta(4, 64, 16), meta(4, 64, 16))
    return [
        guard.spread(meta(1, 8, 100, 128, dtype=torch.float16), slot),
        guard.settle(slot, totals, 8, 1),
        guard.collect(meta(256, 4, dtype=torch.int32)),
        *(dots.product(*tiles, operand) for operand in ("fp32", "tf32", "bf16", "fp16")),
    ]


def work(connection: Connection) -> None:
    """Answer tasks until none comes."""
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(build(task))


class Worker:
    """A process that builds; a compiler that crashes or hangs takes this process and no other."""

    def __init__(self) -> None:
        """Start no process yet."""
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def ask(self, task: Task) -> Outcome:
        """Build a task within TIMEOUT_S."""
        if self._process is None or self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._connection.send(task)
            if self._connection.poll(TIMEOUT_S):
                outcome: Outcome = self._connection.recv()
                return outcome
            problem = f"the compiler did not end within {TIMEOUT_S:g} s"
        except (EOFError, OSError):
            self._process.join(10)
            problem = f"the compiler died with exit code {self._process.exitcode}"
        self._process.kill()
        self._process = self._connection = None
        return Outcome(problems=(problem,))


def build_all(tasks: list[Task]) -> dict[int, Outcome]:
    """The outcome of each task, by its place in the list."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(tasks)):
        waiting.put(place)
    outcomes: dict[int, Outcome] = {}

    def consume() -> None:
        worker = Worker()
        while True:
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            outcomes[place] = worker.ask(tasks[place])

    threads = [threading.Thread(target=consume) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def report(tasks: list[Task], outcomes: dict[int, Outcome]) -> bool:
    """Print a line for each kernel and chip, and each problem; whether there is none."""
    failed = 0
    for key in dict.fromkeys((task.kernel, task.chip) for task in tasks):
        places = [i for i, task in enumerate(tasks) if (task.kernel, task.chip) == key]
        firsts = [i for i in places if tasks[i].first]
        shared = max(outcomes[i].shared_bytes for i in firsts)
        spills = max(outcomes[i].spills for i in firsts if tasks[i].path != "fp32")
        spills_fp32 = max(
            (outcomes[i].spills for i in firsts if tasks[i].path == "fp32"), default=0
        )
        broken = [i for i in places if outcomes[i].problems]
        failed += len(broken)
        verdict = f"{len(broken)} FAILED" if broken else "ok"
        print(
            f"{key[0]:15} {key[1]:7} {len(places):3} compiled  shared {shared:6} of "
            f"{CHIPS[key[1]][0]:6}  spills {spills:3}, fp32 {spills_fp32:4}  {verdict}"
        )
        for i in broken:
            for problem in outcomes[i].problems:
                print(f"  {tasks[i]}: {problem}")
    print(f"{len(tasks)} configurations, {failed} failed")
    return not failed


def main() -> None:
    """Compile for the chips named, or for all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("chips", nargs="*", choices=[[], *CHIPS], metavar="CHIP", default=[])
    chips = parser.parse_args().chips or list(CHIPS)
    if registry.broken_modules():
        sys.exit("\n".join(registry.broken_modules().values()))
    os.environ.pop("TRITON_INTERPRET", None)
    started = time.monotonic()
    tasks = [
        task
        for chip in chips
        for kernel in registry.kernels()
        if chip in kernel.architectures
        for task in (*tasks_of(kernel, chip), *variants_of(kernel, chip))
    ]
    unknown = {a for kernel in registry.kernels() for a in kernel.architectures} - set(CHIPS)
    if unknown:
        sys.exit(f"nothing is known here of {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        outcomes = build_all(tasks)
    fine = report(tasks, outcomes)
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
