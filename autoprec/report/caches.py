"""Caches in the forms that were measured: what each takes, and the one that serves all phases."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from autoprec.budget import Budget
from autoprec.policy.standard import standard
from autoprec.policy.storage import fastest, jointly
from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.held import metric
from autoprec.report.labels import short
from autoprec.report.numbers import significant
from autoprec.report.outcomes import Judged, Outcome, Verdict
from autoprec.report.rates import tokens_s
from autoprec.types import Dtype, Phase, Profile, Status, Workload

_NOTES = (
    "K and V were brought into the form as they were appended, which is in no time here; GB/s are "
    "of what a path reads of the cache: fp16 reads one plane of fp16x2, fp16x3 both",
    "tokens/s: new tokens of all requests; bytes/token: what a token takes in the cache, over all "
    "KV heads",
)


def sections(found: Sequence[Outcome], profile: Profile) -> Iterator[Section]:
    """A section on the forms for each phase; none where nothing could be stored in another.

    Args:
        found: Every workload.
        profile: Where they are from.
    """
    shown = [(outcome, rows) for outcome in found if (rows := _rows(outcome))]
    for phase in Phase:
        ours = [it for it in shown if it[0].workload.phase is phase]
        if not ours:
            continue
        heading, names = short([outcome.workload for outcome, _ in ours])
        last = ours[-1] is shown[-1]
        yield Section(
            heading=f"caches, {heading}",
            columns=(
                Column("workload"),
                Column("cache"),
                Column("path"),
                Column("p50 ms", Align.POINT),
                Column("GB/s", Align.POINT),
                Column("tokens/s", Align.POINT),
                Column("bytes/token", Align.RIGHT),
                Column(metric(ours[0][0].budget).title, Align.RIGHT, rank=1),
                Column("verdict", rank=2),
            ),
            rows=tuple(
                _row(name, row) for name, (_, rows) in zip(names, ours, strict=True) for row in rows
            ),
            notes=(*_NOTES, *_joint([it for it, _ in shown], profile)) if last else (),
        )
    if (
        not shown
        and profile.environment.device.kind == "cpu"
        and any(_wide(it.workload) for it in found)
    ):
        note = "other forms of K and V than fp32 were not measured: no kernel for CPUs reads them"
        yield Section(heading="caches", notes=(note,))


def _wide(workload: Workload) -> bool:
    """Whether another form than the inputs' could hold what paths read of them."""
    return workload.input_dtype is Dtype.FP32


def _rows(outcome: Outcome) -> list[Judged]:
    """The fastest on the inputs' own form of what reads caches, and every other form measured."""
    ok = [row for row in outcome.rows if row.measurement.status is Status.OK]
    forms = [row for row in ok if row.verdict is not Verdict.CONSISTENT and row.measurement.cached]
    readers = {row.measurement.kernel for row in forms}
    own = [row for row in ok if row.measurement.kernel in readers and not row.measurement.aside]
    within = [row for row in own if row.verdict is not Verdict.OVER_BUDGET]
    return [*(within or own)[:1], *forms] if forms else []  # the fastest stand first


def _row(name: str, row: Judged) -> Row:
    it = row.measurement
    cells = (
        name,
        it.storage.value,
        it.path,
        significant(it.p50_ms),
        significant(it.gb_s),
        significant(tokens_s(it)),
        str(it.workload.token_bytes(it.storage)),
        str(row.held),
        "over budget" if row.verdict is Verdict.OVER_BUDGET else row.held.within,
    )
    return Row(cells)


def _joint(found: Sequence[Outcome], profile: Profile) -> Iterator[str]:
    """For each geometry, the form that a plan's cache takes, for the largest of its workloads."""
    by_geometry: dict[Workload, dict[Phase, Outcome]] = {}
    for outcome in sorted(found, key=lambda it: it.workload.flops):
        if outcome.choice:
            phases = by_geometry.setdefault(_geometry(outcome.workload), {})
            phases[outcome.workload.phase] = outcome
    budget = Budget.parse(profile.budget)
    for outcomes in by_geometry.values():
        paths, measured = {}, {}
        for phase in Phase:
            if phase in outcomes and (choice := outcomes[phase].choice):
                rows = [row.measurement for row in outcomes[phase].rows]
                paths[phase] = choice.path
                measured[phase] = fastest(rows, standard(rows, budget))
        workloads = [outcomes[phase].workload for phase in paths]
        joint = jointly(paths, workloads[0].input_dtype, measured)
        names = " and ".join(str(workload) for workload in workloads)
        yield f"a cache for {names} is {joint.storage}: {joint.reason}"


def _geometry(workload: Workload) -> Workload:
    """A workload that all phases, lengths and batches of one cache's geometry share."""
    return replace(workload, phase=Phase.DECODE, batch=1, q_len=1, kv_len=1)
