"""The folders of sessions: which sessions run, which have ended, and which folders are kept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aider_guard.errors import LaunchError
from aider_guard.session import registry


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which runs until its input is closed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def folder(sessions: Path, name: str, facts: object = None) -> Path:
    """A session's folder with this record."""
    path = sessions / name
    path.mkdir(parents=True)
    if facts is not None:
        text = facts if isinstance(facts, str) else json.dumps(facts)
        (path / "session.json").write_text(text, encoding="utf-8")
    return path


def record_of(pid: int, started: float | None = None) -> dict[str, object]:
    start = psutil.Process(pid).create_time() if started is None else started
    return {"pid": pid, "started": start, "working_directory": "/w", "socket": "/s"}


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_session_is_made_and_found(sessions: Path) -> None:
    """A private folder named after the time and the process; once it is recorded, others find it."""
    made = registry.create(sessions)
    assert made.pid == os.getpid()
    assert made.id.endswith(f"-{os.getpid()}")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (sessions, made.path)} == {0o700}
    assert list(registry.running(sessions)) == []
    recorded = registry.record(made, "/run/socket")
    assert list(registry.running(sessions)) == [recorded]
    assert (recorded.socket, recorded.working_directory) == ("/run/socket", os.getcwd())


def test_a_folder_that_cannot_be_made_is_told_with_the_way_out(tmp_path: Path) -> None:
    """A file in its place; the sentence names the variable that moves it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match=r"no session can be kept in .*AIDER_GUARD_STATE_DIR"):
        registry.create(tmp_path / "file" / "sessions")
    gone = registry.SessionFolder(tmp_path / "gone", 1, 0.0, "/", "")
    with pytest.raises(LaunchError, match="cannot be written"):
        registry.record(gone, "")


def test_a_running_process_is_alive_and_an_ended_one_is_not(
    sessions: Path, other: subprocess.Popen[bytes]
) -> None:
    """By its number and the moment it started."""
    path = folder(sessions, "a-1", record_of(other.pid))
    assert registry.is_alive(path)
    other.kill()
    other.wait()
    assert not registry.is_alive(path)
    assert list(registry.running(sessions)) == []


def test_a_number_that_was_given_out_again_is_not_the_session(
    sessions: Path, other: subprocess.Popen[bytes]
) -> None:
    """A process of that number that started at another time is another process."""
    start = psutil.Process(other.pid).create_time()
    assert not registry.is_alive(folder(sessions, "a-1", record_of(other.pid, start - 60)))
    assert registry.is_alive(folder(sessions, "b-1", record_of(other.pid, start + 0.01)))


def test_without_a_record_the_folders_name_counts(sessions: Path) -> None:
    """A session that is just starting has none yet: its folder must not be merged or removed."""
    assert registry.is_alive(folder(sessions, f"20260101-000000-{os.getpid()}"))
    assert not registry.is_alive(folder(sessions, f"20260101-000000-{dead_pid()}"))
    for name in ("notes", "20260101-x", "20260101-"):
        assert not registry.is_alive(folder(sessions, name))


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 80])
def test_numbers_that_no_process_can_have_are_not_alive(sessions: Path, pid: int) -> None:
    """0 and negative numbers mean groups to kill(2), and it takes no large ones."""
    assert not registry.is_alive(folder(sessions, "a-1", record_of(pid, 0.0)))
    assert not registry.is_alive(folder(sessions, f"20260101-000000-{max(pid, 0)}"))


GARBAGE = [
    "",
    "{",
    "[]",
    "7",
    "null",
    "{}",
    '{"pid": "x"}',
    '{"pid": 1, "started": null}',
    "\ufffd",
]


@pytest.mark.parametrize("text", GARBAGE)
def test_a_record_that_cannot_be_read_is_none(sessions: Path, text: str) -> None:
    """Half-written, of another version, or garbage."""
    path = folder(sessions, f"a-{dead_pid()}", text)
    assert registry.read(path) is None
    assert not registry.is_alive(path)
    assert list(registry.running(sessions)) == []


def test_running_sessions_come_oldest_first(sessions: Path) -> None:
    """By their names, which begin with the time."""
    assert list(registry.running(sessions)) == []
    for name in ("20260102-000000-1", "20260101-000000-2"):
        folder(sessions, name, record_of(os.getpid()))
    running = [session.id for session in registry.running(sessions)]
    assert running == ["20260101-000000-2", "20260102-000000-1"]


def test_the_models_of_other_running_sessions_are_known(sessions: Path) -> None:
    """Not our own, and not those of a session that ended; what cannot be read counts as none."""
    ours = folder(sessions, "a-1", record_of(os.getpid()))
    theirs = folder(sessions, "b-1", record_of(os.getpid()))
    gone = folder(sessions, f"c-{dead_pid()}")
    broken = folder(sessions, "d-1", record_of(os.getpid()))
    registry.note_models(ours, ("mine",))
    registry.note_models(theirs, ("m", "w"))
    registry.note_models(gone, ("old",))
    (broken / "models.json").write_text("{")
    assert registry.models_of_others(ours) == {"m", "w"}


def test_the_windows_of_other_running_sessions_are_known(sessions: Path) -> None:
    """By the names of their models, the oldest session's first; older files have no windows."""
    ours = folder(sessions, f"20260104-000000-{os.getpid()}", record_of(os.getpid()))
    new = folder(sessions, "20260103-000000-1", record_of(os.getpid()))
    old = folder(sessions, "20260102-000000-1", record_of(os.getpid()))
    gone = folder(sessions, f"20260101-000000-{dead_pid()}")
    registry.note_models(ours, ("m", "mine"), 1024)
    registry.note_models(new, ("m", "w"), 31_744)
    registry.note_models(old, ("m",), 40_960)
    registry.note_models(gone, ("m",), 8192)
    assert registry.windows_of_others(sessions, os.getpid()) == {"m": 40_960, "w": 31_744}
    (new / "models.json").write_text('["a", "b"]')
    (old / "models.json").write_text('{"m": "many", "n": 0, "o": true}')
    assert registry.windows_of_others(sessions, os.getpid()) == {}
    assert {"a", "b", "m"} <= registry.models_of_others(ours)
    for broken in ("[[]]", "7", "{", "[" * 100_000):
        (new / "models.json").write_text(broken)
        assert registry.windows_of_others(sessions, os.getpid()) == {}


def test_the_oldest_that_ended_are_removed(sessions: Path) -> None:
    """Only so many are kept; one that runs stays, and so does one with histories that wait to be merged."""
    pid = dead_pid()
    ended = [
        folder(sessions, f"2026010{day}-000000-{pid}", record_of(pid, 0.0)) for day in range(1, 6)
    ]
    (ended[0] / "histories.json").write_text("{}")
    alive = folder(sessions, "20250101-000000-1", record_of(os.getpid()))
    registry.prune(sessions, keep=2)
    assert [path.exists() for path in ended] == [True, False, False, True, True]
    assert alive.exists()
    registry.prune(sessions / "missing")


def test_runs_without_a_conversation_take_no_sessions_place(sessions: Path) -> None:
    """They are not recorded; twenty of them are kept beside the sessions, however many of these are."""
    pid = dead_pid()
    session = folder(sessions, f"20260101-000000-{pid}", record_of(pid, 0.0))
    runs = [folder(sessions, f"202602{day:02}-000000-{pid}") for day in range(1, 23)]
    registry.prune(sessions)
    assert session.exists()
    assert [path.exists() for path in runs] == [False] * 2 + [True] * 20
    registry.prune(sessions, keep=0)
    assert not session.exists()
    assert len([path for path in runs if path.exists()]) == 20


def test_sessions_of_long_ago_are_removed(sessions: Path) -> None:
    """After 30 days without a change; one with histories that wait to be merged stays."""
    pid, day = dead_pid(), 86_400
    paths = [folder(sessions, f"2026010{n}-000000-{pid}", record_of(pid, 0.0)) for n in range(1, 4)]
    (paths[0] / "histories.json").write_text("{}")
    for path, days in zip(paths, (31, 31, 29), strict=True):
        for each in (*path.iterdir(), path):
            os.utime(each, (time.time() - days * day,) * 2)
    registry.prune(sessions)
    assert [path.exists() for path in paths] == [True, False, True]


def test_the_private_copies_of_the_talk_are_removed(sessions: Path) -> None:
    """Each launch's folder goes, the journal stays."""
    path = folder(sessions, "a-1")
    for launch in ("launch-1", "launch-2"):
        (path / launch).mkdir()
        (path / launch / "chat.md").write_text("secret")
    (path / "journal.jsonl").write_text("")
    registry.forget_launches(path)
    assert [entry.name for entry in path.iterdir()] == ["journal.jsonl"]


def test_a_link_in_the_session_s_folder_is_not_followed(tmp_path: Path) -> None:
    """A program inside the air gap may write there: what a link leads to stays as it is."""
    theirs = tmp_path / "module.py"
    theirs.write_text("kept")
    for name in ("models.json", f"models.json.{os.getpid()}.new", "models.json.new"):
        (tmp_path / name).symlink_to(theirs)
    registry.note_models(tmp_path, ("m",))
    assert theirs.read_text() == "kept"
    assert json.loads((tmp_path / "models.json").read_text()) == {"m": 0}
