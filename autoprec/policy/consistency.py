"""What each record of a profile allows for itself, and the whole does not."""

from collections.abc import Iterator

from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.policy.standard import Standard, standard
from autoprec.types import Choice, Config, Measurement, Profile, Role, Status, by_workload


def contradictions(profile: Profile) -> Iterator[str]:
    """Every contradiction, as a sentence without its full stop that names the place."""
    budget = None
    try:
        budget = Budget.parse(profile.budget)
    except InputError as error:
        yield f"budget is refused: {error.sentence.rstrip('.')}"
    seen: dict[object, int] = {}
    for i, row in enumerate(profile.measurements):
        if seen.setdefault(row.key, i) != i:
            yield f"measurements[{i}] repeats measurements[{seen[row.key]}]"
        if row.status is Status.OK:
            yield from _impossible(row.config, f"measurements[{i}]")
    measured: dict[object, list[Measurement]] = {}
    for row in profile.measurements:
        if row.status is Status.OK and not row.aside:
            identity = (row.workload, row.path, row.kernel, row.storage)
            measured.setdefault(identity, []).append(row)
    workloads = by_workload(profile.measurements)
    decided = set()
    for i, choice in enumerate(profile.choices):
        yield from _impossible(choice.config, f"choices[{i}]")
        rows = measured.get((choice.workload, choice.path, choice.kernel, choice.storage), [])
        held_to = standard(workloads[choice.workload], budget) if budget and rows else None
        why = _unfounded(choice, rows, held_to, profile.allow_baselines)
        if why:
            yield f"choices[{i}] ({choice.path} for {choice.workload}) {why}"
        if choice.workload in decided:
            yield f"choices[{i}] decides {choice.workload} again"
        decided.add(choice.workload)
    for i, refusal in enumerate(profile.refusals):
        if refusal.workload not in workloads:
            yield f"refusals[{i}] ({refusal.workload}) was never measured"
        if refusal.workload in decided:
            yield f"refusals[{i}] decides {refusal.workload} again"
        decided.add(refusal.workload)


def _impossible(config: Config, place: str) -> Iterator[str]:
    """What no kernel that ran was launched with: a block of no rows, or one that is a text."""
    for name, value in config.items():
        if isinstance(value, str) or value < 1:
            shown = repr(value) if len(str(value)) <= 40 else "what it is"
            yield f"{place}.config.{name} must be a whole number above zero, not {shown}"


def _unfounded(
    choice: Choice, rows: list[Measurement], held_to: Standard | None, allow_baselines: bool
) -> str:
    """Why a choice cannot rest on its measurements, as a clause; "" where it can.

    Args:
        rows: The ok measurements of the choice's workload, path, kernel and storage.
        held_to: What the budget asks of the workload, or None where that cannot be read.
    """
    if not rows:
        return "was never measured"
    rows = [row for row in rows if row.config == choice.config]
    if not rows:
        return "was measured with another config"
    if not allow_baselines:
        rows = [row for row in rows if row.role is Role.CANDIDATE]
    if not rows:
        return "is a baseline, and allow_baselines is false"
    if held_to is not None and all(held_to.violation(row) for row in rows):
        return f"is over the budget of {held_to.budget}"
    return ""
