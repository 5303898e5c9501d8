"""What an element may be off by in tests of what a call means, derived from its path and sizes.

``bounds.py`` derives from the inputs of a kernel test what no right kernel exceeds. It knows no
masks of the caller's own and no batches; this is of the sizes alone, and narrower.
"""

from autoprec.paths import PATHS
from autoprec.policy.bounds import expected_rel_l2

_DEVIATIONS = 8.0  # as bounds.py allows of errors that are random


def tolerance(path: str, *, head_dim: int, kv_len: int, typical_logit: float = 1.0) -> float:
    """Take 8 standard deviations of a path's error, for fp32 results of values of N(0, 1).

    Args:
        path: The precision path, on fp32 inputs.
        head_dim: Of q and k.
        kv_len: The most keys.
        typical_logit: Of the products, in nats; see ``expected_rel_l2``.
    """
    return _DEVIATIONS * expected_rel_l2(
        PATHS[path], head_dim=head_dim, kv_len=kv_len, typical_logit=typical_logit
    )
