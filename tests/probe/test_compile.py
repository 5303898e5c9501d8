import concurrent.futures
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_kernels import fake, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel, Launch, Target
from autoprec.probe import compile as compiling
from autoprec.probe import device as devices
from autoprec.probe.compile import TASKS, Built, CompilePool, Task
from autoprec.probe.compiler import Compiler
from autoprec.probe.inputs import call_of, draw
from autoprec.types import Config, Dtype, Phase

SM_90 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)

# A worker that does what its task's path says, in as little time as Python takes to start.
WORKER = """
import json, os, sys, time
for line in sys.stdin:
    path = json.loads(line)["path"]
    if path == "hangs":
        time.sleep(60)
    if path == "crashes":
        print("LLVM ERROR: Cannot select", file=sys.stderr, flush=True)
        os.abort()
    if path == "leaves":
        sys.exit(3)
    answer = {"shared_bytes": os.getpid(), "reason": ""}
    if path == "interprets":
        answer["reason"] = repr([os.environ.get(name) for name in (
            "TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES", "KEPT")])
    print(json.dumps(answer), flush=True)
"""


def function(name: str = "f") -> SimpleNamespace:
    """As much of a jit function as is looked at: X is a tensor, n a number, BLOCK a constexpr."""
    params = [SimpleNamespace(name=n, is_constexpr=n.isupper()) for n in ("x", "n", "BLOCK")]
    return SimpleNamespace(__module__="m", __name__=name, params=params)


def launching(path: str = "fine", **arguments: object) -> Kernel:
    def launches(call: Call, path: str, config: Config) -> list[Launch]:
        return [Launch(function(), (1,), {"path": path, "x": call.q, **arguments, **config})]

    kernel = fake("fake", paths=(path,))
    return Kernel(**{**vars(kernel), "launches": launches})


def pool(timeout_s: float = 30, workers: int = 1, code: str = WORKER) -> CompilePool:
    command: Sequence[str] = (sys.executable, "-c", code)
    return CompilePool(SM_90, workers=workers, timeout_s=timeout_s, command=command)


def ask(it: CompilePool, path: str, **config: int) -> Built:
    return it.submit(launching(), path, workload(), dict(config)).result(30)


def test_a_worker_is_kept_for_the_next_task() -> None:
    with pool() as it:
        first, second = ask(it, "fine", n=1), ask(it, "fine", n=16)
    assert first.reason == second.reason == ""
    assert first.shared_bytes == second.shared_bytes  # here: the worker's process number


def test_processes_started_beforehand_are_those_that_work() -> None:
    with pool(workers=2).start() as it:
        first, second = it._workers
        assert {ask(it, "fine", n=n).shared_bytes for n in (1, 16)} <= {
            first._process.pid, second._process.pid
        }  # fmt: skip
        assert it._workers == [first, second]


def test_where_none_can_be_started_the_tasks_say_so() -> None:
    with CompilePool(SM_90, workers=1, command=("/nowhere/python",)).start() as it:
        assert ask(it, "fine").reason.startswith("there is no compiler process")


def test_workers_work_side_by_side() -> None:
    slow = WORKER.replace("for line", "time.sleep(0.5)\nfor line")
    with pool(workers=2, code=slow) as it:
        futures = [it.submit(launching(), "fine", workload(), {"n": n}) for n in (1, 16)]
        assert len({future.result(30).shared_bytes for future in futures}) == 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("crashes", "the compiler died (SIGABRT: LLVM ERROR: Cannot select)"),
        ("leaves", "the compiler died (exit code 3)"),
    ],
)
def test_a_crash_costs_one_row(path: str, reason: str) -> None:
    with pool() as it:
        first = ask(it, "fine")
        assert ask(it, path) == Built(reason=reason)
        again = ask(it, "fine", n=1)
    assert again.reason == ""
    assert again.shared_bytes != first.shared_bytes


def test_a_hang_costs_one_row() -> None:
    with pool(timeout_s=1.5) as it:
        assert ask(it, "hangs") == Built(reason="the compiler did not end within 1.5 s")
        assert ask(it, "fine").reason == ""


def test_a_worker_that_cannot_be_started_is_a_reason() -> None:
    with CompilePool(SM_90, workers=1, command=("/nowhere/python",)) as it:
        assert ask(it, "fine").reason == (
            "there is no compiler process: FileNotFoundError: [Errno 2] No such file or "
            "directory: '/nowhere/python'"
        )


def test_workers_neither_interpret_nor_see_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("KEPT", "yes")
    with pool() as it:
        assert ask(it, "interprets").reason == "[None, '', 'yes']"


def test_what_is_urgent_goes_before_what_waits() -> None:
    built: list[str] = []
    with pool() as it:
        futures = {"slow": it.submit(launching(), "fine", workload(), {"n": 1})}
        for n, name in ((16, "first"), (2, "second")):
            futures[name] = it.submit(launching(), "fine", workload(), {"n": n})
        futures["urgent"] = it.submit(launching(), "other", workload(), {}, urgent=True)
        assert (
            it.submit(launching(), "fine", workload(), {"n": 2}, urgent=True) is (futures["second"])
        )
        for name, future in futures.items():
            future.add_done_callback(lambda _, name=name: built.append(name))  # type: ignore[misc]
        concurrent.futures.wait(futures.values(), 30)
    assert built[1:] == ["second", "urgent", "first"]


def test_what_is_forgotten_is_not_in_the_way() -> None:
    with pool() as it:
        running = it.submit(launching(), "fine", workload(), {"n": 1})
        waiting = [it.submit(launching(), "hangs", workload(), {"n": n}) for n in (2, 16)]
        assert running.result(30).reason == ""
        while not waiting[0].running():
            time.sleep(0.01)
        it.forget()
        assert waiting[1].cancelled()
        it._workers[0].kill()  # as if it had come to an end
        assert ask(it, "fine", n=16).reason == ""
        again = it.submit(launching(), "hangs", workload(), {"n": 16})
        assert again is not waiting[1]
        assert not again.cancelled()


def test_ctrl_c_while_processes_start_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    it = pool(workers=3)
    started = it._started
    begun: list[Compiler] = []

    def interrupted() -> Compiler:
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(started())
        return begun[-1]

    monkeypatch.setattr(it, "_started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        it.start()
    assert [worker._process.poll() for worker in begun] == [-9, -9]


def test_closing_ends_workers_and_drops_what_waits() -> None:
    it = pool()
    running = it.submit(launching(), "hangs", workload(), {})
    waiting = it.submit(launching(), "fine", workload(), {"n": 1})
    while not it._workers:
        time.sleep(0.01)
    start = time.monotonic()
    it.close()
    assert time.monotonic() - start < 10  # and not the 60 s that the worker sleeps
    assert running.result(0).reason == "the compiler died (SIGKILL)"
    assert waiting.cancelled()
    assert it._workers[0]._process.poll() is not None
    assert it._build(task("fine")).reason == "the compiling was stopped"


def task(path: str) -> Task:
    return Task(kernel="k", path=path, workload=workload(), config={"a": 1}, target=SM_90)


def test_a_task_survives_the_wire() -> None:
    assert TASKS.validate_json(TASKS.dump_json(task("bf16"))) == task("bf16")


def specialised(**changes: object) -> object:
    arguments = {"x": torch.empty(4), "n": 32, "BLOCK": 64, "num_warps": 4} | changes
    return compiling._specialisation(Launch(function(), (1,), arguments))


def test_launches_are_told_apart_by_what_triton_specialises_on() -> None:
    assert specialised() == specialised(x=torch.ones(7), n=48)
    different = [
        specialised(),
        specialised(n=1),
        specialised(n=33),
        specialised(n=1 << 40),
        specialised(n=None),
        specialised(BLOCK=128),
        specialised(num_warps=8),
        specialised(x=torch.empty(4, dtype=torch.bfloat16)),
        specialised(x=torch.empty(1 << 30, device="meta")),
        specialised(x=None),
    ]
    assert len(set(different)) == len(different)


def test_tensor_descriptors_are_told_apart_by_their_blocks() -> None:
    def descriptor(block: int, rows: int) -> SimpleNamespace:
        return SimpleNamespace(base=torch.empty(rows, 8), block_shape=[block, 8], padding="zero")

    assert specialised(x=descriptor(4, 64)) == specialised(x=descriptor(4, 128))
    assert specialised(x=descriptor(4, 64)) != specialised(x=descriptor(8, 64))


def test_equal_binaries_are_compiled_once() -> None:
    with pool() as it:
        one = it.submit(launching(n=32), "fine", workload(kv_len=64), {})
        assert it.submit(launching(n=48), "fine", workload(kv_len=128), {}) is one
        assert it.submit(launching(n=48), "other", workload(kv_len=128), {}) is not one
        assert it.submit(launching(n=48), "fine", workload(input_dtype=Dtype.BF16), {}) is not one


def test_a_kernel_that_cannot_plan_is_left_to_the_worker() -> None:
    def broken(call: Call, path: str, config: Config) -> list[Launch]:
        raise ValueError("planless")

    kernel = Kernel(**{**vars(launching()), "launches": broken})
    with pool() as it:
        one, other = (it.submit(kernel, "fine", workload(), {"n": n}) for n in (1, 2))
        assert one is not other
        assert one.result(30).reason == ""


def test_a_real_worker_fills_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = registry.kernel("triton-decode")
    it = workload(phase=Phase.DECODE, kv_len=256)
    config = kernel.configs("bf16", it, SM_90)[0]
    with CompilePool(SM_90, workers=1) as workers:
        built = workers.submit(kernel, "bf16", it, config)
        broken = workers.submit(kernel, "bf16", it, {**config, "num_warps": 3})
        assert built.result(60).reason == ""
        assert 0 < built.result().shared_bytes <= SM_90.shared_bytes
        assert "num_warps" in broken.result(60).reason
        assert "\n" not in broken.result().reason
    assert list(tmp_path.rglob("*.cubin"))


def test_offline_and_real_tensors_give_the_same_binaries(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    # Triton's decorators look at TRITON_INTERPRET when they run, so this needs its own process.
    script = """
        import dataclasses, json
        import torch
        from fake_kernels import workload
        from autoprec import registry
        from autoprec.kernels.interface import Target
        from autoprec.probe.inputs import blank_call, call_of, draw
        from autoprec.probe.offline import compile_launches
        from autoprec.types import Phase

        keys = {}
        for arch, kind in (("sm_90", "cuda"), ("gfx942", "hip")):
            target = Target(kind=kind, arch=arch, shared_bytes=65536, units=100)
            kernel = registry.kernel("triton-decode")
            it = workload(phase=Phase.DECODE, kv_len=256)
            config = kernel.configs("fp16", it, target)[0]
            real = call_of(it, *draw(it, "gauss", 0, torch.device("cpu")))
            keys[arch] = [
                [binary.key for binary in
                 compile_launches(kernel.launches(call, "fp16", config), target)]
                for call in (blank_call(it), real)
            ]
        print(json.dumps(keys))
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    keys = json.loads(done.stdout)
    assert keys["sm_90"][0] == keys["sm_90"][1]
    assert keys["gfx942"][0] == keys["gfx942"][1]
    assert not set(keys["sm_90"][0]) & set(keys["gfx942"][0])


def test_keys_do_not_depend_on_what_a_process_met_before() -> None:
    pytest.importorskip("triton")
    script = """
        import importlib, pkgutil
        import autoprec.kernels
        from triton.runtime.jit import JITFunction

        found = {}
        for module in pkgutil.iter_modules(autoprec.kernels.__path__):
            for it in vars(importlib.import_module(f"autoprec.kernels.{module.name}")).values():
                if isinstance(it, JITFunction):
                    found[f"{it.__module__}.{it.__name__}"] = it

        def keys(order):
            for it in found.values():
                it.hash, it.used_global_vals = None, {}
            return {name: found[name].cache_key for name in order}

        one, other = keys(list(found)), keys(list(found)[::-1])
        assert len(one) > 40
        print([name for name in one if one[name] != other[name]])
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "[]\n"


@pytest.mark.cuda
def test_a_launch_finds_what_a_worker_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    here = devices.resolve("cuda")
    target = devices.target(here)
    for phase, kv_len in ((Phase.DECODE, 272), (Phase.PREFILL, 144)):  # no other test's binaries
        it = workload(phase=phase, kv_len=kv_len, q_len=1 if phase is Phase.DECODE else kv_len)
        kernel = registry.kernel(f"triton-{phase.value}")
        config = kernel.configs("fp16", it, target)[0]
        with CompilePool(target, workers=1) as workers:
            assert workers.submit(kernel, "fp16", it, config).result(60).reason == ""
        compiled = set(tmp_path.rglob("*.cubin"))
        kernel.run(call_of(it, *draw(it, "gauss", 0, here)), "fp16", config)
        torch.cuda.synchronize()
        assert compiled
        assert set(tmp_path.rglob("*.cubin")) == compiled
