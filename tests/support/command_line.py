"""What the tests of whole commands share; the fixtures are in ``commands/conftest.py``."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]
"""Runs ``autoprec`` with the words given."""

TINY = ("--device", "cpu", "--phase", "decode", "--kv-len", "64", "--batch", "1", "--paths", "fp32")
