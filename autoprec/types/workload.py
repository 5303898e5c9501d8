"""The workload: one attention problem."""

import functools
import math
import random
from dataclasses import dataclass

from autoprec.errors import InputError
from autoprec.types.kinds import STRICT, Dtype, Layout, Mask, Phase, Storage

MAX_DECODE_Q_LEN = 16
"""Up to this many new tokens on a longer cache count as decode (speculative decoding)."""

MAX_SIZE = 999_999_999
"""No size of a workload is larger: products of a few stay finite, and lines short."""

SHORTEST = 128
"""Keys of the shortest request of a ragged prefill, as it is measured."""

_SIZES = (
    "batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "head_dim_v", "window",
    "page_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One attention problem: the key under which measurements and choices are kept.

    Attributes:
        batch: Number of requests.
        q_len: New tokens of each request.
        kv_len: Keys of each request, the new tokens included.
        q_heads: Query heads; a multiple of kv_heads.
        head_dim: Elements of a query or key vector.
        head_dim_v: Elements of a value vector.
        window: Keys up to its own place that a query sees at most, that one included; None for all
            of them. Those after it, which a full mask lets through, it sees as well.
        soft_cap: The tanh cap on logits; None for none.
        layout: How K and V lie; requests of ragged and paged ones may be shorter than kv_len, and
            those of a ragged prefill are, as it is measured: see ``lengths``.
        page_size: Tokens of a page; None where there are no pages.
        sinks: Whether each head has a logit of its own beside its keys.
        custom_mask: Whether the caller says of every query and key whether it is seen; ``mask`` is
            then full. Such workloads are looked up and never measured.
        input_dtype: Type of q, k and v.
        out_dtype: Type of the output.
    """

    __pydantic_config__ = STRICT

    phase: Phase
    batch: int
    q_len: int
    kv_len: int
    q_heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    mask: Mask
    window: int | None = None
    soft_cap: float | None = None
    layout: Layout = Layout.CONTIGUOUS
    page_size: int | None = None
    sinks: bool = False
    custom_mask: bool = False
    input_dtype: Dtype
    out_dtype: Dtype

    def __post_init__(self) -> None:
        """Refuse sizes that are no attention problem.

        Raises:
            InputError: A size is no whole number from 1 to MAX_SIZE, the heads do not divide, the
                phase does not fit the lengths, or the page size the layout, or requests laid end to
                end, as they are measured, have more tokens than MAX_SIZE.
        """
        for name in _SIZES:
            size = getattr(self, name)
            if name in ("window", "page_size") and size is None:
                continue
            if not isinstance(size, int):
                raise InputError(f"{name} must be a whole number, got {size!r}.")
            if not 1 <= size <= MAX_SIZE:
                bound = "at least 1" if size < 1 else f"at most {MAX_SIZE}"
                got = f"{size}" if size.bit_length() < 64 else f"{size.bit_length()} bits"
                raise InputError(f"{name} must be {bound}, got {got}.")
        if self.soft_cap is not None and not 0 < self.soft_cap < math.inf:
            raise InputError(f"soft_cap must be above zero and finite, got {self.soft_cap:g}.")
        if self.q_heads % self.kv_heads:
            raise InputError(
                f"q_heads must be a multiple of kv_heads, got {self.q_heads}/{self.kv_heads}.",
                "give heads as QUERY/KV, such as 32/8",
            )
        if (self.page_size is None) == (self.layout is Layout.PAGED):
            raise InputError(f"page_size is for the layout paged, and {self.layout} is given "
                             f"page_size {self.page_size}.")  # fmt: skip
        if self.phase is Phase.APPEND and not 1 < self.q_len < self.kv_len:
            raise InputError(
                f"append needs 1 < q_len < kv_len, got q_len {self.q_len}, kv_len {self.kv_len}."
            )
        if self.phase is Phase.PREFILL and self.q_len != self.kv_len:
            raise InputError(
                f"prefill needs q_len = kv_len, got q_len {self.q_len}, kv_len {self.kv_len}."
            )
        if self.unequal and _beyond_one_row(self.batch, self.kv_len):
            raise InputError(
                f"{self.batch} prompts of up to {self.kv_len} tokens, laid end to end, have more "
                f"than {MAX_SIZE} tokens.",
                "a smaller batch or shorter prompts",
            )

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.q_heads // self.kv_heads

    @property
    def unequal(self) -> bool:
        """Whether requests are measured with lengths of their own: prompts laid end to end."""
        ragged = self.layout is Layout.RAGGED
        return ragged and self.phase is Phase.PREFILL and self.batch > 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Keys of each request as it is measured; a caller's own may be others.

        All kv_len; but those of a ragged prefill are log-uniform, at equal steps from SHORTEST to
        kv_len, in an order drawn once for all.
        """
        if not self.unequal:
            return (self.kv_len,) * self.batch
        return _unequal(self.batch, self.kv_len)

    @property
    def kv_tokens(self) -> int:
        """Keys of all requests, as they are measured."""
        return sum(self.lengths) if self.unequal else self.batch * self.kv_len

    @property
    def new_tokens(self) -> int:
        """Queries of all requests, as they are measured."""
        return self.kv_tokens if self.unequal else self.batch * self.q_len

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that the mask lets through, for one head of one request."""
        return self._pairs(self.q_len, self.kv_len)

    def _pairs(self, q_len: int, kv_len: int) -> int:
        if self.mask is not Mask.CAUSAL:
            hidden = max(0, kv_len - (self.window or kv_len))  # keys before the last row's window
            rows = min(q_len, hidden)  # those with such keys; one fewer each, from the last one on
            return q_len * kv_len - rows * (2 * hidden - rows + 1) // 2
        rows = min(q_len, kv_len)  # those that see a key at all
        first = kv_len - rows + 1  # keys that the first of them sees
        most = min(self.window or kv_len, kv_len)
        growing = max(0, most - first)  # rows that see fewer than the most; one more key each
        return growing * (first + most - 1) // 2 + (rows - growing) * most

    @property
    def flops(self) -> float:
        """Multiplications and additions of QKᵀ and PV, once each, of requests as measured."""
        pairs = self.batch * self.pairs
        if self.unequal:
            pairs = sum(self._pairs(length, length) for length in self.lengths)
        return 2.0 * self.q_heads * pairs * (self.head_dim + self.head_dim_v)

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V as they are given, each read once, of requests as measured."""
        elements = self.kv_tokens * self.kv_heads * (self.head_dim + self.head_dim_v)
        return elements * self.input_dtype.nbytes

    def token_bytes(self, storage: Storage) -> int:
        """Bytes that a token of a request takes in a cache, over all heads."""
        factors = 8 if storage is Storage.PLANES else 0  # a power of two in fp32 for K, one for V
        return self.kv_heads * ((self.head_dim + self.head_dim_v) * storage.nbytes + factors)

    def __str__(self) -> str:
        """One line for tables and messages, such as ``decode b8 q1 kv4096 32/8 d128 fp32``."""
        dims = f"d{self.head_dim}" + (
            f"/{self.head_dim_v}" if self.head_dim_v != self.head_dim else ""
        )
        dtype = self.input_dtype.value
        if self.out_dtype != self.input_dtype:
            dtype += f">{self.out_dtype.value}"
        window = f" w{self.window}" if self.window is not None else ""
        cap = f" cap{self.soft_cap:g}" if self.soft_cap is not None else ""
        sinks = (" sinks" if self.sinks else "") + (" custom mask" if self.custom_mask else "")
        layout = {
            Layout.CONTIGUOUS: "", Layout.RAGGED: " ragged", Layout.PAGED: f" page{self.page_size}",
        }[self.layout]  # fmt: skip
        return (
            f"{self.phase.value} b{self.batch} q{self.q_len} kv{self.kv_len} "
            f"{self.q_heads}/{self.kv_heads} {dims} {self.mask.value}{window}{cap}{sinks}{layout} "
            f"{dtype}"
        )


@functools.lru_cache(maxsize=16)
def _unequal(batch: int, kv_len: int) -> tuple[int, ...]:
    """The lengths of a ragged prefill; see ``Workload.lengths``."""
    least = min(SHORTEST, kv_len)
    steps = (i / (batch - 1) for i in range(batch))
    lengths = [round(least * (kv_len / least) ** step) for step in steps]
    random.Random(0).shuffle(lengths)
    return tuple(lengths)


def _beyond_one_row(batch: int, kv_len: int) -> bool:
    """Whether a ragged prefill has more tokens than the one long request may that holds it."""
    if batch * kv_len <= MAX_SIZE:
        return False
    # what need not be drawn is not: there may be very many
    return batch * min(SHORTEST, kv_len) > MAX_SIZE or sum(_unequal(batch, kv_len)) > MAX_SIZE
