"""Options of the commands that a saved profile is given to: what they speak of is in it."""

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoprec.commands.options import SEARCH, in_panel, presets_that_begin
from autoprec.types import Dtype, Mask, Phase


class ExplainFormat(StrEnum):
    """Forms of an explanation."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


_SIZES = "Which workloads (each option takes a list; default: the profile's)"


_sizes = functools.partial(in_panel, _SIZES)


Phases = Annotated[list[str] | None, _sizes("--phase", ",".join(Phase), "Their phases.")]
Batches = Annotated[list[str] | None, _sizes("--batch", "N,…", "Requests at once.")]
QLens = Annotated[
    list[str] | None, _sizes("--q-len", "N,…", "New tokens a request; a prefill's are its kv-len.")
]
KvLens = Annotated[
    list[str] | None, _sizes("--kv-len", "N,…", "Keys a request, the new tokens included.")
]
Heads = Annotated[
    list[str] | None, _sizes("--heads", "Q/KV,…", "Query and KV heads, such as 32/8.")
]
HeadDims = Annotated[
    list[str] | None,
    _sizes("--head-dim", "N,…", "Such as 128, or 192/128 where values have another size."),
]
Masks = Annotated[list[str] | None, _sizes("--mask", ",".join(Mask), "Their masks.")]
InputDtypes = Annotated[
    list[str] | None, _sizes("--input-dtype", ",".join(Dtype), "Types of q, k and v.")
]
OutDtypes = Annotated[
    list[str] | None,
    _sizes("--out-dtype", "same," + ",".join(Dtype), "Types of the output; same: as the input."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET|FILE",
        autocompletion=presets_that_begin,
        help="Those of a model instead, of the sizes given or tune's: a preset such as qwen3-8b, "
        "or a Hugging Face config.json.",
        rich_help_panel=_SIZES,
    ),
]
WorkloadsFile = Annotated[
    Path | None,
    typer.Option(
        "--workloads",
        metavar="FILE",
        help="A JSON list of workloads, in place of all of these.",
        rich_help_panel=_SIZES,
    ),
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
