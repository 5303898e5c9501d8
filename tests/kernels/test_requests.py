"""Requests of unequal lengths in every kernel that takes them, wherever K and V lie."""

import pairwise
import pytest
import request_cases
from kernel_cases import rows

from autoprec.kernels.interface import Kernel


def _parameters(device: str) -> list[object]:
    return [
        pytest.param(row, case, id=request_cases.name(row, case))
        for row in rows(device)
        if len(row.layouts) > 1
        for case in request_cases.cases(row, device)
    ]


@pytest.mark.parametrize(("row", "case"), _parameters("cpu"))
def test_requests(row: Kernel, case: pairwise.Case) -> None:
    request_cases.run(row, case, "cpu")
