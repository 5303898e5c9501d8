"""Options of the commands that a saved profile is given to: what they speak of is in it."""

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoprec.commands.options import SEARCH
from autoprec.commands.size_options import in_panel, model_in, size_in


class ExplainFormat(StrEnum):
    """Forms of an explanation."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


_SIZES = "Which workloads (each option takes a list; default: the profile's)"


_size = functools.partial(size_in, _SIZES)


Phases = Annotated[list[str] | None, _size("--phase", "Their phases.")]
Batches = Annotated[list[str] | None, _size("--batch")]
QLens = Annotated[
    list[str] | None, _size("--q-len", "New tokens a request; a prefill's are its kv-len.")
]
KvLens = Annotated[list[str] | None, _size("--kv-len")]
Heads = Annotated[list[str] | None, _size("--heads", "Query and KV heads, such as 32/8.")]
HeadDims = Annotated[list[str] | None, _size("--head-dim")]
Masks = Annotated[list[str] | None, _size("--mask", "Their masks.")]
InputDtypes = Annotated[list[str] | None, _size("--input-dtype", "Types of q, k and v.")]
OutDtypes = Annotated[
    list[str] | None, _size("--out-dtype", "Types of the output; same: as the input.")
]
Model = Annotated[
    str | None,
    model_in(
        _SIZES,
        "Those of a model instead, of the sizes given or tune's: a preset such as qwen3-8b, or a "
        "Hugging Face config.json.",
    ),
]
WorkloadsFile = Annotated[
    Path | None,
    in_panel(_SIZES, "--workloads", "FILE", "A JSON list of workloads, in place of all of these."),
]
VerifyTimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        help="When to stop; what was not checked by then fails. Default: 50 on a CPU, 110 on a "
        "GPU.",
        rich_help_panel=SEARCH,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="ERROR",
        help="Choose again for this error, such as 1e-3 or strict, among what was measured; "
        "nothing is measured, or saved. Default: the profile's.",
    ),
]
ExplainFormats = Annotated[
    ExplainFormat,
    typer.Option(
        "--format",
        help="Form of the output. json: a list with an object for each workload, whose keys are "
        "workload, measured, nearest (what stands in for it where it was not measured, and whose "
        "numbers these are), budget, path, kernel, config, storage, p20_ms, p50_ms, p80_ms, "
        "workspace_gib, baseline, speedup (over it), margin (below the budget), errors and bounds "
        "(by input family and metric), n_draws, sentences (why), notes (what a plan launches "
        "otherwise), rejected (by path, why not) and command (to measure it); null is not known.",
    ),
]
