"""``autoprec explain``: what one workload uses, what it costs, and why nothing else."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from autoprec.budget import Budget
from autoprec.paths import PATHS
from autoprec.policy.lookup import nearest
from autoprec.policy.standard import PYTORCH
from autoprec.report import baselines
from autoprec.report.costs import costs, errors
from autoprec.report.document import Document, Section
from autoprec.report.facts import config_text, device
from autoprec.report.formats import table
from autoprec.report.numbers import listed, times
from autoprec.report.outcomes import Judged, Outcome, Verdict, outcomes
from autoprec.types import Choice, Config, Profile, Workload
from autoprec.workloads import tune_command

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Launched:
    """What a plan launches for a workload that was not measured.

    Attributes:
        kernel: Its name; "" where nothing runs the path chosen.
        config: Its configuration.
        notes: How they differ from what was chosen and why, or why nothing runs it; clauses.
        others: Where nothing runs the path chosen, the paths that some kernel runs.
    """

    kernel: str
    config: Config
    notes: tuple[str, ...]
    others: tuple[str, ...] = ()


Launches = Callable[[Workload], Launched | None]


@dataclass(frozen=True)
class Explained:
    """What there is to say of a workload.

    Attributes:
        document: All of it, for people.
        choice: What it should use; None where no path keeps to the budget, or nothing runs it.
        used: What came of the workload that the choice was measured on.
        nearest: That one, where it is another.
        launch: What a plan launches for it, where that is not what was measured, and is known.
        rejected: Why nothing else, a sentence for each.
    """

    profile: Profile
    workload: Workload
    document: Document
    _: KW_ONLY
    choice: Choice | None = None
    used: Outcome | None = None
    nearest: Workload | None = None
    launch: Launched | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)


def explain(
    profile: Profile,
    workload: Workload,
    *,
    launch: Launches = lambda workload: None,
    width: int | None = None,
    colour: bool | None = None,
) -> str:
    """Which path a workload uses and why, what it costs, and why not each other path.

    Args:
        profile: What was measured, and chosen.
        workload: Any; one that was not measured is explained by the nearest that was.
        launch: Says what a plan launches for a workload that was not measured; None where that
            is not known: the kernel is then that of the nearest, and said to be.
        width: Columns of text; None for the terminal's.
        colour: Whether to use colours; None for yes in a terminal.

    Returns:
        Text for people, ending in a line feed. A measured workload on which no path keeps to the
        budget, or none runs, is explained as well.

    Raises:
        BudgetError: The workload was not measured, and no path keeps to the budget on the nearest,
            or none runs.
        UnsupportedError: Nothing comparable was measured.
    """
    return table.render(explained(profile, workload, launch).document, width, colour)


def explained(
    profile: Profile, workload: Workload, launch: Launches = lambda it: None
) -> Explained:
    """What ``explain`` says, before it has a form.

    Raises:
        BudgetError: As ``explain`` does; likewise UnsupportedError.
    """
    found = {outcome.workload: outcome for outcome in outcomes(profile)}
    exact = found.get(workload)
    if exact and exact.refusal:
        document = _document(
            _about(profile, workload),
            [f"No path {'keeps to the budget' if exact.refusal.ran else 'runs'} on this workload."],
            [_why_not(exact.refusal.rejected), _command(workload, measured=True)],
        )
        return Explained(profile, workload, document, rejected=exact.refusal.rejected)
    nearby = nearest(workload, profile.choices, profile.refusals)
    choice, note = nearby.choice, nearby.note
    used, other = found.get(choice.workload), choice.workload if note else None
    launched = launch(workload) if note else None
    if launched and not launched.kernel:
        document = _not_run(profile, workload, note, launched)
        return Explained(profile, workload, document, nearest=other, launch=launched)
    return Explained(
        profile,
        workload,
        _chosen(profile, workload, choice, used, note, launched),
        choice=choice,
        used=used,
        nearest=other,
        launch=launched,
        rejected=_others(choice, used),
    )


def _not_run(profile: Profile, workload: Workload, note: str, launched: Launched) -> Document:
    """A workload that no kernel takes, on the path that was chosen for the nearest."""
    if launched.others:
        sentence = f"Other paths have a kernel that takes it: {', '.join(launched.others)}."
        sections = [_command(workload, measured=False)]
    else:
        sentence, sections = "No other path has a kernel that takes it.", []
    return _document(
        _about(profile, workload),
        [*(f"{_capital(why)}." for why in launched.notes), sentence, _unmeasured(note)],
        sections,
    )


def _capital(clause: str) -> str:
    return clause[:1].upper() + clause[1:]


def _unmeasured(note: str) -> str:
    return f"This workload was not measured; {note}." if note else ""


def _chosen(
    profile: Profile,
    workload: Workload,
    choice: Choice,
    used: Outcome | None,
    note: str,
    launch: Launched | None,
) -> Document:
    """A choice for a workload, from what was measured on that one or on the nearest."""
    row = used.chosen if used else None
    whose = f" (of the nearest: {choice.workload})" if note else ""
    sentences = [_why(choice, used, of_nearest=bool(note)), _unmeasured(note)]
    facts = [*_about(profile, workload), ("path", _path(choice.path))]
    facts += _kernel(choice, launch, whose)
    briefly = " (of the nearest)" if note else ""  # a heading is a line, and facts have named it
    sections = [_why_not(_others(choice, used), briefly), _command(workload, measured=not note)]
    if used and row:
        facts += ((name, value + whose) for name, value in costs(profile, used, row))
        sections[:0] = errors(row.measurement, briefly)
        beaten = baselines.sentence(used)
        sentences.append(f"{beaten}{whose}." if beaten else "")
    facts.append(("margin", f"the error is {times(choice.margin)} below the budget{whose}"))
    return _document(facts, sentences, sections)


def _kernel(choice: Choice, launch: Launched | None, whose: str) -> Iterator[tuple[str, str]]:
    """Kernel and configuration: what a plan launches, else what was chosen.

    Args:
        whose: What to add to that of another workload; "" where it is of this very one.
    """
    config = config_text(choice.config)
    if launch is None:
        yield "kernel", choice.kernel + whose
        yield "configuration", config and config + whose
        return
    yield "kernel", launch.kernel
    yield "configuration", config_text(launch.config)
    for note in launch.notes:
        yield "note", note
    if launch.kernel != choice.kernel:
        yield "note", f"time and errors are those of {choice.kernel} on the nearest"


def _document(
    facts: list[tuple[str, str]], sentences: list[str], sections: list[Section]
) -> Document:
    return Document(
        facts=tuple((name, value) for name, value in facts if value),
        sentences=tuple(filter(None, sentences)),
        sections=tuple(sections),
        notes=(),
        records=_no_records,
    )


def _no_records() -> "pd.DataFrame":
    import pandas as pd  # not before it is wanted: it takes long to load

    return pd.DataFrame()


def _about(profile: Profile, workload: Workload) -> list[tuple[str, str]]:
    return [
        ("workload", str(workload)),
        ("device", device(profile.environment.device)),
        ("budget", f"{Budget.parse(profile.budget)} on every input family"),
    ]


def _path(name: str) -> str:
    if name in PATHS:
        return f"{name}: {PATHS[name].summary}"
    return f"{name}: {'PyTorch' if name.startswith(PYTORCH) else 'another library'}'s own"


def _why(choice: Choice, used: Outcome | None, *, of_nearest: bool) -> str:
    """Why this path: the fastest within the budget, and of those as fast the most accurate."""
    rows = used.rows if used else ()
    level = [_name(row, choice) for row in rows if row.verdict is Verdict.LESS_ACCURATE]
    use = f"Use {choice.path}: the fastest path within the budget"
    if of_nearest:
        use += " on the nearest workload measured"
    if not level:
        return f"{use}."
    return (
        f"{use}; {listed(level)} "
        f"{'is' if len(level) == 1 else 'are'} as fast within the spread, and less accurate."
    )


def _name(row: Judged, choice: Choice) -> str:
    """A path, and its kernel where that is what differs from the choice."""
    it = row.measurement
    return f"{it.path} of {it.kernel}" if it.path == choice.path else it.path


def _others(choice: Choice, used: Outcome | None) -> dict[str, str]:
    """Why not: the other kernels of the path chosen, and then the other paths."""
    rows = used.rows if used else ()
    return {
        _name(row, choice): row.reason
        for row in rows
        if row.measurement.path == choice.path
        and row.verdict is not Verdict.CHOSEN
        and not row.measurement.aside
    } | choice.rejected


def _why_not(rejected: Mapping[str, str], whose: str = "") -> Section:
    notes = tuple(f"{path}: {sentence}" for path, sentence in rejected.items())
    return Section(f"why not{whose}", notes=notes or ("nothing else was measured",))


def _command(workload: Workload, *, measured: bool) -> Section:
    return Section(
        "to measure it again" if measured else "to measure it", command=tune_command(workload)
    )
