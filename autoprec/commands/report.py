"""What ``autoprec report`` does around a report: its form, where it goes, and what is checked."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprec.budget import Budget
from autoprec.commands.console import say, say_bytes, tell
from autoprec.commands.stored import stored
from autoprec.errors import InputError
from autoprec.report import gate
from autoprec.report.report import render
from autoprec.types import Profile

_BY_SUFFIX = {
    ".md": "markdown", ".csv": "csv", ".json": "json", ".html": "html", ".htm": "html",
    ".png": "png", ".svg": "svg", ".txt": "table", "": "table",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``autoprec report``, as typed; None or no file for what was not."""

    files: Sequence[Path]
    format: str | None
    output: Path | None
    plot: str
    fail_if_slower: str | None
    budget: str | None = None


def run(request: Request) -> None:
    """Report as asked; the check comes last, so that what fails has been printed.

    Raises:
        InputError: An option is none, a profile cannot be read, or the report cannot be written.
        CheckError: Something is slower than was accepted.
    """
    collecting = gc.isenabled()
    gc.disable()  # nothing that is made here forms cycles, and much is made
    try:
        _report(request)
    finally:
        if collecting:
            gc.enable()


def _report(request: Request) -> None:
    limit = None if request.fail_if_slower is None else gate.parse(request.fail_if_slower)
    if limit is not None:
        gate.refuse_one(max(len(request.files), 1))
    budget = None if request.budget is None else Budget.parse(request.budget)
    profiles = [(str(file), stored(file, budget)) for file in request.files or [_own()]]
    format = request.format or _by_name(request.output)
    if format in ("png", "svg"):
        content = _picture(profiles, format, request.plot)
    else:
        content = render(profiles, format)
    _deliver(content, request.output)
    if limit is not None:
        gate.check(profiles, limit)


def _own() -> Path:
    from autoprec.commands.own_profile import own_profile  # here: it loads torch

    return own_profile()


def _by_name(output: Path | None) -> str:
    """The format that a file's name ends in, or that of stdout.

    Raises:
        InputError: It ends in something else.
    """
    suffix = "" if output is None else output.suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise InputError(
            f"{output} ends in no format: {', '.join(filter(None, _BY_SUFFIX))}.",
            "one of these, or --format table",
        )
    return _BY_SUFFIX[suffix]


def _picture(profiles: Sequence[tuple[str, Profile]], format: str, plot: str) -> str | bytes:
    """One picture of one profile.

    Raises:
        InputError: There are several profiles, or nothing to draw.
    """
    # here, not above: matplotlib takes long to load
    from autoprec.report.figures import pictures
    from autoprec.report.figures.figure import KINDS, figures
    from autoprec.report.outcomes import outcomes

    if len(profiles) > 1:
        raise InputError(
            f"a {format} shows one profile, and there are {len(profiles)}.", "--format html"
        )
    profile = profiles[0][1]
    drawn = [it for it in figures(profile, outcomes(profile)) if isinstance(it, KINDS[plot])]
    if not drawn:
        raise InputError(f"{profiles[0][0]} has nothing measured to draw.", "autoprec tune")
    return pictures.svg(drawn) if format == "svg" else pictures.png(drawn)


def _deliver(content: str | bytes, output: Path | None) -> None:
    """Write a file, or print.

    Raises:
        InputError: It cannot be written.
    """
    if output is not None:
        try:
            output.write_bytes(content.encode() if isinstance(content, str) else content)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{output} cannot be written: {cause}.", "another file with -o"
            ) from None
        tell(f"saved {output}")
    elif isinstance(content, bytes):
        say_bytes(content)
    else:
        say(content)
