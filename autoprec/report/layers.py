"""What each layer of a model would use, where tensors were captured by layer."""

from collections.abc import Sequence
from dataclasses import replace

from autoprec.policy.choose import choose_again
from autoprec.report.numbers import listed
from autoprec.types import CAPTURED, Measurement, Profile, by_workload


def sentences(profile: Profile) -> tuple[str, ...]:
    """For each workload with errors by layer, which path is within the budget on which layers."""
    found = []
    for workload, rows in by_workload(profile.measurements).items():
        layers = _layers(rows)
        if layers:
            found.append(f"By layer, {workload}: {listed(_used(profile, rows, layers))}.")
    if found:
        found[-1] += " A plan takes these with load_plan(layer=N)."
    return tuple(found)


def _layers(rows: Sequence[Measurement]) -> list[int]:
    """The layers on which something was measured."""
    numbers = (family.removeprefix(f"{CAPTURED}/") for row in rows for family in row.errors)
    return sorted({int(number) for number in numbers if number.isdecimal()})


def _used(profile: Profile, rows: Sequence[Measurement], layers: Sequence[int]) -> list[str]:
    """Each path with its layers, such as ``bf16 on layers 0-3, 7`` and ``fp16 on layer 4``."""
    of_one = replace(profile, measurements=list(rows))
    taken: dict[str, list[int]] = {}
    for layer in layers:
        choices = choose_again(of_one, layer=layer).choices
        path = choices[0].path if choices else "no path"
        taken.setdefault(path, []).append(layer)
    return [
        f"{path} on layer{'s' if len(its) > 1 else ''} {_ranges(its)}"
        for path, its in taken.items()
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
