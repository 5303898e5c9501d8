"""The command line's options, each with its help, for the commands that share them."""

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoprec.budget import DEFAULT_BUDGET
from autoprec.commands.size_options import in_panel, model_in, size_in
from autoprec.grammar import PRESETS

_SIZES = "Workloads (each option takes a list, such as 1,8,64)"
SEARCH = "Measuring and choosing"
_FILES = "Files and output"


class Format(StrEnum):
    """Forms of a report."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


class ReportFormat(StrEnum):
    """Forms of a report, with pictures alone."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    PNG = "png"
    SVG = "svg"


class Plot(StrEnum):
    """Pictures of a profile."""

    PARETO = "pareto"
    SPEED = "speed"
    ERRORS = "errors"


class Effort(StrEnum):
    """How thoroughly to measure."""

    QUICK = "quick"
    NORMAL = "normal"
    THOROUGH = "thorough"


_size = functools.partial(size_in, _SIZES)


Phases = Annotated[list[str] | None, _size("--phase", "Default: prefill,decode.")]
Batches = Annotated[list[str] | None, _size("--batch")]
QLens = Annotated[
    list[str] | None, _size("--q-len", "New tokens a request, for append and decode.")
]
KvLens = Annotated[list[str] | None, _size("--kv-len")]
Heads = Annotated[list[str] | None, _size("--heads", "Query and KV heads. Default: 32/8.")]
HeadDims = Annotated[list[str] | None, _size("--head-dim")]
Masks = Annotated[list[str] | None, _size("--mask", "Default: causal.")]
InputDtypes = Annotated[
    list[str] | None, _size("--input-dtype", "Default: fp32, on a GPU also bf16.")
]
OutDtypes = Annotated[list[str] | None, _size("--out-dtype", "Default: same.")]


Model = Annotated[
    str | None,
    model_in(
        _SIZES,
        "Heads, head dim and mask of a model: a preset such as qwen3-8b, or a Hugging Face "
        "config.json. Default: llama-3.1-8b.",
    ),
]
WorkloadsFile = Annotated[
    Path | None,
    in_panel(
        _SIZES, "--workloads", "FILE", "A JSON list of workloads, in place of the options above."
    ),
]
InputsFile = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE",
        help="Captured tensors (autoprec.capture), on which the budget holds as well. Heads, head "
        "dim, mask and length are theirs unless given; no more draws than KV heads in the file.",
        rich_help_panel=SEARCH,
    ),
]
PerLayer = Annotated[
    bool,
    typer.Option(
        "--per-layer",
        help="Hold a plan for a layer, load_plan(layer=3), to what was captured of that layer.",
        rich_help_panel=SEARCH,
    ),
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        metavar="ERROR",
        help="The largest error accepted: 1e-3 means rel_l2<=1e-3; clauses such as "
        "row_rel.p999<=1e-3,lse_abs<=1e-3, bits>=17, ratio:fp32<=2; a preset "
        f"({', '.join(PRESETS)}); prefill:1e-5,decode:1e-3. "
        f"Default: the profile's, or {DEFAULT_BUDGET}.",
        rich_help_panel=SEARCH,
    ),
]
Families = Annotated[
    list[str] | None,
    typer.Option(
        "--families",
        metavar="NAME,…",
        help="Input families: typical (the budget holds on them), extreme (outputs stay finite and "
        "within their certified bound), all (the budget holds on every one), or their names. "
        "Default: typical,extreme.",
        rich_help_panel=SEARCH,
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        metavar="C",
        help="How sure the bound on 95 % of inputs is to be: 0.95 takes 59 draws, as many KV "
        "heads of captured tensors. Default: the effort's, 0.5, 0.95 or 0.99.",
        rich_help_panel=SEARCH,
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        metavar="auto|cuda:N|cpu", help="Which device; auto takes a GPU where there is one."
    ),
]
Paths = Annotated[
    list[str] | None,
    typer.Option(
        "--paths",
        metavar="PATH,…",
        help="Precision paths to try, such as fp32,fp16; `autoprec paths` lists them. "
        "Default: all.",
        rich_help_panel=SEARCH,
    ),
]
AllowBaselines = Annotated[
    bool | None,
    typer.Option(
        "--allow-baselines/--no-allow-baselines",
        help="Whether the attention of PyTorch and other libraries may be chosen too. Default: the "
        "profile's, or no.",
        rich_help_panel=SEARCH,
    ),
]
MaxWorkspace = Annotated[
    float | None,
    typer.Option(
        "--max-workspace-gib",
        metavar="GIB",
        help="GPU memory a kernel may take beyond inputs and outputs, such as for K and V in a "
        "path's form. Default: any.",
        rich_help_panel=SEARCH,
    ),
]
Efforts = Annotated[
    Effort, typer.Option("--effort", help="How thoroughly to measure.", rich_help_panel=SEARCH)
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="When to stop and save. Default: 50 on a CPU, 110 on a GPU.",
        rich_help_panel=SEARCH,
    ),
]
BenchFamilies = Annotated[
    list[str] | None,
    in_panel(
        SEARCH,
        "--families",
        "NAME,…",
        "Input families on which errors are measured, such as gauss alone, the quickest: "
        "typical, extreme, all, or their names. Default: typical,extreme.",
    ),
]
Peers = Annotated[
    list[str] | None,
    in_panel(
        SEARCH,
        "--peers",
        "NAME,…",
        "The peers, such as sdpa-cudnn and flashinfer-fa3. Default: all that are here.",
    ),
]
BenchTimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        help="When to stop. Default: 300.",
        rich_help_panel=SEARCH,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The profile. Default: one for this machine in your own folder.",
        rich_help_panel=_FILES,
    ),
]
Consistent = Annotated[
    bool,
    typer.Option(
        "--consistent",
        help="Measure what is chosen in consistent mode too, and report what that costs.",
        rich_help_panel=SEARCH,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Replace the profile instead of adding to it.", rich_help_panel=_FILES
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be measured, and stop.", rich_help_panel=_FILES),
]
Formats = Annotated[
    Format, typer.Option("--format", help="Form of the output.", rich_help_panel=_FILES)
]
ReportFormats = Annotated[
    ReportFormat | None,
    typer.Option(
        "--format",
        help="Form of the output. Default: what the name of --output ends in, or table.",
        rich_help_panel=_FILES,
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write there, not to stdout.", rich_help_panel=_FILES
    ),
]
Plots = Annotated[
    Plot,
    typer.Option(
        "--plot",
        help="Which picture png and svg are: speed against error, speed against kv_len, or the "
        "errors by input family.",
        rich_help_panel=_FILES,
    ),
]
FailIfSlower = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Exit with 1 where what a later profile chose is surely slower than the first one's "
        "choice by more than this, such as 5%.",
    ),
]
