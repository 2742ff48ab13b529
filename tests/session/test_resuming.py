"""Which session is resumed, where its files are now, which exchanges come back, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from aider_guard.core.actions import Handoff
from aider_guard.core.chatlog import Exchange
from aider_guard.errors import ConfigError
from aider_guard.session import registry
from aider_guard.session.kept_sessions import KeptSession, kept_file
from aider_guard.session.resuming import (
    FoundFiles,
    choose,
    find_files,
    kept_in,
    notice_lines,
    select_exchanges,
    with_files_now,
)

GONE = 4_000_000
"""A number that no process has (pid_max(5) is lower)."""


def keep(sessions: Path, name: str, folder: Path, saved_at: float, pid: int = GONE) -> KeptSession:
    """A session in a folder; with this process's number it still runs."""
    path = sessions / name
    path.mkdir(parents=True)
    kept = KeptSession(name, str(folder), saved_at)
    record = kept_file(sessions, name, ".json")
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(asdict(kept)))
    registry.record(registry.SessionFolder(path, pid, 0.0, str(folder), ""), "")
    return kept


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with some files, committed."""
    root = tmp_path / "repo"
    (root / "lib").mkdir(parents=True)
    git(root, "init", "-q")
    for name in ("a.py", "lib/two words.py", "c.py", "d.py"):
        (root / name).write_text(f"# {name}\n" * 9)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "files")
    return root


def test_the_newest_of_the_repository_that_ended_is_chosen(tmp_path: Path, repo: Path) -> None:
    """From any folder of it; one that still runs is passed over, and one of another folder is none of its."""
    sessions = tmp_path / "sessions"
    keep(sessions, "a-1", repo, 100.0)
    second = keep(sessions, "b-2", repo / "lib", 200.0)
    keep(sessions, "c-3", repo, 300.0, os.getpid())
    other = keep(sessions, "d-4", tmp_path, 400.0)
    assert choose(sessions, str(repo)) == second
    assert choose(sessions, str(repo / "lib")) == second
    assert choose(sessions, "d-4") == other
    assert [kept.id for kept in kept_in(sessions, str(repo))] == ["c-3", "b-2", "a-1"]


def test_where_none_can_be_resumed_it_is_said_why(tmp_path: Path, repo: Path) -> None:
    """None was kept at all, none of this folder, or the only one still runs."""
    sessions = tmp_path / "sessions"
    with pytest.raises(ConfigError, match="no session was kept; aider-guard -- starts one"):
        choose(sessions, None)
    keep(sessions, "a-1", repo, 100.0, os.getpid())
    with pytest.raises(ConfigError, match="the session a-1 still runs"):
        choose(sessions, "a-1")
    with pytest.raises(ConfigError, match=f"no session of {tmp_path} was kept; .* are: a-1"):
        choose(sessions, str(tmp_path))


def test_a_name_that_is_no_session_and_no_folder_is_not_this_repository(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt name must not open another session; a folder that is gone still has the sessions that were there."""
    sessions = tmp_path / "sessions"
    kept = keep(sessions, "a-1", repo, 100.0)
    gone = keep(sessions, "b-2", repo / "gone", 50.0)
    monkeypatch.chdir(repo)
    with pytest.raises(ConfigError, match=r"no session of a-2 was kept; .* are: a-1"):
        choose(sessions, "a-2")
    assert choose(sessions, None) == kept
    assert kept_in(sessions, "gone") == [gone]


def test_renamed_files_are_found_under_their_new_names(repo: Path) -> None:
    """In a commit, twice, and in the index; with a word on each, and the arguments name the new ones."""
    before = time.time() - 60
    git(repo, "mv", "a.py", "first.py")
    git(repo, "commit", "-qm", "rename")
    git(repo, "mv", "first.py", "lib/first.py")
    git(repo, "commit", "-qm", "rename again")
    git(repo, "mv", "lib/two words.py", "zwei Wörter.py")
    (repo / "c.py").rename(repo / "elsewhere.py")
    kept = KeptSession(
        "a-1",
        str(repo / "lib"),
        before,
        str(repo),
        ("--model", "m", "../a.py", "--read", "../c.py", "two words.py", "--file=../c.py"),
        files_given=("../a.py", "../c.py", "two words.py"),
        handoff=Handoff(("a.py", "c.py", "d.py"), ("lib/two words.py",)),
    )
    found = find_files(kept)
    assert found == FoundFiles(
        ("lib/first.py", "d.py"),
        ("zwei Wörter.py",),
        (("a.py", "lib/first.py"), ("lib/two words.py", "zwei Wörter.py")),
        ("c.py",),
        ("--model", "m", "first.py", "../zwei Wörter.py"),
    )
    assert notice_lines(kept, found, 2)[1:] == (
        "a.py is lib/first.py now",
        "lib/two words.py is zwei Wörter.py now",
        "c.py is gone, and was left out",
    )


def test_looking_for_renames_runs_nothing_of_the_repositorys(repo: Path) -> None:
    """Its configuration may name programs; git is asked outside the air gap."""
    ran = repo / "ran"
    program = repo / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "gpg.program", "diff.x.textconv"):
        git(repo, "config", name, str(program))
    git(repo, "config", "log.showSignature", "true")
    (repo / ".gitattributes").write_text("* diff=x\n")
    ran.unlink(missing_ok=True)  # the preparation itself may have run it
    (repo / "a.py").rename(repo / "b.py")
    kept = KeptSession("a-1", str(repo), 1.0, str(repo), handoff=Handoff(("a.py",)))
    assert find_files(kept).gone == ("a.py",)
    assert not ran.exists()


def test_outside_a_repository_a_file_that_is_not_there_is_gone(tmp_path: Path) -> None:
    """Git cannot tell, and that is no error."""
    kept = KeptSession("a-1", str(tmp_path), 1.0, handoff=Handoff(("a.py",)))
    assert find_files(kept) == FoundFiles(gone=("a.py",))


def test_a_file_that_is_gone_is_no_argument_any_more() -> None:
    """Aider would create an empty one; an option that took it goes as well."""
    words = ("a.py", "--file", "b.py", "--read=c.py", "--lint-cmd=c.py", "d.py")
    now = {"a.py": "x/a.py", "b.py": "", "c.py": ""}
    assert with_files_now(words, now) == ("x/a.py", "--lint-cmd=c.py", "d.py")


def test_the_last_exchanges_that_fit_come_back() -> None:
    """Estimated on the high side where Aider's encodings are not found."""
    chat = [Exchange(f"{n}" * 100, "y" * 100) for n in range(9)]
    assert select_exchanges(chat, 0.1, 4096, "") == tuple(chat[-3:])
    assert select_exchanges(chat, 0.0, 4096, "") == ()
    assert select_exchanges([], 0.1, None, "") == ()


def test_the_notice_says_what_came_back_and_what_did_not() -> None:
    """In one line where all is as it was."""
    kept = KeptSession("a-1", "/", time.time(), handoff=Handoff(("a", "b")))
    (line,) = notice_lines(kept, FoundFiles(("a", "b")), 1)
    assert line.endswith(": 2 files and the last exchange")
    unknown = replace(kept, handoff=Handoff(known=False), left_out=("--api-key",))
    first, second = notice_lines(unknown, FoundFiles(), 0)
    assert first.endswith(": the files of the command line and no exchange")
    assert second == "not kept, as it may be secret: --api-key"
    gone = FoundFiles(gone=tuple("abcdefg"))
    assert notice_lines(kept, gone, 3)[-1] == "and 3 other files renamed or gone"
