"""A KV cache in the storage that a plan chose for all phases of a geometry."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import Halves, Requests, run_launches
from autoprec.plan import arguments, checked, cpu_append, outputs
from autoprec.plan.current import current
from autoprec.policy.storage import Joint
from autoprec.types import Layout, Storage


class KVCache:
    """Keys and values of a batch of requests: ``Plan.new_kv_cache``.

    Lengths and page numbers lie on the device, where kernels read them: both may be written
    between calls, and between replays of a CUDA graph. What lies beyond a length is never read.

    Attributes:
        storage: The form of the tokens; ``reason`` says why.
        k: ``[batch, kv_heads, capacity, head_dim]``, or with pages ``[pages, kv_heads, page_size,
            head_dim]``; of two planes the high one. v likewise.
        halves: Both planes, and their factors; None for other forms.
        lengths: int32 ``[batch]``, tokens of each request.
        page_table: int32 ``[batch, pages of a request]``, the pages of each request in order; at
            first each has pages of its own. Requests may share pages that get no more tokens:
            see ``append``. None where there are no pages.
        capacity: Tokens that a request may have.
        bound: No request is longer, as far as the host knows.
        known: Whether the host knows that the longest request is exactly that long.
    """

    def __init__(
        self,
        joint: Joint,
        k: Tensor,
        v: Tensor,
        halves: Halves | None,
        lengths: Tensor,
        page_table: Tensor | None,
        lost: Callable[[torch.device], Tensor],
    ) -> None:
        """Hold what ``new_kv_cache`` allocated; every request is empty."""
        self.storage, self.reason = joint.storage, joint.reason
        self.k, self.v, self.halves = k, v, halves
        self.lengths, self.page_table = lengths, page_table
        self.page_size = None if page_table is None else k.shape[2]
        self.capacity = k.shape[2] if page_table is None else page_table.shape[1] * k.shape[2]
        self.bound = 0
        self.known = True
        self.workspace: Tensor | None = None
        self.sized: set[object] = set()  # what the workspace is known to suffice for
        self._outgrown: list[Tensor] = []
        self._lost = lost
        self._starts: Tensor | None = None
        if page_table is not None:
            batch, width = page_table.shape
            self._starts = torch.arange(
                0, batch * width, width, dtype=torch.int32, device=page_table.device
            )

    @property
    def batch(self) -> int:
        """Requests."""
        return self.lengths.shape[0]

    @property
    def layout(self) -> Layout:
        """How the tokens lie."""
        return Layout.CONTIGUOUS if self.page_table is None else Layout.PAGED

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What kernels read of it."""
        table = () if self.page_table is None else (self.page_table,)
        return *self._written, *table

    @property
    def _written(self) -> tuple[Tensor, ...]:
        """What new tokens change of it."""
        halves = self.halves
        held = (self.k, self.v) if halves is None else (halves.k, halves.v, halves.inverse)
        return *held, self.lengths

    @property
    def bytes_per_token(self) -> float:
        """What a token of a request takes in memory, over all heads."""
        size = self.k.shape[1] * (self.k.shape[3] + self.v.shape[3]) * self.storage.nbytes
        return size + (8 * self.k.shape[1] if self.halves is not None else 0)

    def __repr__(self) -> str:
        """One line: what it can hold, and how."""
        pages = "" if self.page_size is None else f", pages of {self.page_size}"
        return (
            f"KVCache({self.batch} requests of up to {self.capacity} tokens in "
            f"{self.storage}{pages}, {self.bytes_per_token:.0f} bytes a token)"
        )

    def set_lengths(self, lengths: Tensor | list[int]) -> None:
        """Say how long requests are, such as 0 for one that is over.

        Args:
            lengths: ``[batch]``. A tensor on the device is not read back; ``bound`` is then the
                capacity.

        Raises:
            InputError: There is not one for every request, or one cannot be.
        """
        if not isinstance(lengths, Tensor):
            if len(lengths) != self.batch:
                raise InputError(
                    f"lengths are {len(lengths)}, and there are {self.batch} requests."
                )
            for request, length in enumerate(lengths):
                if not 0 <= length <= self.capacity:
                    raise InputError(f"request {request} has a length of {length}, "
                                     f"outside of 0 to {self.capacity}.")  # fmt: skip
            self.bound, self.known = max(lengths), True
            lengths = torch.tensor(lengths, dtype=torch.int32)
        else:
            self.bound, self.known = self.capacity, False
        self.lengths.copy_(lengths)

    def append(
        self,
        k: Tensor,
        v: Tensor,
        *,
        layout: str = "bhsd",
        starts: Tensor | None = None,
        longest: int | None = None,
    ) -> None:
        """Put new tokens behind those of each request, in the cache's form.

        No two requests may write to one place, which the host cannot check: a page that two
        append to ends with either's tokens, or with parts of both.

        Args:
            k: ``[batch, kv_heads, tokens, head_dim]``, fp32, bf16 or fp16; with starts
                ``[1, kv_heads, total, head_dim]``, one request after another. Not a part of the
                cache, whose tokens are read and written in any order.
            v: Likewise.
            layout: Of k and v, ``bhsd`` or ``bshd``.
            starts: int32 ``[batch + 1]`` on the device: where each request's tokens begin.
            longest: With starts, no request gets more tokens.

        Raises:
            InputError: An argument does not fit or lies in the cache's memory, or there is no room,
                as far as the host knows.
            UnsupportedError: A gradient is asked for.
        """
        k, v = self._checked(k, v, layout, starts)
        most = k.shape[2] if starts is None else longest
        if most is None:
            raise InputError("starts is given without longest.", "the most tokens of a request")
        if self.known and starts is None and self.bound + most > self.capacity:
            raise InputError(
                f"{most} tokens are to come, {self.bound} are there, and there is room for "
                f"{self.capacity}.",
                "a larger capacity, or set_lengths where requests are shorter",
            )
        if k.numel() == 0:
            return
        # ragged tokens may leave the longest request as it is; replays of a graph are not seen here
        self.known = self.known and starts is None and not self._capturing
        self.bound = self.capacity if self._capturing else min(self.bound + most, self.capacity)
        self.lengths.add_(most if starts is None else starts.diff())
        requests = self.requests(most, starts)
        if checked.enabled():
            checked.check_requests(requests, self.k)
        lost = self._lost(k.device) if self.storage in (Storage.PLANES, Storage.FP16) else None
        if not k.is_cuda and self.halves is None:
            cpu_append.append(k, v, self.k, self.v, requests, lost=lost)
            return
        with current(k):
            run_launches([
                cache_kernels().append(
                    k, v, self.k, self.v, requests, halves=self.halves, lost=lost,
                )
            ])  # fmt: skip

    def make_room(self, elements: int) -> None:
        """Have a workspace of at least so many fp32 numbers.

        What was outgrown is kept, for a CUDA graph may write there; each is at least twice the one
        before.
        """
        held = self.workspace
        if elements == 0 or (held is not None and held.numel() >= elements):
            return
        if held is not None:
            elements = max(elements, 2 * held.numel())
            self._outgrown.append(held)
        with torch.inference_mode(False):  # kept for calls that may come outside of that mode
            self.workspace = torch.empty(elements, dtype=torch.float32, device=self.k.device)

    def requests(self, max_q_len: int, q_starts: Tensor | None = None) -> Requests:
        """What kernels are handed: lengths, places, and bounds of them.

        While a CUDA graph is captured, the bound is the capacity: replays may be longer.
        """
        return Requests(
            kv_lens=self.lengths,
            kv_starts=self._starts,
            pages=None if self.page_table is None else self.page_table.view(-1),
            q_starts=q_starts,
            max_q_len=max_q_len,
            max_kv_len=self.capacity if self._capturing else max(1, self.bound),
        )

    @property
    def _capturing(self) -> bool:
        return self.k.is_cuda and torch.cuda.is_current_stream_capturing()

    def _checked(
        self, k: Tensor, v: Tensor, layout: str, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New tokens as ``bhsd``, where they fit the cache and lie apart from it."""
        arguments.check_layout(layout)
        arguments.check_tensors(arguments.KV, k, k, v)
        arguments.check_batch_and_heads(arguments.KV, layout, k, k, v)
        arguments.check_gradients(arguments.KV, k, k, v)
        for name, read in (("k", k), ("v", v), ("starts", starts)):
            if read is not None and read.device == self.k.device:
                outputs.check_apart(name, read, "the cache", self._written)
        if layout == "bshd":
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        for name, tensor, cache in (("k", k, self.k), ("v", v, self.v)):
            want = (self.batch if starts is None else 1, cache.shape[1], k.shape[2], cache.shape[3])
            if tensor.shape != want:
                raise InputError(f"{name} {tuple(tensor.shape)} must be {want} as bhsd.")
            if tensor.device != cache.device:
                raise InputError(f"{name} is on {tensor.device}, the cache on {cache.device}.")
        if starts is not None and (starts.dtype, starts.shape) != (
            torch.int32, (self.batch + 1,),
        ):  # fmt: skip
            raise InputError(f"starts must be int32 ({self.batch + 1},), "
                             f"got {starts.dtype} {tuple(starts.shape)}.")  # fmt: skip
        return k, v


def cache_kernels() -> Any:
    """The module ``autoprec.kernels.kv_cache``, which needs Triton.

    Raises:
        UnsupportedError: It cannot be imported.
    """
    try:
        from autoprec.kernels import kv_cache
    except ImportError as error:
        raise UnsupportedError(f"caches need Triton, which cannot be imported: {error}.") from None
    return kv_cache
