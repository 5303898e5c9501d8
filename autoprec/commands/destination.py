"""Where a tune saves its profile, with what was there before and what others add meanwhile."""

from dataclasses import dataclass, replace
from pathlib import Path

from autoprec import profile as profiles
from autoprec.policy.choose import choose_again
from autoprec.types import Profile


@dataclass(frozen=True, kw_only=True)
class Destination:
    """The file that a profile goes to.

    Attributes:
        path: The file.
        previous: The profile to add to; None for none.
        stamp: What told the file from any other before it was read; None for no file.
        fresh: Whether what is there is replaced.
    """

    path: Path
    previous: Profile | None
    stamp: tuple[int, ...] | None
    fresh: bool


def find(path: Path, *, fresh: bool) -> Destination:
    """See whether a profile can be saved, and read what is there.

    Raises:
        ProfileError: It cannot be written, or what is there cannot be read.
    """
    profiles.check_writable(path)
    stamp = _stamp(path)
    previous = profiles.read(path) if path.exists() and not fresh else None
    return Destination(path=path, previous=previous, stamp=stamp, fresh=fresh)


def joined(profile: Profile, to: Destination) -> Profile:
    """The profile with what another tune has saved since the file was read.

    Raises:
        AutoprecError: What is there now is no profile, or another machine's.
    """
    stamp = _stamp(to.path)
    if to.fresh or stamp is None or stamp == to.stamp:
        return profile
    # Only what was measured now is newer than what the other has saved.
    before = {row.key: row for row in to.previous.measurements} if to.previous else {}
    rows = [row for row in profile.measurements if before.get(row.key) != row]
    merged = profiles.merge(profiles.read(to.path), replace(profile, measurements=rows))
    return choose_again(merged)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes whenever the file does; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
