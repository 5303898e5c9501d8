"""``autoprec report``: one profile, or others against the first, in any format."""

from collections.abc import Sequence

from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.report import caches, comparison, consistent, details, missing, prepared, summary
from autoprec.report.document import Document
from autoprec.report.facts import facts
from autoprec.report.figures.figure import figures
from autoprec.report.formats import write
from autoprec.report.outcomes import outcomes
from autoprec.types import Profile


def render(profiles: Sequence[tuple[str, Profile]], format: str = "table") -> str:
    """A profile's report, or the comparison of others with the first; ends in a line feed.

    Args:
        profiles: Each with its label, such as the file it was read from.
        format: A name of ``formats.FORMATS``.

    Raises:
        InputError: There is no profile, or no such format.
    """
    if not profiles:
        raise InputError("there is no profile to report.", "autoprec report PROFILE")
    if len(profiles) > 1:
        return write(comparison.document(profiles), format)
    label, profile = profiles[0]
    return write(document(profile, label, page=format == "html"), format)


def document(profile: Profile, label: str = "", *, page: bool = False) -> Document:
    """The summary, then every path of every workload, and why what is missing is missing.

    Between them caches and consistent mode, where they were measured.

    Args:
        profile: What was saved.
        label: Where, or whose.
        page: Whether it is for a page, which has room for what was not measured.
    """
    found = outcomes(profile)
    return Document(
        facts=facts(profile, label),
        sentences=summary.sentences(found, after_verdict=page),
        sections=(
            *summary.sections(found, Budget.parse(profile.budget)),
            *caches.sections(found, profile),
            *consistent.sections(found),
            *details.sections(found, unmeasured=page),
        ),
        notes=(
            *summary.legend(found),
            *prepared.legend(found),
            *missing.sentences(found),
            *profile.remarks,
        ),
        records=lambda: summary.records(found, label),
        kicker=summary.kicker(profile),
        verdict=summary.verdict(found, profile),
        figures=figures(profile, found),
        folded_heading="Every path of every workload, and why not",
    )
