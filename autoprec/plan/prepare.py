"""From keys and values to a PreparedKV."""

from collections.abc import Callable

import torch
from torch import Tensor

from autoprec.errors import InputError
from autoprec.plan import arguments
from autoprec.plan.decide import Decision
from autoprec.plan.prepared import PreparedKV
from autoprec.plan.run import Request, Runner

_NAMES = ("k", "k", "v")  # for checks of three, while there is no q


def prepare_kv(
    runner: Runner,
    request: Request,
    k: Tensor,
    v: Tensor,
    q_len: int,
    q_heads: int | None,
    told: Callable[[Decision], str],
) -> PreparedKV:
    """Check, decide, and fill the planes; the arguments are those of ``Plan.prepare_kv``.

    Args:
        told: Explains a decision.

    Raises:
        AutoprecError: As said there.
    """
    arguments.check_layout(request.layout)
    arguments.check_tensors(_NAMES, k, k, v)
    arguments.check_batch_and_heads(_NAMES, request.layout, k, k, v)
    heads = request.layout.index("h")
    for name, size in (("q_len", q_len), ("q_heads", q_heads)):
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not (whole and size > 0) and not (name == "q_heads" and size is None):
            raise InputError(f"{name} must be a whole number above zero, got {size!r}.")
    if torch.is_grad_enabled():
        arguments.check_gradients(_NAMES, k, k, v)
    shape = list(k.shape)
    shape[request.layout.index("s")] = q_len
    shape[heads] = shape[heads] if q_heads is None else q_heads
    decision = runner.prepare(request, _like(k, shape), k, v).decision
    if decision is None:
        raise InputError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} have no elements: "
            "there is nothing to prepare."
        )
    if request.layout == "bshd":
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    planes = runner.planes(decision, k, v)
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
        _told=lambda: told(decision),
    )


def _like(tensor: Tensor, shape: list[int] | torch.Size) -> Tensor:
    """A tensor that takes one element of memory, whatever its shape."""
    return tensor.new_zeros(1).expand(*shape)
