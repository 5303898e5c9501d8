"""Profiles as pandas frames, for notebooks and for the formats that programs read."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum

import pandas as pd

from autoprec.report.facts import config_text
from autoprec.report.held import Metric
from autoprec.report.outcomes import Judged, Outcome, outcomes
from autoprec.report.pairs import Pair, pairs
from autoprec.report.rates import tokens_s
from autoprec.types import Profile, Workload

_WORKLOAD = {
    "phase": "prefill, append or decode",
    "batch": "requests",
    "q_len": "new tokens of each request",
    "kv_len": "keys of each request, the new tokens included",
    "q_heads": "query heads",
    "kv_heads": "KV heads",
    "head_dim": "elements of a query or key vector",
    "head_dim_v": "elements of a value vector",
    "mask": "causal or full",
    "window": "keys a query sees at most; missing where it sees all",
    "soft_cap": "tanh cap on the logits; missing where there is none",
    "layout": "how K and V lie in memory",
    "page_size": "tokens of a page; missing where there are no pages",
    "sinks": "whether each head has a logit of its own beside its keys",
    "input_dtype": "type of q, k and v",
    "out_dtype": "type of the output",
}

COLUMNS = {
    "profile": "the label given",
    "workload": "the workload in one line",
    **_WORKLOAD,
    "role": "candidate or baseline",
    "path": "precision path, or the baseline's name",
    "kernel": "what ran",
    "config": "launch configuration, such as block_q=128 num_warps=8",
    "storage": "form in which K and V were given: the inputs' own, or that of a cache",
    "conversion": "whether bringing them into the path's form is in the time: included, none (they "
    "have it), or amortised (done once beforehand, or by the append to a cache; a baseline's heads "
    "repeated)",
    "consistent": "whether it ran in consistent mode",
    "status": "ok, unsupported, failed or skipped",
    "p20_ms": "20th percentile of the time, milliseconds",
    "p50_ms": "median time, milliseconds",
    "p80_ms": "80th percentile of the time, milliseconds",
    "n": "timed samples",
    "workspace_gib": "memory a run takes beyond inputs and outputs, K and V in the path's form "
    "included, GiB; missing on a CPU, where nobody counts",
    "tflops": "operations of both products, counted once, over the median time, 1e12 per second",
    "gb_s": "bytes of K and V, read once, over the median time, 1e9 per second",
    "tokens_s": "new tokens of all requests over the median time, per second",
    "token_bytes": "what a token of a request takes in memory, K and V over all heads",
    "ceiling_share": "part of the measured ceiling: for prefill and append, tflops over the rate "
    "of a matrix product of the path's operand type (of a baseline, the input's), or of fp32 where "
    "that is faster; for decode, gb_s over the copy bandwidth, read and written bytes counted",
    "rel_l2": "relative L2 error of whole outputs, the largest over the input families",
    "worst_family": "the input family with that error",
    "row_rel_p999": "99.9th percentile of the rows' relative L2 errors, largest over the families",
    "lse_abs": "absolute error of the log-sum-exp, nats, largest over the families",
    "rel_l2_bound": "the largest rel_l2 of any head drawn, over the families; missing without "
    "draws",
    "rel_l2_held": "what a budget on rel_l2 is held to: the larger of rel_l2 and rel_l2_bound, or "
    "rel_l2 where there is no bound",
    "held_family": "the input family with rel_l2_held",
    "families": "the input families it was measured on, such as gauss outlier",
    "n_draws": "independent draws of each family but of captured ones all of whose heads were "
    "drawn; missing in a profile without bounds",
    "confidence": "that 95 % of draws keep to the bound, for the family with the fewest draws, "
    "captured ones too",
    "baseline": "what speedup is over: the fastest baseline within the budget on the workload; "
    "where none is within, the fastest of all",
    "baseline_within_budget": "whether that baseline keeps to the budget",
    "speedup": "the baseline's median time over this one's; above 1 is faster than the baseline",
    "verdict": "chosen, slower, less accurate (no clear difference in time), prepared (K and V "
    "converted outside the time: never chosen), cached (K and V in a cache in another form), "
    "consistent (in that mode), too few draws, over budget, baseline "
    "(within the budget), unsupported, failed or skipped",
    "reason": "why it was not chosen, or not measured; empty for the choice",
}
"""Columns of ``frame``: what each one holds, its unit in its name where it has one."""

COMPARED = {
    "profile_a": "the first profile's label",
    "profile_b": "the second profile's label",
    "workload": "the workload in one line",
    **_WORKLOAD,
    "role": "candidate or baseline",
    "path": "precision path, or the baseline's name",
    "prepared": "whether K and V were brought into the path's form outside the time",
    "variant": "prepared, or fp16x2 cache and the like (K and V in a cache in that form), or "
    "consistent; empty for the path as it is chosen",
    **{
        f"{name}_{side}": f"{meaning} in the {which} profile"
        for name, meaning in {
            "kernel": "the fastest kernel of the path",
            "p20_ms": "20th percentile of its time, milliseconds,",
            "p50_ms": "its median time, milliseconds,",
            "p80_ms": "80th percentile of its time, milliseconds,",
            "rel_l2": "its relative L2 error of whole outputs, largest over the input families,",
            "rel_l2_held": "what a budget on rel_l2 is held to,",
            "verdict": "its verdict",
        }.items()
        for side, which in {"a": "first", "b": "second"}.items()
    },
    "speedup": "p50_ms_a over p50_ms_b: above 1, the second is faster; missing where one has none",
    "change": "such as 1.25x faster, 1.10x slower, same, inconclusive (the noise is larger than "
    "the difference), or which profile has it alone",
}
"""Columns of ``compared``."""

# Columns with gaps, which pandas would otherwise type by what happens to be there.
_INTEGERS = dict.fromkeys(("window", "page_size", "n_draws"), "Int64")
_TYPES = {**_INTEGERS, "baseline_within_budget": "boolean"} | dict.fromkeys(
    [
        "soft_cap", "p20_ms", "p50_ms", "p80_ms", "p20_ms_a", "p50_ms_a", "p80_ms_a", "p20_ms_b",
        "p50_ms_b", "p80_ms_b", "tflops", "gb_s", "tokens_s", "ceiling_share", "rel_l2", "rel_l2_a",
        "rel_l2_b", "rel_l2_held", "rel_l2_held_a", "rel_l2_held_b",
        "row_rel_p999", "lse_abs", "speedup", "workspace_gib", "rel_l2_bound", "confidence",
    ],
    "float64",
)  # fmt: skip


def frame(profile: Profile, label: str = "") -> pd.DataFrame:
    """One row per measurement; ``COLUMNS`` says what each column holds.

    Rows stand by workload, the fastest first and what was not measured last.

    Args:
        profile: What ``autoprec tune`` saved; ``autoprec.profile.read`` reads it.
        label: Goes into the column ``profile``.

    Example:
        >>> table = frame(read("machine.json"))
        >>> table.query("verdict == 'chosen'")[["workload", "path", "p50_ms", "rel_l2"]]
    """
    return of_outcomes(outcomes(profile), label)


def compared(a: Profile, b: Profile, label_a: str = "A", label_b: str = "B") -> pd.DataFrame:
    """Two profiles side by side, one row per workload, role and path; ``COMPARED`` has the columns.

    Args:
        a: What is compared against: another machine, an earlier date, another version.
        b: What is compared.
        label_a: Goes into the column ``profile_a``, and ``label_b`` into ``profile_b``.
        label_b: As said.
    """
    return of_pairs(pairs(outcomes(a), outcomes(b)), label_a, label_b)


def of_outcomes(found: Iterable[Outcome], label: str) -> pd.DataFrame:
    """What ``frame`` gives, of a profile already judged."""
    return _framed([_record(row, of, label) for of in found for row in of.rows], COLUMNS)


def of_pairs(found: Iterable[Pair], label_a: str, label_b: str) -> pd.DataFrame:
    """What ``compared`` gives, of profiles already paired."""
    return _framed([_paired(pair, label_a, label_b) for pair in found], COMPARED)


def _record(row: Judged, of: Outcome, label: str) -> dict[str, object]:
    it, held = row.measurement, replace(row.held, metric=Metric("rel_l2"))
    return {
        "profile": label,
        **_sizes(of.workload),
        "role": it.role.value,
        "path": it.path,
        "kernel": it.kernel,
        "config": config_text(it.config),
        "storage": it.storage.value,
        "conversion": it.conversion.value,
        "consistent": it.consistent,
        "status": it.status.value,
        "p20_ms": it.p20_ms,
        "p50_ms": it.p50_ms,
        "p80_ms": it.p80_ms,
        "n": it.n,
        "workspace_gib": it.workspace_gib,
        "tflops": it.tflops,
        "gb_s": it.gb_s,
        "tokens_s": tokens_s(it),
        "token_bytes": of.workload.token_bytes(it.storage),
        "ceiling_share": row.ceiling_share,
        "rel_l2": row.worst("rel_l2"),
        "worst_family": max(it.errors, key=lambda name: it.errors[name]["rel_l2"], default=""),
        "row_rel_p999": row.worst("row_rel_p999"),
        "lse_abs": row.worst("lse_abs"),
        "rel_l2_bound": max((b["rel_l2"] for b in it.bounds.values()), default=None),
        "rel_l2_held": held.largest,
        "held_family": held.family,
        "families": " ".join(it.errors),
        "n_draws": it.n_draws,
        "confidence": None if it.n_draws is None else it.confidence,
        "baseline": of.baseline.path if of.baseline else "",
        "baseline_within_budget": of.baseline_within if of.baseline else None,
        "speedup": row.speedup,
        "verdict": row.verdict.value,
        "reason": row.reason,
    }


def _paired(pair: Pair, label_a: str, label_b: str) -> dict[str, object]:
    return {
        "profile_a": label_a,
        "profile_b": label_b,
        **_sizes(pair.workload),
        "role": pair.role.value,
        "path": pair.path,
        "prepared": pair.variant == "prepared",
        "variant": pair.variant,
        **_side(pair.a, "a"),
        **_side(pair.b, "b"),
        "speedup": pair.speedup,
        "change": pair.change(label_a, label_b),
    }


def _side(row: Judged | None, side: str) -> dict[str, object]:
    if row is None:
        return {f"kernel_{side}": "", f"verdict_{side}": ""}
    it = row.measurement
    return {
        f"kernel_{side}": it.kernel,
        f"p20_ms_{side}": it.p20_ms,
        f"p50_ms_{side}": it.p50_ms,
        f"p80_ms_{side}": it.p80_ms,
        f"rel_l2_{side}": row.worst("rel_l2"),
        f"rel_l2_held_{side}": replace(row.held, metric=Metric("rel_l2")).largest,
        f"verdict_{side}": row.verdict.value,
    }


@functools.lru_cache(maxsize=4096)
def _sizes(workload: Workload) -> Mapping[str, object]:
    """A workload's columns, made once for all of its rows."""
    return {"workload": str(workload)} | {
        name: value.value if isinstance(value, Enum) else value
        for name, value in asdict(workload).items()
    }


def _framed(records: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> pd.DataFrame:
    types = {name: kind for name, kind in _TYPES.items() if name in columns}
    return pd.DataFrame(records, columns=list(columns)).astype(types)
