"""What does not fit into memory, and is not begun for that."""

from autoprec.probe.attempt import DroppedError
from autoprec.probe.nvml import GIB
from autoprec.types import Status


def too_large(needs: str, need_bytes: float, free_bytes: int) -> DroppedError:
    """Why it is out of the running: ``the cache needs 3.1 GiB, and 0.9 GiB are free``.

    Args:
        needs: What needs it, and the verb.
        need_bytes: How much.
        free_bytes: How much there is.
    """
    return DroppedError(
        Status.UNSUPPORTED,
        f"{needs} {need_bytes / GIB:.1f} GiB, and {free_bytes / GIB:.1f} GiB are free",
        lacked_memory=True,
    )
