"""What sampled rows may not show: single rows that are wrong, and lengths that are not round."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention
from autoprec.probe.accuracy import Oracle
from autoprec.probe.attempt import DroppedError
from autoprec.probe.contender import Contender
from autoprec.probe.families import FAMILIES
from autoprec.probe.harness import Harness
from autoprec.probe.inputs import call_of, in_layout
from autoprec.types import Phase, Role, Status, Workload

# A row this many times further off than the median row of gauss is wrong.
_ASTRAY = 30.0
_SUSPECTS = 4  # rows of each output that are looked at

# A rel_l2 on gauss this many times what the error model expects is no right kernel's.
_UNLIKE = 4.0
_LEAST = 2.0**-20  # an error up to this is like any path's

# Lengths of keys: one more than whole tiles, and one less.
_EDGES = (65, 127)


def refuse_unlike(
    contender: Contender, rel_l2: float, workload: Workload, harness: Harness
) -> None:
    """Drop what is less accurate on gauss than its path can be.

    Raises:
        DroppedError: It is.
    """
    if harness.judge.expected is None or contender.role is Role.BASELINE or rel_l2 <= _LEAST:
        return
    expected = harness.judge.expected(contender.path, workload)
    if rel_l2 > _UNLIKE * expected:
        raise DroppedError(
            Status.FAILED,
            f"its rel_l2 of {rel_l2:.2e} on gauss is {rel_l2 / expected:.2g} times what its path "
            "gives, so it does not compute what the path says",
        )


def screen(contenders: Sequence[Contender], call: Call, oracle: Oracle, harness: Harness) -> None:
    """Compare whole outputs with each other, and the rows where they differ most with exact ones.

    Args:
        contenders: Those in the running, each with its best configuration and its error on gauss.
        call: Inputs of gauss, of the whole workload.
        oracle: Exact attention of them.
        harness: What all workloads share.
    """
    ranked = sorted(contenders, key=lambda it: it.errors["gauss"]["rel_l2"])
    witness: tuple[Contender, torch.Tensor] | None = None
    suspected: list[tuple[int, ...]] = []
    for contender in ranked:
        try:
            refuse_unlike(
                contender, contender.errors["gauss"]["rel_l2"], contender.workload, harness
            )
            out = contender.output(call, oracle)
            if witness is None:
                witness = contender, out.clone()
                continue
            rows = _furthest(out, witness[1])
            suspected += rows
            _refuse_astray(contender, out, oracle, rows)
        except DroppedError as why:
            contender.drop(why)
    if witness is not None:
        try:  # the next most accurate one differs where the witness itself is wrong
            _refuse_astray(*witness, oracle, suspected[:_SUSPECTS])
        except DroppedError as why:
            witness[0].drop(why)


def _furthest(out: torch.Tensor, other: torch.Tensor) -> list[tuple[int, ...]]:
    """Request, head and query of the rows where two outputs differ most, beside their norms."""
    norms = other.float().norm(dim=-1)
    off = (out.float() - other.float()).norm(dim=-1) / norms.clamp_min(1e-3 * norms.mean())
    places = off.flatten().topk(min(_SUSPECTS, off.numel())).indices.tolist()
    heads, rows = off.shape[1:]
    return [(it // (heads * rows), it // rows % heads, it % rows) for it in places]


def _refuse_astray(
    contender: Contender, out: torch.Tensor, oracle: Oracle, rows: Sequence[tuple[int, ...]]
) -> None:
    typical = max(contender.typical_row, 2.0**-24)
    for place in rows:
        call, (request, head, row), number = oracle.around(place)
        group = call.q.shape[1] // call.k.shape[1]
        pick = (slice(request, request + 1), slice(head // group, head // group + 1))
        exact, _ = attention(
            call.q[request : request + 1, head : head + 1],
            call.k[pick],
            call.v[pick],
            diagonal=call.diagonal,
            sm_scale=call.sm_scale,
            window_left=call.window_left,
            soft_cap=call.soft_cap,
            sinks=None if call.sinks is None else call.sinks[head : head + 1],
            rows=torch.tensor([row], device=call.q.device),
        )
        off = out[place].double() - exact[0, 0, 0]
        error = float(off.norm() / exact.norm().clamp_min(1e-300))
        if error > _ASTRAY * typical:
            raise DroppedError(
                Status.FAILED,
                f"row {row} of head {head} of request {number} is wrong on gauss: its error of "
                f"{error:.2e} is {error / typical:.3g} times the median row's",
            )


def check_edges(contenders: Sequence[Contender], workload: Workload, harness: Harness) -> None:
    """Run small workloads of lengths that are not round.

    Args:
        contenders: Those in the running, each with its best configuration.
        workload: What they were measured on; heads, types and mask are its.
        harness: What all workloads share.
    """
    for it in edges(workload):
        call = call_of(it, *FAMILIES["gauss"].draw(it, harness.seed, harness.device))
        oracle = Oracle(call, "gauss", rows=it.q_len, groups=it.kv_heads, seed=harness.seed)
        call = in_layout(it, call)
        for contender in contenders:
            if contender.status is not Status.OK or contender.role is Role.BASELINE:
                continue
            try:
                compared = contender.attempt(contender.best, call, oracle).comparison
                refuse_unlike(contender, compared.errors["rel_l2"], it, harness)
            except DroppedError as why:
                if why.status is not Status.UNSUPPORTED:  # other shapes may be none of its
                    contender.drop(why.on(it))


def edges(workload: Workload) -> list[Workload]:
    """The small workloads of a workload's kind."""
    few = replace(workload, batch=1)
    if workload.phase is Phase.DECODE:
        return [replace(few, kv_len=kv_len) for kv_len in _EDGES]
    whole, part = _EDGES
    return [
        replace(few, phase=Phase.PREFILL, q_len=whole, kv_len=whole),
        replace(few, phase=Phase.APPEND, q_len=17, kv_len=part),
    ]
