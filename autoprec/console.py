"""Where the command line prints: results to stdout, sentences and errors to stderr."""

import os
import sys

from autoprec.errors import AutoprecError


def say(result: str) -> None:
    """Print a result; where nobody reads on, the command still ends as it should."""
    try:
        sys.stdout.write(result)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(sentence: str) -> None:
    """Print what is no result."""
    print(sentence, file=sys.stderr, flush=True)


def tell_error(error: AutoprecError) -> None:
    """Print what is wrong, and what to try."""
    tell(f"autoprec: {error.sentence}")
    if error.hint:
        tell(f"try: {error.hint}")
