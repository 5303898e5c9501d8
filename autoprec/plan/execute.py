"""Running what was decided: a call like one before goes by its launches, past Triton."""

from typing import Any

import torch

from autoprec.kernels.interface import Call, PackedMask
from autoprec.plan.current import current
from autoprec.plan.decision import Decision
from autoprec.plan.stats import Counts

_MAX_BOUND = 64  # of one decision, by what calls differ in; more would be made at every call


def execute(
    decision: Decision, call: Call, counts: Counts, bound: dict[object, Any] | None = None
) -> int:
    """Run a call as decided, on the current stream of its device; how many were counted before.

    Args:
        bound: See ``run_bound``; None: calls are not alike.
    """
    with current(call.q):
        run(decision, call, bound)
    return counts.called(decision.path)


def run(decision: Decision, call: Call, bound: dict[object, Any] | None) -> None:
    """Run a call as decided, on the current stream of its device, which is the current one.

    Args:
        bound: See ``run_bound``; None: calls are not alike.
    """
    if bound is None or not call.q.is_cuda:
        decision.kernel.run(call, decision.path, decision.config)
    else:
        run_bound(bound, decision, call)


def run_bound(bound: dict[object, Any], decision: Decision, call: Call) -> None:
    """Run a call on the current device, as one before where there was one alike.

    Args:
        bound: The launches of earlier calls, by what a call must share to run them again; None in
            place of launches where the kernel must run each time. All calls that are given the same
            one share types, decision, requests, and what a query sees. It is added to.
    """
    tensors, space = _varying(call), call.workspace
    # of keys and values laid out for requests there may be more or fewer with the same strides
    key = (
        call.sm_scale, None if space is None else (space.data_ptr(), space.numel()),
        *[None if x is None else (x.shape, x.stride(), x.data_ptr() % 16) for x in tensors],
    )  # fmt: skip
    known = bound.get(key, bound)
    if known is bound:
        if len(bound) >= _MAX_BOUND:
            bound.clear()
        bound[key] = _bind(decision, call)
    elif known is None or not known.run(tensors, _stream(call.q.device)):
        decision.kernel.run(call, decision.path, decision.config)


def _bind(decision: Decision, call: Call) -> Any:
    """Run a call; its launches, for the next one like it, or None where the kernel must run."""
    if decision.kernel.launches is None:
        decision.kernel.run(call, decision.path, decision.config)
        return None
    from autoprec.kernels.launches import bind  # where there is a GPU there is Triton

    launches = decision.kernel.launches(call, decision.path, decision.config)
    return bind(launches, _varying(call), _fixed(call))


def _varying(call: Call) -> tuple[torch.Tensor | None, ...]:
    """Tensors that may be others at every call; of prepared ones there are more."""
    tensors = call.q, call.k, call.v, call.out, call.lse, call.lost, call.only_if, call.sinks
    if (planes := call.prepared) is None:
        return tensors
    return *tensors, planes.k.data, planes.v.data, planes.k.inverse, planes.v.inverse


def _fixed(call: Call) -> list[torch.Tensor | None]:
    """Tensors that are the same, and in the same place, in all calls that run these launches."""
    found = [call.workspace]
    requests, mask = call.requests, call.mask
    if requests is not None:
        found += [requests.kv_lens, requests.kv_starts, requests.pages, requests.q_starts]
    if isinstance(mask, PackedMask):
        found += [mask.bits, mask.starts]
    return found


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)
