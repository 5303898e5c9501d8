"""Saving a profile: at any moment the file is the old one or the whole new one."""

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_up
import pytest

from autoprec import profile as profiles
from autoprec.errors import ProfileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.json"


def test_saving_replaces_and_leaves_nothing_beside(path: Path) -> None:
    profiles.write(made_up.profile(), path)
    profiles.write(made_up.profile(budget="1e-3"), path)
    assert profiles.read(path).budget == "1e-3"
    assert list(path.parent.iterdir()) == [path]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "machine.json"
    profiles.check_writable(path)
    assert not path.parent.exists()
    profiles.write(made_up.profile(), path)
    assert profiles.read(path) == made_up.profile()


def test_a_file_may_be_read_by_whom_the_umask_lets(path: Path) -> None:
    before = os.umask(0o027)
    try:
        profiles.write(made_up.profile(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link.json")
    link.symlink_to(path.name)
    profiles.write(made_up.profile(), link)
    assert link.is_symlink()
    assert profiles.read(path) == made_up.profile()


@pytest.fixture
def kept(path: Path) -> Iterator[Path]:
    """A profile that must be there, whole and alone, after the test."""
    profiles.write(made_up.profile(), path)
    yield path
    assert profiles.read(path) == made_up.profile()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_profile(
    kept: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ProfileError) as caught:
        profiles.write(made_up.profile(budget="1e-3"), kept)
    monkeypatch.undo()
    assert caught.value.sentence == (
        f"{kept} cannot be written: No space left on device; what was there is kept."
    )
    assert caught.value.hint == "make room, or name another file with -o"


def test_a_write_that_comes_out_short_keeps_the_old_profile(kept: Path) -> None:
    """The limit on a file's size: the first write is cut short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ProfileError) as caught:
            profiles.write(made_up.profile(budget="1e-3"), kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.sentence == (
        f"{kept} cannot be written: File too large; what was there is kept."
    )


def test_an_interrupt_while_saving_keeps_the_old_profile(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profiles.write(made_up.profile(budget="1e-3"), kept)
    monkeypatch.undo()


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("", "{} is a folder, not a file."),
        ("pipe", "{} is no regular file."),
        ("file.json/below/x.json", "{} cannot be written: {folder}/file.json is a file."),
        ("n" * 300, "{} cannot be written: File name too long."),
    ],
)
def test_a_place_where_no_profile_can_be(
    tmp_path: Path, place: str, sentence: str, save: bool
) -> None:
    (tmp_path / "file.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / place
    with pytest.raises(ProfileError) as caught:
        profiles.write(made_up.profile(), path) if save else profiles.check_writable(path)
    assert caught.value.sentence == sentence.format(path, folder=tmp_path)
    assert caught.value.hint == "name another file with -o"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.json", "pipe"]


def test_a_zero_in_a_name_is_refused() -> None:
    with pytest.raises(ProfileError, match="cannot be written: .*null"):
        profiles.check_writable("a\0b")


@pytest.mark.parametrize("protected", ["folder", "file"])
def test_a_protected_place_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, protected: str
) -> None:
    path.write_text("{}")
    place = path if protected == "file" else path.parent
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != place)  # root may write anywhere
    with pytest.raises(ProfileError) as caught:
        profiles.check_writable(path)
    assert caught.value.sentence == f"{path} cannot be written: {place} is protected."


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
def test_a_file_system_that_takes_no_files_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda p, mode: True)  # as for root
    with pytest.raises(ProfileError) as caught:
        profiles.check_writable("/proc/machine.json")
    assert re.fullmatch(
        r"/proc/machine\.json cannot be written: (No such file or directory|Permission denied)\.",
        caught.value.sentence,
    )
