"""A worker of CompilePool: a task a line on stdin, its answer a line on stdout."""

import os
import sys

from autoprec import registry
from autoprec.probe.compile import ANSWERS, TASKS, Built, Task
from autoprec.probe.failures import described
from autoprec.probe.offline import compile_launches
from autoprec.probe.stored import launches_of


def build(task: Task) -> Built:
    """Compile everything that a task launches, into Triton's cache on disk."""
    try:
        kernel = registry.kernel(task.kernel)
        launches = launches_of(
            kernel, task.path, task.workload, task.config, task.storage, with_lse=task.with_lse
        )
        compiled = compile_launches(launches, task.target)
    except Exception as error:  # whatever a compiler raises is the answer
        return Built(reason=described(error))
    return Built(shared_bytes=max(binary.shared_bytes for binary in compiled))


def main() -> None:
    """Answer until stdin ends."""
    os.nice(10)  # the parent, which measures, goes first
    registry.kernels()  # loading them takes seconds, which may pass before there is a task
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # compilers print where they like
        for line in sys.stdin.buffer:
            answers.write(ANSWERS.dump_json(build(TASKS.validate_json(line))) + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
