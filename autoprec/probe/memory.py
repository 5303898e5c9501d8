"""What does not fit into memory: the reason that a row then has, and the rows that have it."""

from autoprec.probe.nvml import GIB
from autoprec.types import Measurement, Status

_ENDING = " GiB are free"


def too_large(needs: str, need_bytes: float, free_bytes: int) -> str:
    """Such as ``the cache needs 3.1 GiB, and 0.9 GiB are free``.

    Args:
        needs: What needs it, and the verb.
        need_bytes: How much.
        free_bytes: How much there is.
    """
    return f"{needs} {need_bytes / GIB:.1f} GiB, and {free_bytes / GIB:.1f}{_ENDING}"


def lacked(row: Measurement) -> bool:
    """Whether a row was not measured for want of memory, which others may have held just then."""
    return row.status is Status.UNSUPPORTED and row.reason.endswith(_ENDING)
