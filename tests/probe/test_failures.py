import pytest

from autoprec.probe.failures import described, first_line


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
