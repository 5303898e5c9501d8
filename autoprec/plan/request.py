"""What a call asks for beside queries, keys and values."""

from typing import NamedTuple

import torch
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import DTYPES
from autoprec.plan import arguments
from autoprec.plan.arguments import Names
from autoprec.types import Phase

QKV: Names = ("q", "k", "v")

# Of two planes, what is read of them: both, or the high one alone.
ACCURACIES = {"full": ("fp16x3",), "hi": ("fp16",)}


class Request(NamedTuple):
    """What a call asks for beside queries, keys and values, as the user gave it.

    Attributes:
        causal: Whether queries see no later keys, like what follows not yet checked.
        named: The phase of the method that was called, or None.
        accuracy: ``full``, ``hi``, or None for what the budget asks for; of a cache alone.
        window: Keys a query sees at most, itself included.
        soft_cap: The tanh cap on logits.
        sinks: fp32 ``[q_heads]``.
        mask: What queries see, or what joins their logits; not on a cache.
        upper_left: Whether a causal mask is aligned upper-left, as torch's is.
        names: What the caller calls q, k and v.
    """

    causal: bool
    out_dtype: object = None
    return_lse: bool = False
    layout: str = "bhsd"
    named: Phase | None = None
    accuracy: str | None = None
    window: int | None = None
    soft_cap: float | None = None
    sinks: Tensor | None = None
    mask: Tensor | None = None
    upper_left: bool = False
    names: Names = QKV

    @property
    def key(self) -> object:
        """What decides, of all this, what runs."""
        mask = None if self.mask is None else self.mask.dtype
        return type(self.causal), self[:8], self.sinks is None, mask, self[10:]  # 1 == True

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What a call reads of it."""
        if self.sinks is None and self.mask is None:
            return ()
        return tuple(x for x in (self.sinks, self.mask) if x is not None)

    def fitting(self, shape: tuple[int, ...], device: torch.device) -> "Request":
        """The same as kernels read it, where it fits the queries and keys.

        Args:
            shape: ``(batch, q_heads, q_len, kv_len)``.
            device: That of the queries.

        Raises:
            InputError: Sinks or mask do not fit.
            UnsupportedError: One of them requires a gradient.
        """
        self.check_sinks(shape[1], device)
        return self._replace(mask=self._expanded_mask(shape, device))

    def check(self) -> None:
        """Refuse what no call takes; what tensors must be like is checked with them.

        Raises:
            InputError: As said.
        """
        if self.accuracy is not None and self.accuracy not in ACCURACIES:
            raise InputError(f"accuracy must be {' or '.join(ACCURACIES)}, got {self.accuracy!r}.")
        if self.window is not None and (type(self.window) is not int or self.window < 1):
            raise InputError(f"window must be a whole number of at least 1, got {self.window!r}.")
        if not isinstance(self.soft_cap, float | int | None):
            raise InputError(f"soft_cap must be a number, got {self.soft_cap!r}.")
        if self.mask is not None and not isinstance(self.mask, Tensor):
            raise InputError(f"attn_mask must be a torch.Tensor, got {type(self.mask).__name__}.")

    def check_causal(self) -> None:
        """Refuse what is neither True nor False.

        Raises:
            InputError: As said.
        """
        if not isinstance(self.causal, bool):
            name = "is_causal" if self.upper_left else "causal"
            raise InputError(f"{name} must be True or False, got {self.causal!r}.")

    def check_sinks(self, q_heads: int, device: torch.device) -> None:
        """Refuse sinks that do not fit queries.

        Raises:
            InputError: As said.
            UnsupportedError: They require a gradient.
        """
        sinks = self.sinks
        if sinks is None:
            return
        if not isinstance(sinks, Tensor):
            raise InputError(f"sinks must be a torch.Tensor, got {type(sinks).__name__}.")
        if (sinks.dtype, sinks.shape, sinks.device) != (torch.float32, (q_heads,), device):
            raise InputError(
                f"sinks must be float32 ({q_heads},) on {device}, got {sinks.dtype} "
                f"{tuple(sinks.shape)} on {sinks.device}."
            )
        if not sinks.is_contiguous():
            raise InputError(
                f"sinks {tuple(sinks.shape)} have strides {sinks.stride()}; they must be "
                "contiguous.", "sinks.contiguous()",
            )  # fmt: skip
        arguments.check_gradient("sinks", sinks)

    def refuse_accuracy(self) -> None:
        """Refuse what only a cache has.

        Raises:
            UnsupportedError: It is given.
        """
        if self.accuracy is not None:
            raise UnsupportedError("accuracy is given, and only calls on a KVCache take it.",
                                   "plan.new_kv_cache")  # fmt: skip

    def refuse_mask(self) -> None:
        """Refuse what no cache takes.

        Raises:
            UnsupportedError: It is given.
        """
        if self.mask is not None:
            raise UnsupportedError("attn_mask is given, and calls on a KVCache take none.",
                                   "keys and values as tensors")  # fmt: skip

    def _expanded_mask(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        """The mask as kernels read it, without a copy.

        Args:
            shape: ``(batch, q_heads, q_len, kv_len)``.
            device: That of the queries.

        Raises:
            InputError: It does not broadcast to the shape, or its type or device is another.
            UnsupportedError: It requires a gradient.
        """
        mask = self.mask
        if mask is None:
            return None
        if mask.dtype != torch.bool and mask.dtype not in DTYPES:
            raise InputError(
                f"attn_mask {tuple(mask.shape)} is {mask.dtype}; it must be bool, or float32, "
                "bfloat16 or float16."
            )
        if mask.device != device:
            raise InputError(
                f"attn_mask {tuple(mask.shape)} is on {mask.device}, the queries are on {device}."
            )
        arguments.check_gradient("attn_mask", mask)
        try:
            return mask.expand(shape)
        except RuntimeError:
            raise InputError(
                f"attn_mask {tuple(mask.shape)} does not broadcast to {shape}: batch, heads, "
                "queries, keys."
            ) from None
