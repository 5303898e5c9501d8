"""Queries, keys and values of a running model into a file, which ``autoprec tune --inputs`` reads.

Every call of ``torch.nn.functional.scaled_dot_product_attention`` is seen, and every attention of
a transformers model, whichever implementation it has. A few calls of each layer are kept, a few
heads of each, on the CPU; the file stays below a size.
"""

import contextlib
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoprec.errors import InputError
from autoprec.plan.recording import Recording, Seen
from autoprec.plan.visible import Unusable

_GIB = 1 << 30


@contextlib.contextmanager
def capture(
    model: nn.Module | None,
    path: str | os.PathLike[str],
    *,
    calls: int = 4,
    heads: int = 4,
    tokens: int = 4096,
    max_bytes: int = _GIB // 2,
) -> Iterator[Recording]:
    """Record what attention is called with, inside the ``with``.

    Results are what they are without it; compiled functions run eagerly meanwhile. Calls of this
    thread are seen. Fewer calls, heads and tokens are kept where the file would grow too large.

    Args:
        model: Whose modules name the layers; None: they are numbered alone.
        path: The file, safetensors; written on leaving, whole or not at all.
        calls: Kept of each layer, spread over all there are.
        heads: KV heads kept of a call, each with its query heads.
        tokens: Kept of a head: the first ones; where queries stand behind many keys, those in the
            middle are left out.
        max_bytes: Of all tensors.

    Raises:
        InputError: The file cannot be written, an argument is no number above zero, or no call
            could be recorded; the sentence says why.
    """
    for name, value in (("calls", calls), ("heads", heads), ("tokens", tokens),
                        ("max_bytes", max_bytes)):  # fmt: skip
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a whole number above zero, got {value!r}.")
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module or None, got {type(model).__name__}.")
    _check(Path(path))
    recording = Recording(calls, heads, tokens, max_bytes)
    names = {} if model is None else {id(it): name for name, it in model.named_modules()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        # that the hooks are told twice of a compiled module: it has one attention all the same
        warnings.filterwarnings("ignore", r"Using `torch.compile\(module\)` when there are global")
        layers = stack.enter_context(_layers(names))
        inside = stack.enter_context(_transformers(recording, layers))
        stack.enter_context(_torch(recording, layers, inside))
        yield recording
    recording.write(Path(path))


def _check(path: Path) -> None:
    """Refuse a file that cannot be written, before a model runs for it."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file.", "name a file in it")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: {folder} is no folder that can be written to.")


class _Layers:
    """Which module is at work: the innermost one that has been entered and not left."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._stack: list[nn.Module] = []
        self._thread = threading.get_ident()

    @property
    def ours(self) -> bool:
        """Whether this is the thread that is captured."""
        return threading.get_ident() == self._thread

    def enter(self, module: nn.Module, *_: Any) -> None:
        if self.ours:
            self._stack.append(module)

    def leave(self, module: nn.Module, *_: Any) -> None:
        while self.ours and self._stack:
            if self._stack.pop() is module:
                return  # others above it raised, and have not left

    def now(self, module: nn.Module | None = None) -> str:
        """The name of a module, or of the one at work; what no module calls has none."""
        module = module if module is not None else (self._stack or [None])[-1]  # type: ignore[list-item]
        if module is None:
            return ""
        return self._names.get(id(module)) or f"{type(module).__name__} {id(module):x}"


@contextlib.contextmanager
def _layers(names: dict[int, str]) -> Iterator[_Layers]:
    """Follow which module is at work."""
    layers = _Layers(names)
    every = nn.modules.module
    hooks = (
        every.register_module_forward_pre_hook(layers.enter),
        every.register_module_forward_hook(layers.leave, always_call=True),
    )
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


_SDPA = functional.scaled_dot_product_attention


class _Functions(TorchFunctionMode):
    """Sees calls of torch's attention, by whatever name they reach it."""

    def __init__(self, watched: Callable[..., Tensor]) -> None:
        super().__init__()
        self._watched = watched

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return (self._watched if func is _SDPA else func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def _torch(recording: Recording, layers: _Layers, inside: list[bool]) -> Iterator[None]:
    """See calls of torch's attention, also from within torch's own functions and modules."""

    @functools.wraps(_SDPA)
    def watched(*args: Any, **kwargs: Any) -> Tensor:
        if not layers.ours or inside:
            return _SDPA(*args, **kwargs)
        _record(recording, layers.now(), _seen(*args, **kwargs))
        inside.append(True)
        try:
            return _SDPA(*args, **kwargs)
        finally:
            inside.pop()

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which is one function, attention included
    # A function of torch's is seen as a whole, and what it calls is not: hence the name as well.
    functional.scaled_dot_product_attention = watched
    try:
        with _Functions(watched):
            yield
    finally:
        functional.scaled_dot_product_attention = _SDPA
        torch.backends.mha.set_fastpath_enabled(fast)


def _record(recording: Recording, layer: str, seen: "Seen | Unusable") -> None:
    with torch.no_grad():
        recording.take(layer, seen)


def _seen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> "Seen | Unusable":
    """A call of torch's attention, whose causal mask is aligned upper-left."""
    if min(query.dim(), key.dim(), value.dim()) < 3:
        return Unusable("tensors of fewer than 3 axes")
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    if is_causal and k.shape[2] > q.shape[2]:  # no query sees those beyond
        k, v = k[:, :, : q.shape[2]], v[:, :, : q.shape[2]]
    return Seen(q, k, v, mask=attn_mask, causal=is_causal, sm_scale=scale)


@contextlib.contextmanager
def _transformers(recording: Recording, layers: _Layers) -> Iterator[list[bool]]:
    """See the attention of transformers' models, where that package is in use.

    Its heads are not repeated yet there, and an eager implementation is seen as well.

    Yields:
        What is not empty while such a call is under way, which was seen then.
    """
    inside: list[bool] = []
    modeling = sys.modules.get("transformers.modeling_utils")
    interface = getattr(modeling, "ALL_ATTENTION_FUNCTIONS", None)
    if interface is None or not hasattr(interface, "get_interface"):
        yield inside
        return
    find = interface.get_interface

    def watched(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = find(name, default)

        @functools.wraps(function)
        def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                   attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:  # fmt: skip
            if not layers.ours:
                return function(module, query, key, value, attention_mask, *args, **kwargs)
            seen = _of_transformers(module, query, key, value, attention_mask, kwargs)
            _record(recording, layers.now(module), seen)
            inside.append(True)
            try:
                return function(module, query, key, value, attention_mask, *args, **kwargs)
            finally:
                inside.pop()

        return attend

    interface.get_interface = watched
    try:
        yield inside
    finally:
        del interface.get_interface


def _of_transformers(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, kwargs: dict[str, Any]
) -> "Seen | Unusable":
    """A call of an attention function of transformers."""
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            return Unusable(f"{name}, of which files of captured tensors say nothing")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 4):
        return Unusable("a mask that is not of 4 axes")
    causal = kwargs.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    causal = bool(causal) and mask is None and q.shape[2] > 1
    window = kwargs.get("sliding_window")
    if window is not None and mask is None and k.shape[2] > window:
        return Unusable("a sliding window, of which files of captured tensors say nothing")
    if causal and k.shape[2] > q.shape[2]:  # a static cache: what is beyond is not filled yet
        k, v = k[:, :, : q.shape[2]], v[:, :, : q.shape[2]]
    return Seen(q, k, v, mask=mask, causal=causal, sm_scale=kwargs.get("scaling"))
