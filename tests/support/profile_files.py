"""Profiles saved and spoilt, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import pytest

from autoprec import profile as profiles
from autoprec.errors import ProfileError

HINT = "restore the file, or measure again with autoprec tune --fresh"


def refusal(path: Path | str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        profiles.read(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(caught.value.sentence) < 300 + len(str(path))
    return caught.value


def complaint(path: Path) -> str:
    """What is said of a file that is no valid profile."""
    error = refusal(path)
    assert error.hint == HINT
    start = f"{path} is no valid profile: "
    assert error.sentence.startswith(start)
    return error.sentence.removeprefix(start)


def saved(path: Path, change: Callable[[Any], object]) -> Path:
    """The made-up profile's file, changed by hand."""
    profiles.write(made_up.profile(), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def row(content: Any) -> Any:
    return content["measurements"][3]
