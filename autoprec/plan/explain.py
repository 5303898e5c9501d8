"""A decision as text: what runs, on which measurement that rests, and why nothing else."""

from collections.abc import Iterable, Iterator, Sequence

from autoprec.budget import Budget, Errors
from autoprec.draws import beside, confidence_of, percent_sure
from autoprec.paths import PATHS
from autoprec.plan.decision import Decision
from autoprec.policy.standard import PYTORCH
from autoprec.types import Measurement, Status
from autoprec.workloads import tune_command

_BASELINE = "a baseline, PyTorch's scaled_dot_product_attention"
_OTHER = "a baseline, another library's attention"


def explain(
    decision: Decision,
    budget: Budget,
    measurements: Iterable[Measurement],
    remarks: Sequence[str],
    guard: str = "",
) -> str:
    """What runs and why, for people: a name and a value a line.

    Args:
        measurements: Those of the profile.
        remarks: Sentences on the plan itself, such as that its profile is stale.
        guard: What the plan's guard does to the call.
    """
    choice = decision.found.choice
    measured = choice.workload == decision.workload
    whose = "" if measured else f" (of the nearest: {choice.workload})"
    row = next((m for m in measurements if _is_of(m, decision)), None)
    baseline = _BASELINE if choice.path.startswith(PYTORCH) else _OTHER
    summary = PATHS[choice.path].summary if choice.path in PATHS else baseline
    lines = [
        ("workload", str(decision.workload)),
        ("path", f"{choice.path}: {summary}"),
        ("kernel", f"{decision.kernel.name} {_config(decision)}".rstrip()),
        ("rests on", decision.found.note or _of(decision)),
        *((name, value + whose) for name, value in _numbers(row, budget)),
        ("budget", f"{budget}, {choice.margin:.3g} times what is held to it{whose}"),
        *([("guard", guard)] if guard else []),
        *(("note", note) for note in decision.notes),
        *((f"not {path}", why + whose) for path, why in choice.rejected.items()),
        *(("profile", remark) for remark in remarks),
    ]
    if not decision.found.exact:
        lines.append(("to measure", tune_command(decision.workload)))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


def _of(decision: Decision) -> str:
    """What was measured, where it is what was looked up."""
    measured = decision.found.choice.workload
    if measured == decision.workload:
        return "a measurement of this very workload"
    return f"a measurement of {measured}, which stands for this one"


def _numbers(row: Measurement | None, budget: Budget) -> Iterator[tuple[str, str]]:
    """Time and errors measured."""
    if row is not None:
        yield "time", _time(row)
        yield from _error(row, budget)
        yield from _range(row)


def _range(row: Measurement) -> Iterator[tuple[str, str]]:
    """What the inputs measured were, where the path's range is narrow."""
    if row.range:
        parts = PATHS[row.path].parts
        bits = ", ".join(f"{it['spread_bits']:.0f} on {name}" for name, it in row.range.items())
        yield "range", f"bits between tokens of a tile: {bits}; {14 if parts >= 2 else 23} are held"


def _is_of(row: Measurement, decision: Decision) -> bool:
    choice = decision.found.choice
    return not row.prepared and (row.status, row.workload, row.path, row.kernel, row.storage) == (
        Status.OK, choice.workload, choice.path, choice.kernel, choice.storage,
    )  # fmt: skip


def _config(decision: Decision) -> str:
    return " ".join(f"{name}={value}" for name, value in decision.config.items())


def _time(row: Measurement) -> str:
    return f"{row.p50_ms:.4g} ms (p20 {row.p20_ms:.4g}, p80 {row.p80_ms:.4g}; n {row.n})"


def _error(row: Measurement, budget: Budget) -> Iterator[tuple[str, str]]:
    metrics = dict.fromkeys(clause.key for clause in budget.of(row.workload.phase).clauses)

    def listed(errors: Errors) -> str:
        return ", ".join(
            f"{metric} {numbers[metric]:.2e} on {family}"
            for metric in metrics
            for family, numbers in errors.items()
            if metric in numbers
        )

    yield "error", listed(row.errors)
    if row.n_draws is None:
        yield "bound", "none: the profile has measured errors alone"
    else:
        sure = f"{percent_sure(confidence_of(row.n_draws))} % sure for 95 % of draws"
        sure += f", from {row.n_draws}"
        sure += beside(row.n_draws, row.captured)
        yield "bound", f"{listed(row.bounds)}; {sure}"
