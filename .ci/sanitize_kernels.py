"""Run every family of kernels under NVIDIA's compute-sanitizer: memory out of bounds, and races.

Triton hands warps their part of a warp-specialized kernel in a byte of shared memory, with barriers
before and after. Of Hopper's kernel racecheck reports that byte all the same, and of a small kernel
of two parts it does not; why is not known. Reports on those lines alone are passed over.

First the families run as they are, which compiles them and compares their results. Then each runs
under memcheck and under racecheck, with memory that is allocated tensor by tensor; and so do two
kernels with errors, which the tools must find.

    python -P .ci/sanitize_kernels.py      exits 1 where something is found, or was not looked for

The tool comes with CUDA, or by ``pip install nvidia-cuda-sanitizer-api`` in the version of the
driver; COMPUTE_SANITIZER says where it is. Where there is none, that is said, and it exits 0.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FAMILIES = ("prefill", "decode", "hopper", "append", "guards")
PLANTED = {"memcheck": "beyond", "racecheck": "race"}

AT_ONCE = 6
TIMEOUT_S = 180.0
FOUND = 86  # what compute-sanitizer exits with where it finds something
PORT, PORTS = 49152, 32  # by which the tool talks to what it runs; so many for each

_HANDS_OVER = Path(__file__).parent.parent / "kernels" / "hopper" / "program.py"
_WORK = Path(__file__).parent / "kernel_families.py"
_OURS = "regex=^_[a-z_]+$"  # names of jit functions; those of PyTorch's kernels are mangled


@dataclass(frozen=True)
class Task:
    """A family to run: as it is, or under a tool."""

    family: str
    tool: str | None = None

    @property
    def planted(self) -> bool:
        """Whether the tool must find something."""
        return self.family in PLANTED.values()

    def __str__(self) -> str:
        """Such as ``racecheck decode``."""
        return f"{self.tool or 'results'} {self.family}"


def compute_sanitizer() -> str | None:
    """Where the tool is; None for nowhere."""
    asked = os.environ.get("COMPUTE_SANITIZER")
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    places: Iterator[Path] = (
        path
        for folder, pattern in (
            (Path("/usr/local"), "cuda*/bin/compute-sanitizer"),
            (packages, "*/bin/compute-sanitizer"),
        )
        for path in sorted(folder.glob(pattern))
    )
    for place in (asked, shutil.which("compute-sanitizer"), *map(str, places)):
        if place and os.access(place, os.X_OK):
            return place
    return None


def command(task: Task, tool: str, port: int) -> list[str]:
    """What runs a task."""
    work = [sys.executable, "-P", str(_WORK), task.family]
    if task.tool is None:
        return [*work, "--checked"]
    return [
        tool, "--tool", task.tool, "--error-exitcode", str(FOUND), "--kernel-name", _OURS,
        "--target-processes", "application-only", "--report-api-errors", "no",
        "--print-limit", "100", "--port", str(port), *work,
    ]  # fmt: skip


def handed_over(text: str) -> int:
    """How many of racecheck's reports are of Triton's own hand-over to warps, by their lines."""
    lines = _HANDS_OVER.read_text().splitlines()
    hands_over = [n for n, line in enumerate(lines, 1) if "gl.warp_specialize(" in line]
    own = {*hands_over, *(n - 1 for n in hands_over)}  # or where its branch begins
    own |= {n for n, line in enumerate(lines, 1) if line.startswith(("@gluon.jit", "def _forward"))}
    place = re.compile(rf"access at _forward\S* in {_HANDS_OVER.name}:(\d+)")
    count = 0
    for report in text.split("Race reported between ")[1:]:
        places = [int(line) for line in place.findall(report)]
        count += len(places) == report.count(" access at ") and own.issuperset(places)
    return count


def problem(task: Task, code: int | None, text: str) -> str:
    """What is wrong with how a task ended; "" for nothing.

    Args:
        code: What it exited with; None: it did not end.
        text: What it printed.
    """
    if code is None:
        return f"it did not end within {TIMEOUT_S:g} s"
    counted = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    number = 0 if counted is None else int(counted[1])
    passed = handed_over(text) if task.tool == "racecheck" else 0
    found = number > passed or (code == FOUND and not passed)
    if task.planted:
        return "" if found else f"the planted error was not found: it ended with {code}"
    if found:
        return "something was found"
    if code and not passed:
        return f"it ended with {code}"
    if f"{task.family} has run" not in text:
        return "it ended before all had run"
    return "" if task.tool is None or counted else "the tool has not counted"


def run(task: Task, tool: str, port: int, cache: str) -> tuple[str, str]:
    """Run a task; what is wrong, "" for nothing, and what was printed."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": cache, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        command(task, tool, port), env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool, and what it runs
        text, _ = process.communicate()
        return problem(task, None, text), text
    return problem(task, process.returncode, text), text


def run_all(tasks: Sequence[Task], tool: str, cache: str) -> bool:
    """Run tasks, some at once, and print how they ended; whether all is well."""
    fine = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [
            pool.submit(run, task, tool, PORT + PORTS * place, cache)
            for place, task in enumerate(tasks)
        ]
        for task, future in zip(tasks, running, strict=True):
            wrong, text = future.result()
            print(f"{str(task):24} {wrong or 'ok'}", flush=True)
            if wrong:
                fine = False
                print(text[-8000:], flush=True)
    return fine


def architecture() -> str | None:
    """That of the NVIDIA GPU here, such as ``sm_90``; None where there is none."""
    import torch

    if not torch.cuda.is_available() or torch.version.hip is not None:
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def main() -> None:
    """Look, or say why not."""
    arch = architecture()
    if arch is None:
        print("skipped: there is no NVIDIA GPU here")
        return
    tool = compute_sanitizer()
    if tool is None:
        print("skipped: compute-sanitizer is not found; it comes with CUDA, or by pip install "
              "nvidia-cuda-sanitizer-api")  # fmt: skip
        return
    started = time.monotonic()
    families = [family for family in FAMILIES if family != "hopper" or arch == "sm_90"]
    looks = [Task(name, look) for look in PLANTED for name in (*families, PLANTED[look])]
    with tempfile.TemporaryDirectory() as cache:
        fine = run_all([Task(family) for family in families], tool, cache)
        fine = run_all(looks, tool, cache) and fine
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
