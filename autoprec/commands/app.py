"""What the command line can say: the commands with their options, and who does each.

A command's module is imported once the command is called, for it needs torch or pandas.
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from autoprec.commands import options, stored_options
from autoprec.commands.console import say
from autoprec.commands.plain_help import PlainHelp
from autoprec.sizes import Sizes

STARTED = time.monotonic()  # nearly the start of the process: time limits count from here

app = typer.Typer(
    help="Tell autoprec how much error you can accept; it measures your machine and gives you the "
    "fastest attention that keeps to it.",
    epilog="Exit codes: 0 done; 1 some or all is not within the budget; 2 wrong usage or an "
    "unreadable file; 3 the profile is for another machine or stale; 130 interrupted, with what "
    "was measured saved.",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from autoprec.commands.version import text

        say(text())
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the versions.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        say(f"{context.get_help()}\n")


@app.command()
def probe(
    device: options.DeviceName = "auto", format: options.Formats = options.Format.TABLE
) -> None:
    """Say what the device is and does, and measure the most it can do, and how it rounds."""
    from autoprec.commands.probe import run

    run(device, format)


@app.command()
def doctor(
    device: options.DeviceName = "auto", format: options.Formats = options.Format.TABLE
) -> int:
    """Look for what keeps autoprec from working here, or changes its results."""
    from autoprec.commands.doctor import run

    return run(device, format)


@app.command()
def paths(
    device: options.DeviceName = "auto", format: options.Formats = options.Format.TABLE
) -> None:
    """List every precision path and kernel, whether it runs here, and if not why."""
    from autoprec.commands.paths import run

    run(device, format)


@app.command(cls=PlainHelp)
def tune(
    budget: options.BudgetText = None,
    device: options.DeviceName = "auto",
    model: options.Model = None,
    phase: options.Phases = None,
    batch: options.Batches = None,
    q_len: options.QLens = None,
    kv_len: options.KvLens = None,
    heads: options.Heads = None,
    head_dim: options.HeadDims = None,
    mask: options.Masks = None,
    input_dtype: options.InputDtypes = None,
    out_dtype: options.OutDtypes = None,
    workloads: options.WorkloadsFile = None,
    inputs: options.InputsFile = None,
    per_layer: options.PerLayer = False,
    paths: options.Paths = None,
    allow_baselines: options.AllowBaselines = None,
    max_workspace_gib: options.MaxWorkspace = None,
    families: options.Families = None,
    confidence: options.Confidence = None,
    effort: options.Efforts = options.Effort.NORMAL,
    time_limit: options.TimeLimit = None,
    consistent: options.Consistent = False,
    output: options.Output = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    format: options.Formats = options.Format.TABLE,
) -> int:
    """Measure this machine, choose what each workload should use, save it, and report it."""
    sizes = Sizes(
        phase=phase, batch=batch, q_len=q_len, kv_len=kv_len, heads=heads, head_dim=head_dim,
        mask=mask, input_dtype=input_dtype, out_dtype=out_dtype,
    )  # fmt: skip
    from autoprec.commands.tune import Request, run

    return run(
        Request(
            sizes=sizes, model=model, workloads=workloads, inputs=inputs, per_layer=per_layer,
            device=device, budget=budget,
            paths=paths, allow_baselines=allow_baselines, max_workspace_gib=max_workspace_gib,
            families=families, confidence=confidence,
            effort=effort, time_limit_s=time_limit, consistent=consistent, output=output,
            fresh=fresh, dry_run=dry_run,
            format=format, started=STARTED,
        )
    )  # fmt: skip


@app.command()
def report(
    profiles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PROFILE...", help="Default: this machine's.", show_default=False),
    ] = None,
    format: options.ReportFormats = None,
    output: options.ReportFile = None,
    plot: options.Plots = options.Plot.PARETO,
    fail_if_slower: options.FailIfSlower = None,
    budget: stored_options.Budget = None,
) -> None:
    """Print what a profile found, or compare others with the first."""
    from autoprec.commands.report import Request, run

    run(
        Request(
            files=profiles or [], format=format, output=output, plot=plot,
            fail_if_slower=fail_if_slower, budget=budget,
        )
    )  # fmt: skip


@app.command()
def explain(
    profile: Annotated[
        Path | None, typer.Argument(help="Default: this machine's.", show_default=False)
    ] = None,
    phase: stored_options.Phases = None,
    batch: stored_options.Batches = None,
    q_len: stored_options.QLens = None,
    kv_len: stored_options.KvLens = None,
    heads: stored_options.Heads = None,
    head_dim: stored_options.HeadDims = None,
    mask: stored_options.Masks = None,
    input_dtype: stored_options.InputDtypes = None,
    out_dtype: stored_options.OutDtypes = None,
    budget: stored_options.Budget = None,
    format: stored_options.ExplainFormats = stored_options.ExplainFormat.TABLE,
) -> None:
    """Say which path a workload should use and why, and why not each other one."""
    sizes = Sizes(
        phase=phase, batch=batch, q_len=q_len, kv_len=kv_len, heads=heads, head_dim=head_dim,
        mask=mask, input_dtype=input_dtype, out_dtype=out_dtype,
    )  # fmt: skip
    from autoprec.commands.explain import run

    run(profile, sizes, budget, format)


@app.command()
def verify(
    profile: Annotated[
        Path | None, typer.Argument(help="Default: this machine's.", show_default=False)
    ] = None,
    device: options.DeviceName = "auto",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the draws. Default: a new one.", min=0)
    ] = None,
    time_limit: stored_options.VerifyTimeLimit = None,
    format: options.Formats = options.Format.TABLE,
) -> int:
    """Check a profile on fresh draws: exit 0, or 1 over budget or slower, or 3 stale."""
    from autoprec.commands.verify import run

    return run(
        profile, device=device, seed=seed, time_limit_s=time_limit, format=format,
        started=STARTED,
    )  # fmt: skip


@app.command()
def bench(
    profile: Annotated[
        Path | None, typer.Argument(help="Default: this machine's.", show_default=False)
    ] = None,
    device: options.DeviceName = "auto",
    model: stored_options.Model = None,
    phase: stored_options.Phases = None,
    batch: stored_options.Batches = None,
    q_len: stored_options.QLens = None,
    kv_len: stored_options.KvLens = None,
    heads: stored_options.Heads = None,
    head_dim: stored_options.HeadDims = None,
    mask: stored_options.Masks = None,
    input_dtype: stored_options.InputDtypes = None,
    out_dtype: stored_options.OutDtypes = None,
    workloads: stored_options.WorkloadsFile = None,
    budget: stored_options.Budget = None,
    families: options.BenchFamilies = None,
    peers: options.Peers = None,
    effort: options.Efforts = options.Effort.NORMAL,
    time_limit: options.BenchTimeLimit = None,
    format: options.Formats = options.Format.TABLE,
) -> int:
    """Time the plan against its peers: PyTorch by backend, FlashInfer, flash-attn, xFormers."""
    sizes = Sizes(
        phase=phase, batch=batch, q_len=q_len, kv_len=kv_len, heads=heads, head_dim=head_dim,
        mask=mask, input_dtype=input_dtype, out_dtype=out_dtype,
    )  # fmt: skip
    from autoprec.commands.bench import Request, run

    return run(
        Request(
            profile=profile, device=device, model=model, sizes=sizes, workloads=workloads,
            budget=budget, families=families, peers=peers, effort=effort,
            time_limit_s=time_limit, format=format,
        )
    )  # fmt: skip
