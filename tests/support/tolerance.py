"""What an element may be off by where a test is of what a call means: from path and sizes alone.

``bounds.py`` takes the inputs of a kernel test and derives what no right kernel exceeds, but knows
neither masks of the caller's own nor batches. What is allowed here is less.
"""

from autoprec.paths import PATHS
from autoprec.policy.bounds import expected_rel_l2

_DEVIATIONS = 8.0  # bounds.py allows as many


def tolerance(path: str, *, head_dim: int, kv_len: int, typical_logit: float = 1.0) -> float:
    """Allow 8 standard deviations of a path's error, in fp32 outputs of values of N(0, 1).

    Args:
        path: The precision path, on fp32 inputs.
        head_dim: Of q and k.
        kv_len: The most keys.
        typical_logit: Of the products, in nats; see ``expected_rel_l2``.
    """
    return _DEVIATIONS * expected_rel_l2(
        PATHS[path], head_dim=head_dim, kv_len=kv_len, typical_logit=typical_logit
    )
