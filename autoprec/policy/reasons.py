"""Why each path was not taken: one sentence a path."""

from autoprec.policy.bounds import rounding_rel_l2
from autoprec.policy.contest import Contest, Entry
from autoprec.types import Dtype, Role
from autoprec.workloads import tune_command

ROUNDING_REL_L2 = {dtype: rounding_rel_l2(dtype) for dtype in (Dtype.BF16, Dtype.FP16)}
"""The rel_l2 that rounding the output costs, whatever computed it: 1.66e-3 and 2.07e-4."""


def rejected(contest: Contest) -> dict[str, str]:
    """A sentence for every path but the winner's: the fastest first, the unmeasured last."""
    measured: dict[str, list[Entry]] = {}
    for entry in sorted(contest.entries, key=lambda entry: entry.by_time):
        measured.setdefault(entry.row.path, []).append(entry)
    unmeasured: dict[str, set[str]] = {}
    for row in sorted(contest.unmeasured, key=lambda row: row.path):
        sentence = f"{row.status}: {row.reason.rstrip('.')}"
        unmeasured.setdefault(row.path, set()).add(sentence)
    sentences = {path: "; ".join(sorted(found)) for path, found in unmeasured.items()}
    sentences = {path: _measured(found, contest) for path, found in measured.items()} | {
        path: sentence for path, sentence in sentences.items() if path not in measured
    }
    if contest.winner:
        del sentences[contest.winner.row.path]
    return sentences


def _measured(entries: list[Entry], contest: Contest) -> str:
    """Why none of a path's measured rows was taken; the row that came nearest speaks for all."""
    within = [entry for entry in entries if entry.reading.within]
    if not within:
        return _over_budget(min(entries, key=lambda entry: entry.by_error))
    entry = within[0]
    winner, fastest = contest.winner, contest.fastest
    allowed = contest.allow_baselines or entry.row.role is Role.CANDIDATE
    if entry not in contest.eligible and entry.draws < contest.needed and winner:
        if entry.p50_ms >= winner.p50_ms:
            return _slower(entry, winner)
        if allowed:
            return _few(entry, contest.needed)
    if entry in contest.level and winner:
        return _level(entry, winner)
    if entry in contest.eligible and winner and fastest:
        return _slower(entry, winner if winner.p50_ms < entry.p50_ms else fastest)
    if winner and entry.p20_ms > winner.p80_ms:
        return _slower(entry, winner)
    against = f" against {_ms(winner.p50_ms)} of {winner.row.path}" if winner else ""
    return f"a baseline, taken only with --allow-baselines: {_ms(entry.p50_ms)}{against}"


def _over_budget(entry: Entry) -> str:
    """The reading, and whether rounding to the output's dtype alone would break the clause."""
    clause, dtype = entry.reading.clause, entry.row.workload.out_dtype
    cost = ROUNDING_REL_L2.get(dtype, 0.0)
    if clause.key != "rel_l2" or cost <= entry.reading.limit:
        return str(entry.reading)
    return (
        f"{entry.reading}; rounding the output to {dtype} alone costs {cost:.1e}: "
        "try --out-dtype fp32"
    )


def _few(entry: Entry, needed: int) -> str:
    """What is missing, and the command that adds it."""
    candidate = entry.row.role is Role.CANDIDATE
    option = f"--paths {entry.row.path}" if candidate else "--allow-baselines"
    return (
        f"within the budget on {entry.draws:.0f} of the {needed} draws that it needs to be chosen: "
        f"{tune_command(entry.row.workload)} {option}"
    )


def _slower(entry: Entry, other: Entry) -> str:
    times = entry.p50_ms / other.p50_ms
    return (
        f"{f'{times:.2f}x' if times >= 1.005 else 'under 1 %'} slower than {other.row.path}: "
        f"{_ms(entry.p50_ms)} against {_ms(other.p50_ms)}"
    )


def _level(entry: Entry, winner: Entry) -> str:
    """Why a row that is level in time with the winner was not taken."""
    path, mine, its = winner.row.path, entry.reading, winner.reading
    ranges = f"({_range(entry)} against {_range(winner)})"
    if mine.margin < its.margin:
        return (
            f"no clear difference in time from {path} {ranges}, which is more accurate: "
            f"{mine.clause.key} {mine.value:.2e} against {its.value:.2e}"
        )
    what = "has the lower median" if winner.p50_ms < entry.p50_ms else "comes first by name"
    return f"no clear difference from {path} in time {ranges} or error: {path} {what}"


def _range(entry: Entry) -> str:
    return f"{_number(entry.p20_ms)} to {_ms(entry.p80_ms)}"


def _ms(value: float) -> str:
    return f"{_number(value)} ms"


def _number(ms: float) -> str:
    """Four digits, and never an exponent for a time that can be waited for."""
    return f"{ms:.4g}" if ms < 1000 else f"{ms:.0f}"
