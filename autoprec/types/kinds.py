"""The kinds of things: what attention is called for, in which types, and how measuring ended."""

from enum import StrEnum
from typing import Any

# Extra keys in a file are mistakes, and numbers in a record are finite; pydantic reads this off a
# standard dataclass, as ``__pydantic_config__``, so that nothing here needs pydantic.
STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Config = dict[str, int | str]
"""A kernel's launch configuration, such as ``{"block_q": 128, "num_warps": 8}``."""


class Phase(StrEnum):
    """What attention is called for."""

    PREFILL = "prefill"  # q_len = kv_len
    APPEND = "append"  # 1 < q_len < kv_len
    DECODE = "decode"  # q_len = 1, or the few tokens of speculative decoding


class Dtype(StrEnum):
    """Element types of inputs and outputs."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def nbytes(self) -> int:
        """Bytes an element takes."""
        return 4 if self is Dtype.FP32 else 2


class Mask(StrEnum):
    """Which keys a query sees."""

    CAUSAL = "causal"  # aligned bottom-right: the last query sees every key
    FULL = "full"


class Layout(StrEnum):
    """How the keys and values of several requests lie in memory."""

    CONTIGUOUS = "contiguous"  # each request in a row of its own
    RAGGED = "ragged"  # one after another, with no room between
    PAGED = "paged"  # in pages of a fixed number of tokens, anywhere


class Storage(StrEnum):
    """The form in which K and V lie in memory."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    PLANES = "fp16x2"  # two fp16 planes, high and low, and a power of two for each token of a head

    @property
    def nbytes(self) -> int:
        """Bytes an element takes, the powers of two aside."""
        return 4 if self in (Storage.FP32, Storage.PLANES) else 2


class Conversion(StrEnum):
    """Where the time to bring the operands into the path's form is counted."""

    INCLUDED = "included"  # inside the measured time
    AMORTISED = "amortised"  # done once, outside the measured time
    NONE = "none"  # the inputs already have that form


class Role(StrEnum):
    """Whether a measurement is ours to choose, or what users would call instead."""

    CANDIDATE = "candidate"
    BASELINE = "baseline"


class Status(StrEnum):
    """How a measurement ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"  # it cannot run here; the reason says why
    FAILED = "failed"  # it ran, or was compiled, and something broke
    SKIPPED = "skipped"  # there was no time for it
