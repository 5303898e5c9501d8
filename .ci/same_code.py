"""Whether two trees' kernels compile to the same code, as they are timed: PTX without line numbers.

    python -P .ci/same_code.py [--chip sm_90] [--kernel NAME ...] [--against FILE] > FILE

prints a digest for each kernel, path and configuration that ``compile_tasks.py`` names, but those
that a guard launches; with another tree's, which ones differ instead, and exits 1 where some do. A
tree is the ``autoprec`` that is imported. Tuning times kernels without the counters of a guard.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from triton import knobs

from autoprec import registry
from autoprec.probe.offline import compile_launches

sys.path.append(str(Path(__file__).parent))  # python -P leaves it out
import compile_kernels  # noqa: E402
import compile_tasks  # noqa: E402

_LINES = re.compile(r"^\s*(//|\.loc|\.file|\$L__tmp\d+:|\.b(8|32|64) ).*\n", re.MULTILINE)
_DEBUG = re.compile(r"^\s*\.section\s+\.debug.*", re.MULTILINE | re.DOTALL)


def digests(chip: str, names: Sequence[str]) -> dict[str, str]:
    """Digests of the code of each launch of each task, by what it is."""
    target = compile_tasks.target_of(chip)
    found = {}
    for kernel in registry.kernels():
        if chip not in kernel.architectures or (names and kernel.name not in names):
            continue
        tasks = [*compile_tasks.tasks_of(kernel, chip), *compile_tasks.variants_of(kernel, chip)]
        for task in tasks:
            if task.guarded:
                continue
            call, _ = compile_kernels.call_for(task)
            assert kernel.launches is not None
            launches = kernel.launches(call, task.path, task.config)
            for launch, binary in zip(launches, compile_launches(launches, target), strict=True):
                code = _LINES.sub("", _DEBUG.sub("", binary.kernel.asm["ptx"]))
                name = f"{task}: {launch.function.__name__}"
                found[name] = hashlib.sha256(code.encode()).hexdigest()
    return found


def main() -> None:
    """Print them, or compare them with another tree's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chip", default="sm_90")
    parser.add_argument("--kernel", nargs="*", default=[])
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        knobs.cache.dir = cache
        found = digests(asked.chip, asked.kernel)
    if asked.against is None:
        print(json.dumps(found, indent=1))
        return
    names = tuple(f"{name} " for name in asked.kernel) or ("",)
    read = json.loads(asked.against.read_text())
    other = {it: digest for it, digest in read.items() if it.startswith(names)}
    differing = sorted(it for it in {*found, *other} if found.get(it) != other.get(it))
    print("\n".join([*differing, f"{len(differing)} of {len({*found, *other})} differ"]))
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
