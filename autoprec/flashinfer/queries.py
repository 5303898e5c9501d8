"""What wrappers of several queries a request share: where the queries start, and custom masks."""

from dataclasses import dataclass

from torch import Tensor

from autoprec.errors import InputError
from autoprec.flashinfer.table import Lengths, check_starts, lengths_of
from autoprec.flashinfer.wrapper import Wrapper
from autoprec.kernels.interface import PackedMask


@dataclass(frozen=True)
class Queries:
    """Queries of requests, as the host knows them."""

    starts: Tensor
    rows: int
    longest: int


class PrefillWrapper(Wrapper):
    """What the wrappers of paged and of ragged keys share."""

    _most_rows: int | None = None
    _mask_buffers: dict[str, Tensor | None]

    def _queries(self, qo_indptr: Tensor, batch: int) -> Queries:
        """Read where the queries of each request start. Waits for the device."""
        starts = check_starts("qo_indptr", qo_indptr, batch)
        rows = int(starts[-1])
        if self._use_cuda_graph:
            self._most_rows = max(self._most_rows or rows, 1)
            if rows > self._most_rows:
                raise InputError(
                    f"qo_indptr ends with {rows}, and graphs were first planned for "
                    f"{self._most_rows} queries."
                )
        return Queries(starts, rows, int(starts.diff().max()) if batch else 0)

    def _bounds(self, kv_lens: Tensor, queries: Queries, room: int) -> tuple[int, Lengths]:
        """The longest queries and keys; for graphs, bounds that hold for all of them."""
        lengths = lengths_of(kv_lens)
        if not self._use_cuda_graph:
            return queries.longest, lengths
        batch, fixed = kv_lens.shape[0], self._held["qo_indptr_buf"].shape[0] - 1
        if batch != fixed:
            raise InputError(f"the batch is {batch}, and the buffers for graphs were made for "
                             f"{fixed}.")  # fmt: skip
        return self._most_rows or 1, Lengths(max(room, lengths.longest), lengths.mean)

    def _hold_mask(self, mask: PackedMask | None, *, non_blocking: bool) -> PackedMask | None:
        """The mask where kernels read it."""
        if mask is None:
            return None
        if not self._use_cuda_graph:
            bits, starts = (x.to(self.device, non_blocking=non_blocking) for x in (
                mask.bits, mask.starts))  # fmt: skip
            return PackedMask(bits, starts)
        held = []
        for name, value in (("custom_mask_buf", mask.bits), ("mask_indptr_buf", mask.starts)):
            buffer = self._mask_buffers[name]
            if buffer is None or buffer.dtype != value.dtype or buffer.device != self.device:
                raise InputError(
                    f"{name} must be a {value.dtype} tensor on {self.device} where use_cuda_graph "
                    "is set and there is a custom mask."
                )
            if buffer.shape[0] < value.shape[0]:
                raise InputError(
                    f"{name} has room for {buffer.shape[0]} numbers, and {value.shape[0]} are "
                    "needed.", "a larger buffer",
                )  # fmt: skip
            buffer[: value.shape[0]].copy_(value, non_blocking=non_blocking)
            held.append(buffer)
        return PackedMask(*held)
