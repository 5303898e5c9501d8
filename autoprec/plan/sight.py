"""What queries see, as a mask that is written out only where somebody looks at it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Sight(Tensor):
    """bool ``[batch, 1, q_len, kv_len]`` of a causal mask, a window and padding; takes no memory.

    Query i sees key j where j <= i + offset, j > i + offset - window, and j is no padding.
    Every operation on it is one on the mask written out, which is right and takes memory.

    Args:
        shape: batch, q_len and kv_len.
        offset: Keys before the first query's own, 0 to kv_len - q_len; no query sees a key from
            offset + q_len on.
        window: Keys a query sees at most; None: all.
        padding: bool ``[batch, offset + q_len]``, False where a key is padding; None: none is.
        device: Where it is, as padding.
    """

    _padding: Tensor
    _padded: bool
    offset: int
    window: int | None

    @staticmethod
    def __new__(
        cls,
        shape: tuple[int, int, int],
        offset: int,
        window: int | None,
        padding: Tensor | None,
        device: torch.device,
    ) -> "Sight":
        """A tensor of that shape without memory."""
        batch, q_len, kv_len = shape
        sight: Sight = torch.Tensor._make_wrapper_subclass(
            cls, (batch, 1, q_len, kv_len), dtype=torch.bool, device=device
        )
        sight._padded = padding is not None
        sight._padding = torch.ones((1, 1), device=device) if padding is None else padding
        sight.offset, sight.window = offset, window
        return sight

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def padding(self) -> Tensor | None:
        """What it was made with."""
        return self._padding if self._padded else None

    def dense(self) -> Tensor:
        """The mask, written out."""
        batch, _, q_len, kv_len = self.shape
        own = torch.arange(q_len, device=self.device)[:, None] + self.offset
        keys = torch.arange(kv_len, device=self.device)
        seen = keys <= own
        if self.window is not None:
            seen = seen & (keys > own - self.window)
        seen = seen.expand(batch, 1, q_len, kv_len)
        if self._padded:
            beyond = kv_len - self._padding.shape[1]
            seen = seen & torch.nn.functional.pad(self._padding, (0, beyond))[:, None, None]
        return seen

    def __repr__(self) -> str:  # type: ignore[override]
        """What it is, without writing it out."""
        padded = ", padded" if self._padded else ""
        return f"Sight({tuple(self.shape)}, offset {self.offset}, window {self.window}{padded})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """An operation, on the mask written out."""
        args, kwargs = tree_map_only(cls, cls.dense, (args, kwargs or {}))
        return func(*args, **kwargs)

    # These two tell torch.compile what it is made of.

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """The tensors in it, by name, and all else."""
        return ["_padding"], (self._padded, self.offset, self.window)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], rest: Any, size: tuple[int, ...], stride: Any
    ) -> "Sight":
        """The same of other tensors."""
        padded, offset, window = rest
        batch, _, q_len, kv_len = size
        padding = inner["_padding"]
        sight = Sight(
            (batch, q_len, kv_len), offset, window, padding if padded else None, padding.device
        )
        sight._padding = padding
        return sight
