"""Reading a JSON file that a person named: what is wrong with it is one sentence."""

import json
from pathlib import Path
from typing import Any

from autoprec.errors import InputError


def read_json(path: Path, what: str, max_bytes: int, hint: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        what: What the file is meant to be, such as ``the workloads file``.
        max_bytes: A larger file is refused unread.
        hint: What to name in its place.

    Raises:
        InputError: It cannot be read, is too large, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}.", hint) from None
    if len(text) > max_bytes:
        raise InputError(f"{what} {path} is larger than {max_bytes} bytes.", hint)
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{what} {path} is nested too deeply.", hint) from None
    except ValueError as error:  # JSON's and the encoding's errors, and numbers of absurd length
        raise InputError(f"{what} {path} is no JSON: {error}.", hint) from None
