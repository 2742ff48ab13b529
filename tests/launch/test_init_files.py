"""Files get their new content all at once or not at all, and what was there is kept beside them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.launch.init_files import Change, Replaced, read_file, replace_files

OLD, NEW = b"old\r\n", b"old\r\nnew\n"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in a folder with what it holds."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "conf"
    path.write_bytes(OLD)
    return path


def test_the_file_is_replaced_and_the_old_one_kept(conf: Path) -> None:
    """No other file is left behind."""
    result = replace_files([Change(conf, OLD, NEW)])

    assert result == (Replaced(conf, conf.with_name("conf.bak")),)
    assert tree(conf.parent) == {"conf": NEW, "conf.bak": OLD}


def test_a_backup_never_replaces_an_older_one(conf: Path) -> None:
    """The next free number is taken."""
    for content in (b"1", b"2", b"3"):
        assert not isinstance(
            replace_files([Change(conf, conf.read_bytes(), content)]), Unavailable
        )

    assert tree(conf.parent) == {
        "conf": b"3",
        "conf.bak": OLD,
        "conf.bak.1": b"1",
        "conf.bak.2": b"2",
    }


def test_a_new_file_has_no_backup_and_the_usual_mode(tmp_path: Path) -> None:
    """The mode is the one the user's mask gives."""
    mask = os.umask(0o027)
    try:
        result = replace_files([Change(tmp_path / "conf", None, NEW)])
    finally:
        os.umask(mask)

    assert result == (Replaced(tmp_path / "conf", None),)
    assert tree(tmp_path) == {"conf": NEW}
    assert stat.S_IMODE((tmp_path / "conf").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_the_mode_is_that_of_the_old_file_for_the_backup_too(conf: Path, mode: int) -> None:
    """A file with keys in it that only its owner may read stays so, and so does its copy."""
    conf.chmod(mode)
    replace_files([Change(conf, OLD, NEW)])

    for path in (conf, conf.with_name("conf.bak")):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_one(conf: Path) -> None:
    """What it leads to is replaced, in its own folder."""
    place = conf.parent / "repo"
    place.mkdir()
    link = place / ".conf"
    link.symlink_to("../conf")
    result = replace_files([Change(link, OLD, NEW)])

    assert result == (Replaced(conf, conf.with_name("conf.bak")),)
    assert link.is_symlink()
    assert link.read_bytes() == NEW
    assert tree(place) == {".conf": NEW}


def test_when_one_file_cannot_be_written_none_is(conf: Path, tmp_path: Path) -> None:
    """The first is complete on the disk by then, and taken back with its backup."""
    changes = [Change(conf, OLD, NEW), Change(tmp_path / "nowhere" / "other", None, NEW)]
    result = replace_files(changes)

    assert isinstance(result, Unavailable)
    assert "no such file or directory; nothing was written" in result.reason
    assert tree(tmp_path) == {"conf": OLD}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk to try")
def test_a_full_disk_loses_nothing(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own error on the second write; what was there is there, and nothing else."""
    real, opened = os.open, []

    def full_after_the_backup(path: Path, flags: int, mode: int = 0o777) -> int:
        opened.append(path)
        descriptor = real(path, flags, mode)
        if len(opened) == 2:
            os.close(descriptor)
            return real("/dev/full", os.O_WRONLY)
        return descriptor

    monkeypatch.setattr("aider_guard.launch.init_files.os.open", full_after_the_backup)
    monkeypatch.setattr("aider_guard.launch.init_files.os.fchmod", lambda *_: None)
    result = replace_files([Change(conf, OLD, NEW)])

    assert isinstance(result, Unavailable)
    assert "no space left on device; nothing was written" in result.reason
    assert tree(conf.parent) == {"conf": OLD}


def test_a_file_that_changed_meanwhile_is_left_alone(conf: Path) -> None:
    """What was read is not what is there any more: another program's lines would be lost."""
    conf.write_bytes(b"other")
    result = replace_files([Change(conf, OLD, NEW)])

    assert isinstance(result, Unavailable)
    assert "changed by another program" in result.reason
    assert tree(conf.parent) == {"conf": b"other"}


def test_a_file_that_appeared_meanwhile_is_left_alone(conf: Path) -> None:
    """There was none when the change was made."""
    result = replace_files([Change(conf, None, NEW)])

    assert isinstance(result, Unavailable)
    assert tree(conf.parent) == {"conf": OLD}


def test_a_place_that_became_a_folder_keeps_all_files(conf: Path, tmp_path: Path) -> None:
    """When the last step fails for the second file, the first is written and reported, with its backup."""
    other = tmp_path / "other"
    real = Path.replace

    def fails_for_other(path: Path, target: Path) -> Path:
        if target == other:
            target.mkdir()
        return real(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", fails_for_other)
        result = replace_files([Change(conf, OLD, NEW), Change(other, None, NEW)])

    assert isinstance(result, Unavailable)
    assert f"only {conf} was written" in result.reason
    assert tree(tmp_path) == {"conf": NEW, "conf.bak": OLD}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_reported(conf: Path) -> None:
    """With the system's words."""
    conf.parent.chmod(0o555)
    try:
        result = replace_files([Change(conf, OLD, NEW)])
    finally:
        conf.parent.chmod(0o755)

    assert isinstance(result, Unavailable)
    assert "permission denied; nothing was written" in result.reason
    assert tree(conf.parent) == {"conf": OLD}


def test_reading_says_why_not(tmp_path: Path) -> None:
    """No file is None; a folder, a pipe and a link to itself are reasons, and none of them is waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")

    assert read_file(tmp_path / "none") is None
    assert read_file(tmp_path / "dangling") is None
    for name in ("", "pipe", "loop"):
        assert isinstance(read_file(tmp_path / name), Unavailable), name
