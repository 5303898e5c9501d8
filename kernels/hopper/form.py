"""What the parts of the kernel are compiled for, in one object that they hand on."""

from dataclasses import dataclass
from typing import Any

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@dataclass(frozen=True)
class Form:
    """Constexprs of a kernel, by name.

    Attributes:
        GROUPS: Groups of a program, each with 64 queries of a block.
        PERSISTENT: Whether a program takes one item after the other, or one alone.
        CAUSAL: Whether keys behind the diagonal are hidden.
        WINDOW: Whether keys before a window are.
        CAP: Whether logits have a soft cap.
        WITH_SINKS: Whether a logit of each head joins its sums.
        PARTS: Parts of an element of Q, K and V.
        P_PARTS: Those of a probability.
        SCALED_Q: Whether a row of queries is brought into fp16's range by a factor.
        SCALED: Whether tiles of K and V have been, each by its own.
        NEGATE: Whether queries change their sign, so that the scale of logits has none.
        SHIFT: log2 of what probabilities are multiplied by, which fp16 asks for.
        HEAD_DIM: That of Q and K.
        HEAD_DIM_V: That of V and O.
        BLOCK_KV: Keys of a tile.
        BLOCK_D: HEAD_DIM up to the next power of two, 64 at least.
        BLOCK_DV: HEAD_DIM_V likewise.
        STAGES: Tiles of K, and of V, that there is shared memory for.
        WITH_LSE: Whether the log-sum-exp is written.
        COUNT: Whether what fp16's range loses is counted.
        Q_COMES: Whether the producer brings queries, which need no conversion.
        Q_WIDE: Where groups load them: whether rows lie without gaps, in whole 16 bytes.
        O_GOES: Whether the copy engine writes the output.
        O_WIDE: Where groups store it: as Q_WIDE.
        LENGTHS: Whether requests have numbers of keys of their own.
        RAGGED_Q: Whether they have numbers of queries of their own, one after another.
        RAGGED_KV: Tokens that a step of kv_starts stands for; 0: each request has a row of K and V.
        PAGE: Tokens of a page that the copy engine brings; 0: there are none.
    """

    GROUPS: Any
    PERSISTENT: Any
    CAUSAL: Any
    WINDOW: Any
    CAP: Any
    WITH_SINKS: Any
    PARTS: Any
    P_PARTS: Any
    SCALED_Q: Any
    SCALED: Any
    NEGATE: Any
    SHIFT: Any
    HEAD_DIM: Any
    HEAD_DIM_V: Any
    BLOCK_KV: Any
    BLOCK_D: Any
    BLOCK_DV: Any
    STAGES: Any
    WITH_LSE: Any
    COUNT: Any
    Q_COMES: Any
    Q_WIDE: Any
    O_GOES: Any
    O_WIDE: Any
    LENGTHS: Any
    RAGGED_Q: Any
    RAGGED_KV: Any
    PAGE: Any


@gluon.constexpr_function
def form_of(*fields: Any) -> Form:
    """The form of these numbers, in its order, as constexprs: a static range takes nothing else."""
    return Form(*(gl.constexpr(field) for field in fields))
