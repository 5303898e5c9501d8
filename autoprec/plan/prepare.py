"""From keys and values to a PreparedKV."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import Prepared, run_launches
from autoprec.plan import arguments
from autoprec.plan.current import current
from autoprec.plan.decision import Decision
from autoprec.plan.prepared import PreparedKV
from autoprec.plan.request import Request
from autoprec.plan.run import Runner
from autoprec.plan.stats import Counts


def prepare_kv(
    runner: Runner,
    request: Request,
    k: Tensor,
    v: Tensor,
    q_len: int,
    q_heads: int | None,
    in_words: Callable[[Decision], str],
) -> PreparedKV:
    """Check, decide, and fill the planes; the arguments are those of ``Plan.prepare_kv``.

    Args:
        in_words: Explains a decision.

    Raises:
        AutoprecError: As said there.
    """
    arguments.check_layout(request.layout)
    arguments.check_tensors(arguments.KV, k, k, v)
    arguments.check_batch_and_heads(arguments.KV, request.layout, k, k, v)
    heads, tokens = request.layout.index("h"), request.layout.index("s")
    if k.numel() == 0 or v.numel() == 0:
        raise InputError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)}: there is nothing to prepare in what has "
            "no elements."
        )
    if q_heads is None:
        q_heads = k.shape[heads]
    for name, size in (("q_len", q_len), ("q_heads", q_heads)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"{name} must be a whole number above zero, got {size!r}.")
    arguments.check_gradients(arguments.KV, k, k, v)
    shape = list(k.shape)
    shape[tokens], shape[heads] = q_len, q_heads
    resolved = runner.resolve(request, _like(k, shape), k, v)
    # what could be computed again from k and v alone must not be lost to a narrow range
    decision = resolved.safe or resolved.decision
    assert decision is not None  # there are queries, and keys
    if request.layout == "bshd":
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    planes = _planes(runner.counts, decision, k, v)
    return PreparedKV(
        path=decision.path,
        kernel=decision.kernel.name,
        config=dict(decision.config),
        kv_len=k.shape[2],
        nbytes=0 if planes is None else planes.nbytes,
        _k=k if planes is None else _like(k, k.shape),
        _v=v if planes is None else _like(v, v.shape),
        _planes=planes,
        _decision=decision,
        _in_words=lambda: in_words(decision),
    )


def _planes(counts: Counts, decision: Decision, k: Tensor, v: Tensor) -> Prepared | None:
    """K and V ``bhsd`` as the decision's kernel reads them, being filled; None: as they are."""
    kernel, path = decision.kernel, decision.path
    if kernel.prepare is None or not kernel.converts(path, decision.workload.input_dtype):
        return None
    lost = counts.lost(k.device) if decision.counts_range else None
    with current(k):
        planes = kernel.prepare(k, v, path, decision.config, lost)
        run_launches(planes.launches)
    # without the launch, which holds k and v
    return replace(planes, launches=[])


def _like(tensor: Tensor, shape: list[int] | torch.Size) -> Tensor:
    """A tensor that takes one element of memory, whatever its shape."""
    return tensor.new_zeros(1).expand(*shape)
