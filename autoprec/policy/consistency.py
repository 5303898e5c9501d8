"""What each record of a profile allows for itself, and the whole does not."""

from collections.abc import Iterator

from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.types import Profile, Status


def contradictions(profile: Profile) -> Iterator[str]:
    """Every contradiction, as a sentence without its full stop that names the place."""
    try:
        Budget.parse(profile.budget)
    except InputError as error:
        yield f"budget is refused: {error.sentence.rstrip('.')}"
    seen: dict[object, int] = {}
    for i, row in enumerate(profile.measurements):
        if seen.setdefault(row.key, i) != i:
            yield f"measurements[{i}] repeats measurements[{seen[row.key]}]"
    measured = {
        (row.workload, row.path, row.kernel, row.storage)
        for row in profile.measurements
        if row.status is Status.OK and not row.prepared
    }
    workloads = {row.workload for row in profile.measurements}
    decided = set()
    for i, choice in enumerate(profile.choices):
        if (choice.workload, choice.path, choice.kernel, choice.storage) not in measured:
            yield f"choices[{i}] ({choice.path} for {choice.workload}) was never measured"
        if choice.workload in decided:
            yield f"choices[{i}] decides {choice.workload} again"
        decided.add(choice.workload)
    for i, refusal in enumerate(profile.refusals):
        if refusal.workload not in workloads:
            yield f"refusals[{i}] ({refusal.workload}) was never measured"
        if refusal.workload in decided:
            yield f"refusals[{i}] decides {refusal.workload} again"
        decided.add(refusal.workload)
