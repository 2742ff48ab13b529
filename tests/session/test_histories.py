"""Private history files: what is the user's reaches the user's files, in order and once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aider_guard.errors import LaunchError
from aider_guard.session.histories import (
    PrivateFiles,
    PrivateHistories,
    merge_leftovers,
    merge_steps,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

OLD_CHAT = b"\n# aider chat started at 2026-01-01 00:00:00\n\n#### before  \n"
OLD_INPUT = b"\n# 2026-01-01 00:00:00.000001\n+before\n"


class Story:
    """A session in a folder of its own, with the user's two files beside it, and what should be in them."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "sessions" / "s1"
        self.folder.mkdir(parents=True)
        self.chat, self.input = base / "chat.md", base / "input"
        self.chat.write_bytes(OLD_CHAT)
        self.input.write_bytes(OLD_INPUT)
        self.expected = [OLD_CHAT, OLD_INPUT]
        self.histories = self.reopened()
        self.launch = 0
        self.files = self.begin_launch("")

    def reopened(self) -> PrivateHistories:
        return PrivateHistories(self.folder, self.chat, self.input)

    def begin_launch(self, seed: str) -> PrivateFiles:
        self.launch += 1
        self.files = self.histories.begin_launch(self.launch, seed)
        return self.files

    def log(self, text: str, *, users: bool = True) -> None:
        """What Aider appends for one line that was entered, by the user or hidden."""
        for place, (path, data) in enumerate(zip(self.files, entry(text), strict=True)):
            with path.open("ab") as file:
                file.write(data)
            if users:
                self.expected[place] += data

    def hidden(self, text: str) -> None:
        assert self.histories.begin_hidden() == ""
        self.log(text, users=False)
        assert self.histories.end_hidden() == ""

    def users_files(self) -> list[bytes]:
        return [self.chat.read_bytes(), self.input.read_bytes()]


def entry(text: str) -> tuple[bytes, bytes]:
    return f"\n#### {text}  \n".encode(), f"\n# 2026-01-02 00:00:00.000001\n+{text}\n".encode()


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_what_the_user_did_reaches_the_users_files(story: Story) -> None:
    """Two launches with hidden commands in both: the user's lines arrive, seeds and commands do not."""
    story.log("hello")
    story.hidden("/tokens")
    story.log("more")
    assert story.histories.begin_hidden() == ""
    story.log("/save", users=False)
    story.log("/exit", users=False)
    story.begin_launch("#### carried over  \n")
    story.hidden("/tokens")
    story.log("again")

    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


def test_a_launch_begins_with_its_seed_and_the_users_input_history(story: Story) -> None:
    """The chat holds the given text; Up finds the user's lines and those of earlier launches, no others."""
    story.log("hello")
    story.hidden("/tokens")
    files = story.begin_launch("seed")

    assert files.chat.read_bytes() == b"seed"
    assert files.input.read_bytes() == OLD_INPUT + entry("hello")[1]
    assert files.chat.stat().st_mode & 0o777 == 0o600


def test_a_merge_in_between_does_not_double_the_input_history(story: Story) -> None:
    """What was merged already is in the user's copy, and is not added once more."""
    story.log("hello")
    assert story.histories.merge() == ()
    assert story.begin_launch("").input.read_bytes() == OLD_INPUT + entry("hello")[1]


def test_what_is_logged_while_a_hidden_command_runs_is_not_the_users(story: Story) -> None:
    """A hidden command that never ended hides what follows, until its end is put on record."""
    story.log("hello")
    assert story.histories.begin_hidden() == ""
    story.log("/tokens", users=False)
    assert story.histories.merge() == ()
    assert story.users_files() == story.expected

    assert story.histories.end_hidden() == ""
    story.log("more")
    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


steps = st.lists(
    st.tuples(
        st.sampled_from(["users", "users", "hidden", "left open", "launch", "merge", "other"]),
        st.sampled_from(["a", "/clear", "two words", "é"]),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_order_of_events(plan: Sequence[tuple[str, str]]) -> None:
    """Whatever happens in whatever order, the user's files hold the user's bytes, in order, once."""
    with tempfile.TemporaryDirectory() as base:
        story = Story(Path(base))
        is_open = False
        for what, text in plan:
            if what == "users":
                story.log(text, users=not is_open)
            elif what == "hidden":
                story.hidden(text)
                is_open = False
            elif what == "left open":
                is_open = story.histories.begin_hidden() == ""
            elif what == "launch":
                story.begin_launch(f"seed {text}")
                is_open = False
            elif what == "merge":
                assert story.histories.merge() == ()
            else:
                # Another Aider writes to the same files; what is not merged yet comes after it.
                assert story.histories.merge() == ()
                for place, path in enumerate((story.chat, story.input)):
                    with path.open("ab") as file:
                        file.write(b"other\n")
                    story.expected[place] += b"other\n"
        for _ in range(2):
            assert story.histories.merge() == ()
            assert story.users_files() == story.expected


def two_launches(base: Path) -> Story:
    story = Story(base)
    for number in range(2):
        if number:
            story.begin_launch("seed")
        story.log(f"hello {number}")
        story.hidden("/tokens")
        story.log(f"more {number}")
    return story


def count_steps(base: Path) -> int:
    return len(list(merge_steps(two_launches(base).folder, [])))


@pytest.mark.parametrize("kept", range(14))
def test_a_merge_that_stops_anywhere_is_finished_later(tmp_path: Path, kept: int) -> None:
    """After each step the merge may end; the next one completes it, and adds nothing twice."""
    assert count_steps(tmp_path / "counted") == 12
    story = two_launches(tmp_path)
    merging = merge_steps(story.folder, [])
    for _ in range(kept):
        next(merging, None)
    merging.close()

    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


KILLED = """
import os, signal, sys
from pathlib import Path
from aider_guard.session.histories import merge_steps
for number, _ in enumerate(merge_steps(Path(sys.argv[1]), []), start=1):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("step", [1, 2, 3, 8])
def test_a_merge_that_is_killed_is_finished_at_the_next_start(tmp_path: Path, step: int) -> None:
    """kill -9 within a merge: the next start completes it, and its lock is no obstacle."""
    story = two_launches(tmp_path)
    command = [sys.executable, "-c", KILLED, str(story.folder), str(step)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    assert merge_leftovers(story.folder.parent, lambda _: False) == ()
    assert story.users_files() == story.expected


@pytest.mark.parametrize("written", [0, 1, 5, 20, 37])
def test_a_write_that_was_cut_short_goes_on_where_it_was(story: Story, written: int) -> None:
    """When only a part of an append reached the user's file, just the rest is appended."""
    story.log("hello")
    story.hidden("/tokens")
    story.log("more")
    merging = merge_steps(story.folder, [])
    assert next(merging) == "announced"
    merging.close()
    with story.chat.open("ab") as file:
        file.write(story.expected[0][len(OLD_CHAT) :][:written])

    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


def test_another_writer_during_a_cut_merge(story: Story) -> None:
    """An append that came behind another Aider's is recognised and not repeated."""
    story.log("hello")
    merging = merge_steps(story.folder, [])
    assert next(merging) == "announced"
    with story.chat.open("ab") as file:
        file.write(b"other\n")
    assert next(merging) == "appended"
    merging.close()

    assert story.histories.merge() == ()
    assert story.chat.read_bytes() == OLD_CHAT + b"other\n" + entry("hello")[0]


def test_leftovers_of_killed_sessions_only(tmp_path: Path) -> None:
    """A session that runs is left alone; one that was killed is merged once, and not looked at again."""
    dead, alive = Story(tmp_path / "dead"), Story(tmp_path / "alive")
    for folder in (dead, alive):
        folder.log("hello")
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    dead.folder.rename(sessions / "dead")
    alive.folder.rename(sessions / "alive")

    for _ in range(2):
        assert merge_leftovers(sessions, lambda folder: folder.name == "alive") == ()
        assert dead.users_files() == dead.expected
        assert alive.users_files() == [OLD_CHAT, OLD_INPUT]
    assert not (sessions / "dead" / "histories.json").exists()


def test_a_kill_while_a_command_is_hidden(story: Story) -> None:
    """What a killed session logged after it began to hide a command stays out of the user's files."""
    story.log("hello")
    assert story.histories.begin_hidden() == ""
    story.log("/tokens", users=False)

    assert merge_leftovers(story.folder.parent, lambda _: False) == ()
    assert story.users_files() == story.expected


def test_a_mark_that_was_cut_short_does_not_spoil_the_next(story: Story) -> None:
    """A torn line in the record of hidden commands is passed over."""
    with (story.folder / "launch-1" / "hidden.jsonl").open("ab") as file:
        file.write(b'\n["begin", [12')
    story.log("hello")
    story.hidden("/tokens")

    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


def test_a_users_file_that_cannot_be_written(story: Story) -> None:
    """The problem is reported with both paths, once at later starts; nothing is lost and the other file is merged."""
    story.log("hello")
    story.chat.unlink()
    story.chat.mkdir()
    (problem,) = story.histories.merge()
    assert str(story.chat) in problem
    assert str(story.files.chat) in problem
    assert story.input.read_bytes() == story.expected[1]

    assert merge_leftovers(story.folder.parent, lambda _: False) == (problem,)
    assert merge_leftovers(story.folder.parent, lambda _: False) == ()
    story.chat.rmdir()
    assert merge_leftovers(story.folder.parent, lambda _: False) == ()
    assert story.chat.read_bytes() == story.expected[0].removeprefix(OLD_CHAT)


def test_the_folder_of_a_removed_repository_is_not_made_again(tmp_path: Path) -> None:
    """A merge creates a file, but no folders."""
    story = Story(tmp_path)
    gone = tmp_path / "repo" / "chat.md"
    histories = PrivateHistories(story.folder, gone, None)
    files = histories.begin_launch(2, "")
    files.chat.write_bytes(b"text\n")
    gone.parent.rmdir()

    assert len(histories.merge()) == 1
    assert not gone.parent.exists()
    gone.parent.mkdir()
    assert histories.merge() == ()
    assert gone.read_bytes() == b"text\n"


def test_histories_that_are_switched_off(tmp_path: Path) -> None:
    """Without a file of the user's nothing is merged, and /dev/null takes everything."""
    folder = tmp_path / "s"
    folder.mkdir()
    histories = PrivateHistories(folder, Path(os.devnull), None)
    files = histories.begin_launch(1, "")
    files.chat.write_bytes(b"text\n")
    files.input.write_bytes(b"\n# t\n+x\n")

    assert histories.merge() == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_two_merges_at_once(story: Story) -> None:
    """While another process merges this session, nothing is appended and the reason is given."""
    story.log("hello")
    with (story.folder / "histories.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another" in story.histories.merge()[0]
        assert merge_leftovers(story.folder.parent, lambda _: False) == ()
        assert story.users_files() == [OLD_CHAT, OLD_INPUT]
    assert merge_leftovers(story.folder.parent, lambda _: False) == ()
    assert story.users_files() == story.expected


def test_an_encoding_other_than_utf_8(story: Story) -> None:
    """The seed is written in the encoding that Aider uses for its files."""
    files = story.histories.begin_launch(2, "é", encoding="latin-1")
    assert files.chat.read_bytes() == b"\xe9"


def test_a_chat_that_was_cleared_cannot_be_restored(story: Story) -> None:
    """The private chat holds only comments then, at the same length; the user's file has it all."""
    story.begin_launch("#### carried  \nanswer\n")
    story.log("hello")
    story.hidden("/tokens")
    story.log("/clear")
    size = story.files.chat.stat().st_size

    assert story.histories.forget_chat() == ""
    forgotten = story.files.chat.read_bytes()
    assert len(forgotten) == size
    assert all(line.startswith(b"# ") for line in forgotten.splitlines())

    story.log("after")
    assert story.histories.merge() == ()
    assert story.users_files() == story.expected


def test_a_chat_that_cannot_be_merged_is_not_forgotten(story: Story) -> None:
    """Nothing is overwritten that the user's file does not hold."""
    story.log("hello")
    story.chat.unlink()
    story.chat.mkdir()
    assert str(story.chat) in story.histories.forget_chat()
    assert story.files.chat.read_bytes() == entry("hello")[0]


def test_before_the_first_launch(tmp_path: Path) -> None:
    """There is nothing to hide, to forget or to merge, which is reported and no error."""
    histories = PrivateHistories(tmp_path, tmp_path / "chat", tmp_path / "input")
    assert histories.begin_hidden()
    assert histories.end_hidden()
    assert histories.forget_chat()
    assert histories.merge() == ()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A launch that cannot have private files does not start, with the reason."""
    (tmp_path / "launch-1").write_text("in the way")
    histories = PrivateHistories(tmp_path, None, None)
    with pytest.raises(LaunchError, match="private histories"):
        histories.begin_launch(1, "")


def test_a_mark_that_cannot_be_written(story: Story) -> None:
    """When a hidden command cannot be put on record, the caller learns that it must not be sent."""
    (story.folder / "launch-1" / "hidden.jsonl").mkdir()
    assert "could not be put on record" in story.histories.begin_hidden()


def test_a_session_of_another_user_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it names would be a file of its owner's choice."""
    story = Story(tmp_path)
    story.log("planted")
    before = story.chat.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert merge_leftovers(tmp_path / "sessions", lambda _: False) == ()
    assert story.chat.read_bytes() == before
    link = tmp_path / "others"
    (tmp_path / "sessions").rename(link)
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "s1").symlink_to(link / "s1")
    assert merge_leftovers(tmp_path / "sessions", lambda _: False) == ()
    assert story.chat.read_bytes() == before


def test_a_link_to_a_file_of_the_guards_own(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program inside may make one of the user's history; the guard, outside, does not write there for it."""
    own = tmp_path / "state" / "config.toml"
    own.parent.mkdir()
    own.write_text("as it was")
    monkeypatch.setenv("AIDER_GUARD_STATE_DIR", str(own.parent))
    story.log("hello")
    for path in (own, own.with_name("new.toml")):
        story.chat.unlink()
        story.chat.symlink_to(path)
        (problem,) = story.histories.merge()
        assert "a file of aider-guard's own" in problem
    assert [path.name for path in own.parent.iterdir()] == ["config.toml"]
    assert own.read_text() == "as it was"
