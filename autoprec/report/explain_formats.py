"""The forms of ``autoprec explain``: text for people, and an object a workload for programs."""

import json
from collections.abc import Iterable
from typing import Any

from autoprec.budget import Budget
from autoprec.report.explain import Explained
from autoprec.report.formats import markdown, table

KEYS = {
    "workload": "what is explained, in one line",
    "measured": "whether it was measured itself",
    "nearest": "the workload measured that stands in for it; null where it was measured",
    "budget": "the error accepted, on every input family",
    "path": "what to use; null where nothing keeps to the budget, or runs",
    "kernel": "what runs the path",
    "config": "its launch configuration, an object",
    "storage": "form of K and V",
    "p20_ms": "20th percentile of the time, milliseconds",
    "p50_ms": "median time, milliseconds",
    "p80_ms": "80th percentile of the time, milliseconds",
    "workspace_gib": "memory beyond inputs and outputs, GiB",
    "baseline": "what speedup is over",
    "speedup": "the baseline's median time over this one's",
    "margin": "the budget's bound over the error, for the clause that is nearest to it",
    "errors": "errors of whole outputs by input family and metric",
    "bounds": "the largest errors of any draw by input family and metric",
    "n_draws": "draws behind the bounds",
    "sentences": "why this path, a list",
    "notes": "how what a plan launches differs from what was measured, a list",
    "rejected": "by path, why not",
    "command": "the autoprec tune that measures it",
}
"""Keys of each object of the json, all of them always there; numbers of a workload that was not
measured are those of the nearest, and what is not known is null."""


def render(found: Iterable[Explained], format: str) -> str:
    """What was found, in a form; ends in a line feed.

    Args:
        found: A workload each.
        format: ``table``, ``markdown`` or ``json``.
    """
    if format == "json":
        records = [record(it) for it in found]
        return json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write = markdown.render if format == "markdown" else table.render
    return "\n".join(write(it.document) for it in found)


def record(it: Explained) -> dict[str, Any]:
    """One workload for programs: the KEYS, in their order."""
    choice, launch = it.choice, it.launch
    row = it.used.chosen if it.used else None
    measured = row.measurement if row else None
    runs = launch or choice
    baseline = it.used.baseline if it.used else None
    known: dict[str, Any] = {
        "workload": str(it.workload),
        "measured": it.nearest is None,
        "nearest": it.nearest and str(it.nearest),
        "budget": str(Budget.parse(it.profile.budget)),
        "sentences": list(it.document.sentences),
        "notes": list(launch.notes) if launch else [],
        "rejected": dict(it.rejected),
        "command": next((its.command for its in it.document.sections if its.command), None),
    }
    if choice and runs:
        known |= {
            "path": choice.path, "kernel": runs.kernel, "config": runs.config,
            "storage": choice.storage, "margin": choice.margin,
        }  # fmt: skip
    if row and measured:
        known |= {
            "p20_ms": measured.p20_ms, "p50_ms": measured.p50_ms, "p80_ms": measured.p80_ms,
            "workspace_gib": measured.workspace_gib, "errors": measured.errors,
            "bounds": measured.bounds, "n_draws": measured.n_draws,
            "baseline": baseline and baseline.path, "speedup": row.speedup,
        }  # fmt: skip
    return {key: known.get(key) for key in KEYS}
