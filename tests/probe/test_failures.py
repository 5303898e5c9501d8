import pytest
import torch

from autoprec.probe.attempt import dropped
from autoprec.probe.failures import described, first_line, lacks_memory


class CompilationError(Exception):
    """Shaped like Triton's."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n  CUDA error: out of luck \nmore"), "CUDA error: out of luck"),
        (AssertionError(), "AssertionError"),
        (CompilationError("at 2:4:\n  tl.dot(a, b)\n  ^\nshapes differ\n"), "shapes differ"),
    ],
)
def test_the_line_that_says_what_happened(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_an_error_is_described_with_its_name() -> None:
    assert described(RuntimeError("no\nmore")) == "RuntimeError: no"
    assert described(AssertionError()) == "AssertionError"


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (type("OutOfResources", (Exception,), {})("out of resource: shared memory"), False),
        (ValueError("the budget ran out of memory"), False),
    ],
)
def test_what_there_was_too_little_of_is_known(error: Exception, lacks: bool) -> None:
    assert lacks_memory(error) == dropped(error).lacked_memory == lacks


def test_a_host_without_memory_is_known_as_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert lacks_memory(caught.value)
    assert dropped(caught.value).lacked_memory
