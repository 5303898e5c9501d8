"""Checked mode: with ``AUTOPREC_CHECK=1``, lengths and page tables are read and looked at.

That waits for the device, so it is for finding mistakes, not for use.
"""

import os

from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import Requests

VARIABLE = "AUTOPREC_CHECK"


def enabled() -> bool:
    """Whether it is asked for."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")


def check_requests(requests: Requests, k: Tensor) -> None:
    """Refuse lengths and places of requests that no cache can have.

    Args:
        requests: What a kernel would be handed.
        k: The keys it would be handed, of which the sizes are looked at.

    Raises:
        InputError: The sentence names the first request that is wrong.
    """
    kv_lens = requests.kv_lens.tolist()
    starts = None if requests.kv_starts is None else requests.kv_starts.tolist()
    pages = None if requests.pages is None else requests.pages.tolist()
    _check_queries(requests)
    for request, kv_len in enumerate(kv_lens):
        if not 0 <= kv_len <= requests.max_kv_len:
            raise InputError(f"request {request} has a length of {kv_len}, "
                             f"outside of 0 to {requests.max_kv_len}.")  # fmt: skip
        if starts is None:
            _within(request, kv_len, k.shape[2], "tokens of its row")
        elif pages is None:
            _within(request, starts[request] + kv_len, k.shape[2], "tokens", starts[request])
        else:
            _check_pages(request, kv_len, starts[request], pages, k)


def _check_queries(requests: Requests) -> None:
    if requests.q_starts is None:
        return
    starts = requests.q_starts.tolist()
    for request, (first, last) in enumerate(zip(starts, starts[1:], strict=False)):
        if first < 0 or not 0 <= last - first <= requests.max_q_len:
            raise InputError(f"request {request} has the queries {first} to {last}, and no request "
                             f"may have more than {requests.max_q_len}.")  # fmt: skip


def _within(request: int, last: int, there: int, what: str, first: int = 0) -> None:
    if first < 0 or last > there:
        raise InputError(f"request {request} ends at token {last} from {first} on, "
                         f"and there are {there} {what}.")  # fmt: skip


def _check_pages(request: int, kv_len: int, start: int, pages: list[int], k: Tensor) -> None:
    page_size, there = k.shape[2], k.shape[0]
    count = -(-kv_len // page_size)
    if start < 0 or start + count > len(pages):
        raise InputError(f"request {request} has its {count} page numbers from {start} on, "
                         f"and the table has {len(pages)}.")  # fmt: skip
    for place, page in enumerate(pages[start : start + count]):
        if not 0 <= page < there:
            raise InputError(f"request {request} has page {page} at place {place}, "
                             f"and the cache has the pages 0 to {there - 1}.")  # fmt: skip
