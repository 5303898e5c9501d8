"""Hugging Face transformers models on a plan: ``apply(model)``, or ``attn_implementation``.

``register`` makes ``attn_implementation="autoprec"`` known, attention and masks both: without the
second, transformers would leave padding out in silence. Only the forward pass is computed.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.plan import torch_op
from autoprec.plan.plan import Plan
from autoprec.plan.sdpa import plan_for
from autoprec.plan.sight import Sight
from autoprec.plan.torch_op import NOBODY, Caller

try:
    from transformers import AttentionInterface, PreTrainedModel
    from transformers.masking_utils import (
        AttentionMaskInterface,
        and_masks,
        causal_mask_function,
        sdpa_mask,
        sliding_window_overlay,
    )
    from transformers.utils.import_utils import is_tracing
except ImportError as error:  # it is not here, or too old
    raise ImportError(
        f"autoprec.transformers needs Hugging Face's transformers, and here: {error}. "
        "Try: pip install 'autoprec[transformers]'",
        name=error.name,
    ) from error

NAME = "autoprec"

_NUMBER = "_autoprec_caller"  # the attribute of a module that holds its number


def register() -> None:
    """Make ``attn_implementation="autoprec"`` known to transformers; once or more often.

    Models then run the plan of ``autoprec.plan.sdpa.use``, else what ``load_plan`` finds.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)


class Applied:
    """A plan in use by a model: what it was called for, and what it was not."""

    def __init__(self, callers: list[Caller], expected: list[str]) -> None:
        """Know who may call and, by name, who is expected to."""
        self._callers = callers
        self._expected = expected

    @property
    def calls(self) -> dict[str, int]:
        """Calls by module, of those that called."""
        return {caller.name: caller.calls for caller in self._callers if caller.calls}

    @property
    def plans(self) -> list[Plan]:
        """The plans in use, one for most models, for their ``stats``."""
        return list(dict.fromkeys(it.plan for it in self._callers if it.calls and it.plan))

    @property
    def missed(self) -> list[str]:
        """Attention modules that have not called yet.

        After a forward pass of the whole model: those that compute attention in a way of their own.
        """
        return [name for name in self._expected if name not in self.calls]

    def __str__(self) -> str:
        """Both, for people."""
        calls, missed = self.calls, self.missed
        total = sum(calls.values())
        told = f"{total} calls of {len(calls)} attention modules"
        if missed:
            told += f"; not reached: {', '.join(missed)}"
        return told


def apply(model: PreTrainedModel, plan: Plan | None = None) -> Applied:
    """Have a model compute its attention by a plan, from its next forward pass on.

    Args:
        model: Where its attention goes through transformers' interface, which most models' does;
            ``missed`` of what is returned names the modules whose does not. Another
            ``model.set_attn_implementation`` takes it back.
        plan: None: that of ``autoprec.plan.sdpa.use``, else what ``load_plan`` finds for the
            model's device. Where its budget names layers, or its profile has tensors captured of
            them, each runs ``plan.for_layer``.

    Raises:
        InputError: That is no model of transformers.
        AutoprecError: As ``load_plan`` does.
    """
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"model must be a transformers.PreTrainedModel, got {type(model).__name__}."
        )
    if plan is None:
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) == 1 and torch.device("meta") not in devices:
            plan = plan_for(next(model.parameters()))
    register()
    model.set_attn_implementation(NAME)
    callers, numbers, plans = [], [], dict[int | None, Plan | None]()
    for name, module in model.named_modules():
        layer = getattr(module, "layer_idx", None)
        if layer not in plans:
            plans[layer] = plan if plan is None or layer is None else plan.for_layer(layer)
        callers.append(Caller(name or type(model).__name__, plans[layer]))
        numbers.append(torch_op.enlist(callers[-1]))
        setattr(module, _NUMBER, numbers[-1])
    weakref.finalize(model, torch_op.dismiss, numbers)
    return Applied(callers, _attention_modules(model))


def _attention_modules(model: PreTrainedModel) -> list[str]:
    """Names of the innermost modules that are called attention."""
    named = [name for name, module in model.named_modules() if "Attention" in type(module).__name__]
    return [name for name in named if not any(other.startswith(f"{name}.") for other in named)]


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer.

    Args:
        query: ``[batch, q_heads, q_len, head_dim]``.
        key: ``[batch, kv_heads, kv_len, head_dim]``.
        value: ``[batch, kv_heads, kv_len, head_dim_v]``.
        attention_mask: What ``mask`` made, or the user's own: bool, or added to the logits.
        sliding_window: Looked at only where there is no mask, which else has it.
        s_aux: ``[q_heads]``, a logit of each head beside its keys.
        position_bias: What can be broadcast to the logits, and joins them.

    Returns:
        ``[batch, q_len, q_heads, head_dim_v]``, and None for the weights.

    Raises:
        UnsupportedError: Dropout, a gradient, weights or a paged cache are asked for.
        AutoprecError: As ``Plan.attention`` does.
    """
    _refuse(query, key, value, dropout, kwargs)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    q_len, kv_len = query.shape[2], key.shape[2]
    causal = upper_left = False
    window, seen = None, None
    if isinstance(attention_mask, Sight):
        causal, window, seen = True, attention_mask.window, attention_mask.padding
        kv_len = attention_mask.offset + q_len
        seen = seen if seen is None else seen[:, None, None]
    elif attention_mask is not None:
        seen = attention_mask[..., :kv_len]
    elif is_causal:
        # no mask is a causal one aligned upper-left, as of a static cache that was empty; a single
        # query, in decoding, sees all
        causal, window, upper_left = True, sliding_window, q_len > 1
        kv_len = min(q_len, kv_len) if upper_left else kv_len
    if position_bias is not None:
        seen = _biased(seen, position_bias[..., :kv_len])
    run = torch_op.attention if torch.compiler.is_compiling() else torch_op.attend
    out = run(
        query, key[:, :, :kv_len], value[:, :, :kv_len], seen,
        None if s_aux is None else s_aux.float(), causal, upper_left, scaling, window, softcap,
        getattr(module, _NUMBER, NOBODY),
    )  # fmt: skip
    return out, None


def _refuse(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, others: dict[str, Any]
) -> None:
    """Refuse what no kernel does, rather than leave it out.

    Raises:
        UnsupportedError: As said.
    """
    if dropout:
        raise UnsupportedError(f"dropout is {dropout}, and no kernel here drops anything.",
                               "model.eval()")  # fmt: skip
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise UnsupportedError("a gradient is asked for, and no kernel here computes one.",
                               "torch.no_grad()")  # fmt: skip
    if others.get("output_attentions"):
        raise UnsupportedError("attention weights are asked for, and no kernel here keeps them.",
                               'attn_implementation="eager"')  # fmt: skip
    if "Paged" in type(others.get("cache")).__name__:
        raise UnsupportedError("continuous batching is asked for, and its cache is not read here.",
                               'attn_implementation="sdpa" for generate_batch')  # fmt: skip


def _biased(seen: Tensor | None, bias: Tensor) -> Tensor:
    """A bias of the logits with a mask laid over it."""
    if seen is None:
        return bias
    if seen.dtype == torch.bool:
        return torch.where(seen, bias, float("-inf"))
    return bias + seen


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """What transformers calls once for a forward pass and kind of layers; as its ``sdpa_mask``.

    Causal masks and sliding windows, padded or not, are a ``Sight``, which takes no memory;
    everything else (overlays, packed sequences, offsets that only the device knows) is the mask
    that ``sdpa_mask`` writes out.

    Returns:
        ``[batch, 1, q_len, kv_len]``, True where a query sees a key; None where ``attention``
        knows what is seen without it.
    """
    window, offset = None, -1
    # a graph that is being traced can look into no function, and into no padding
    if allow_is_causal_skip and not use_vmap and not is_tracing(attention_mask):
        window = _window_of(mask_function)
        if isinstance(q_offset, int) and isinstance(kv_offset, int):
            offset = q_offset - kv_offset
    if window is None or not 0 <= offset <= kv_length - q_length:
        written: Tensor | None = sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            local_size, allow_is_causal_skip, use_vmap=use_vmap, device=device, **kwargs,
        )  # fmt: skip
        return written
    last = offset + q_length
    padding = None
    if attention_mask is not None:
        padding = attention_mask[:, kv_offset : kv_offset + last].to(torch.bool)
        padding = torch.nn.functional.pad(padding, (0, last - padding.shape[1]))
        padding = None if bool(padding.all()) else padding
    own = window if 0 < window < last else None
    known = last == kv_length if q_length == 1 else offset == 0
    if known and padding is None and own is None:
        return None
    shape = (batch_size, q_length, kv_length)
    sight = Sight(shape, offset, own, padding, torch.device(device))
    # for a single query it is small, and a compiled layer need not know where the query stands
    return sight.dense() if q_length == 1 and padding is not None else sight


_ANY_WINDOW = sliding_window_overlay(1)
_ANY_BOTH = and_masks(causal_mask_function)


def _window_of(mask_function: Any) -> int | None:
    """The window of a sliding causal mask, 0 for a causal one without; None for all others."""
    if mask_function is causal_mask_function:
        return 0
    if getattr(mask_function, "__code__", None) is not _ANY_BOTH.__code__:
        return None
    parts = _captured(mask_function).get("mask_functions", ())
    if len(parts) != 2 or parts[1] is not causal_mask_function:
        return None
    if getattr(parts[0], "__code__", None) is not _ANY_WINDOW.__code__:
        return None
    window = _captured(parts[0]).get("sliding_window")
    return window if isinstance(window, int) and window > 0 else None


def _captured(function: Any) -> dict[str, Any]:
    """What a function made inside another holds of it, by name."""
    cells = function.__closure__ or ()
    return {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
    }
