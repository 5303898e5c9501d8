"""The profile and its file: read, write, merge, and where profiles lie."""

import contextlib
import functools
import importlib.resources
import json
import os
import re
import stat
import tempfile
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import platformdirs
from pydantic import TypeAdapter, ValidationError

from autoprec.errors import MachineError, ProfileError
from autoprec.policy.consistency import contradictions
from autoprec.policy.fit import Match, compare
from autoprec.types import SCHEMA_VERSION, Device, Measurement, Profile, Status

MAX_BYTES = 64 << 20
"""A larger file is no profile: one of ten thousand measurements has a quarter of it."""

AnyPath = str | os.PathLike[str]


def read(path: AnyPath) -> Profile:
    """Read and check a profile. Nothing in it is executed.

    Raises:
        ProfileError: The file cannot be read or is no profile; the sentence names the place in it.
    """
    text = _text(path)
    try:
        profile = _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        _refuse_other_files(path, text)
        raise _damaged(path, _complaint(error)) from None
    if profile.schema_version != SCHEMA_VERSION:
        _refuse_other_files(path, text)
    for contradiction in contradictions(profile):
        raise _damaged(path, contradiction)
    return profile


def _refuse_other_files(path: AnyPath, text: str) -> None:
    """Refuse what is no JSON, or another version's.

    Raises:
        ProfileError: It is one of them.
    """
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _damaged(path, "it is nested too deeply") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _damaged(path, f"it is cut off or broken at {place}") from None
    except ValueError:
        raise _damaged(path, "it holds NaN, Infinity or an endless number") from None
    _refuse_other_versions(path, found)


def _text(path: AnyPath) -> str:
    """The file's text, read only where its size is a profile's."""
    hint = "autoprec tune, which writes one"
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise ProfileError(f"there is no profile {path}.", hint) from None
    except IsADirectoryError:
        raise ProfileError(f"{path} is a folder, not a profile.", "name a file in it") from None
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path} cannot be read: {_cause(error)}.", hint) from None
    if max(size, len(content)) > MAX_BYTES:
        raise _damaged(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is not UTF-8") from None
    if not text.strip():
        raise _damaged(path, "it is empty")
    return text


def _damaged(path: AnyPath, complaint: str) -> ProfileError:
    hint = "restore the file, or measure again with autoprec tune --fresh"
    return ProfileError(f"{path} is no valid profile: {complaint}.", hint)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _refuse_other_versions(path: AnyPath, found: object) -> None:
    """Look at the version first: of another one nothing else can be judged."""
    if not isinstance(found, dict) or "schema_version" not in found:
        raise _damaged(path, "it has no schema_version")
    version = found["schema_version"]
    if version != SCHEMA_VERSION:
        raise ProfileError(
            f"{path} has schema version {str(version)[:40]}, "
            f"and this autoprec reads version {SCHEMA_VERSION}.",
            "the autoprec that wrote it, or measure again with autoprec tune --fresh",
        )


@functools.cache
def _adapter() -> TypeAdapter[Profile]:
    return TypeAdapter(Profile)


def _complaint(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one sentence that names the place."""
    first, *others = error.errors(include_url=False)
    steps = first["loc"]
    if steps and steps[-1] in ("int", "str"):  # which of a Config value's types was tried
        steps = steps[:-1]
    place = ""
    for step in steps:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else step
    more = f" (and {len(others)} more)" if others else ""
    match first["type"]:
        case "missing":
            return f"{place} is missing{more}"
        case "unexpected_keyword_argument":
            return f"{place} is no known key{more}"
        case "value_error":
            return f"{place} is refused: {first['ctx']['error'].sentence.rstrip('.')}{more}"
        case "json_invalid":
            return "its text is no " + first["msg"].removeprefix("Invalid ")
    value = repr(first["input"])
    what = first["msg"].replace("Input should", "should")
    return f"{place} {what}, not {value if len(value) <= 40 else value[:40] + '…'}{more}"


def write(profile: Profile, path: AnyPath) -> None:
    """Save a profile: at any moment the file is the old one or the whole new one.

    Args:
        profile: What to save.
        path: Folders on the way are made; a link is followed.

    Raises:
        ProfileError: It cannot be written; what was there is as it was.
    """
    check_writable(path)
    text = json.dumps(asdict(profile), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(text.encode(errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be written: {_cause(error)}; what was there is kept.",
            "make room, or name another file with -o",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: AnyPath) -> None:
    """Refuse a place where no profile can be saved, before anything is measured for it.

    Raises:
        ProfileError: It is a folder or no regular file, lies under a file, or is protected.
    """

    def refusal(cause: str) -> ProfileError:
        return ProfileError(f"{path} {cause}.", "name another file with -o")

    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:
        raise refusal(f"cannot be written: {_cause(error)}") from None
    if mode is not None and stat.S_ISDIR(mode):
        raise refusal("is a folder, not a file")
    if mode is not None and not stat.S_ISREG(mode):
        raise refusal("is no regular file")
    folder = next(folder for folder in target.parents if os.path.exists(folder))
    if not folder.is_dir():
        raise refusal(f"cannot be written: {folder} is a file")
    for place in (folder,) if mode is None else (folder, target):
        if not os.access(place, os.W_OK):
            raise refusal(f"cannot be written: {place} is protected")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="."):
            pass  # root has access everywhere, and yet cannot write to every file system
    except OSError as error:
        raise refusal(f"cannot be written: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def merge(old: Profile, new: Profile) -> Profile:
    """Add what was measured now to what was there.

    A row replaces the old one of its key, unless it was skipped, lacked memory or had fewer draws:
    what was measured once is not lost to a time limit, nor to what others hold just now.
    All else is the new profile's, and remarks are kept, each once. The result has no choices: they
    are made again, from all rows.

    Args:
        old: The profile that was there.
        new: What was measured now.

    Raises:
        MachineError: The old profile is of another device, or of other software on this one:
            its times do not compare with the new ones.
    """
    fit = compare(old, new.environment)
    if fit.match is not Match.EXACT:
        raise MachineError(
            f"the profile cannot be added to: {' '.join(fit.sentences)}",
            "--fresh to replace it, or -o with another file to keep it",
        )
    rows: dict[object, Measurement] = {row.key: row for row in old.measurements}
    for row in new.measurements:
        if row.key not in rows or not _is_less(row, rows[row.key]):
            rows[row.key] = row
    return replace(
        new,
        measurements=list(rows.values()),
        choices=[],
        refusals=[],
        remarks=list(dict.fromkeys([*old.remarks, *new.remarks])),
    )


def _is_less(new: Measurement, old: Measurement) -> bool:
    """Whether a row has less in it than one of the same key."""
    if new.status is Status.SKIPPED or (new.lacked_memory and old.status is Status.OK):
        return True
    both = new.status is old.status is Status.OK
    return both and (new.n_draws or 0) < (old.n_draws or 0)


def slug(device: Device) -> str:
    """A device's name as a file name, such as ``nvidia-h100-80gb-hbm3``."""
    plain = re.sub(r"\((r|tm|c)\)", "", device.name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:100] or device.kind


def user_dir() -> Path:
    """The folder of this user's profiles."""
    return platformdirs.user_data_path("autoprec", appauthor=False) / "profiles"


def default_path(device: Device) -> Path:
    """Where a device's profile is saved unless a file is named."""
    return user_dir() / f"{slug(device)}.json"


def bundled() -> list[Path]:
    """The profiles that come with autoprec, by name."""
    folder = importlib.resources.files("autoprec.profiles")
    return sorted(Path(str(file)) for file in folder.iterdir() if file.name.endswith(".json"))
