"""What was not measured: a sentence for each reason, and where that was so."""

from collections.abc import Callable, Iterator, Sequence

from autoprec.report.numbers import counted, listed
from autoprec.report.outcomes import Outcome
from autoprec.types import Measurement, Status

# Reasons are of one row. What they begin with, and how that is said of several.
_OF_SEVERAL = {
    "the time was up before its turn": "the time was up before their turn",
    "there was no time for it": "there was no time for them",
    "it was not compiled before": "they were not compiled before",
}


def sentences(
    found: Sequence[Outcome], worth_saying: Callable[[Measurement], bool] = lambda row: True
) -> Iterator[str]:
    """Such as ``tf32 and fp16 (triton-decode) skipped on 3 workloads: there was no time``.

    Args:
        found: Every workload of a profile.
        worth_saying: Which of the rows that were not measured to speak of.
    """
    where: dict[tuple[str, str, Status, str], list[str]] = {}
    for outcome in found:
        without = {
            (row.measurement.path, row.measurement.kernel, row.measurement.status)
            for row in outcome.rows
            if not row.measurement.aside
        }
        for row in outcome.rows:
            it = row.measurement
            if it.aside and (it.path, it.kernel, it.status) in without:
                continue  # the same without, and said of that
            if it.status is not Status.OK and worth_saying(it):
                key = (row.label, it.kernel, it.status, it.reason)
                where.setdefault(key, []).append(str(outcome.workload))
    alike: dict[tuple[str, Status, str, tuple[str, ...]], list[str]] = {}
    for (path, kernel, status, reason), workloads in where.items():
        alike.setdefault((kernel, status, reason, tuple(workloads)), []).append(path)
    for (kernel, status, reason, places), paths in alike.items():
        what = f"{listed(paths)} ({kernel})" if kernel else listed(paths)
        why = _of_several(reason) if len(paths) > 1 else reason
        yield f"{what} {status} on {_places(places, len(found))}: {why.rstrip('.')}"


def _of_several(reason: str) -> str:
    for one, several in _OF_SEVERAL.items():
        if reason.startswith(one):
            return several + reason.removeprefix(one)
    return reason


def _places(places: Sequence[str], total: int) -> str:
    if len(places) == total and total > 1:
        return f"all {total} workloads"
    return places[0] if len(places) == 1 else counted(len(places), "workload")
