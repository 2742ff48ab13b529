"""The user sees nothing of a hidden command: cell by cell, before, after, and through what follows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.desk import COUNTABLE, Desk
from e2e.people import Guarded
from e2e.test_session import QUIET
from fakes.ollama_server import FakeOllama

from aider_guard.demo.layout import Rig

KEYS = (
    b"/ad",
    b"d doc",
    b"\x7f\x7f\x7f",
    b"doc",
    b"\t",
    b"\x15",
    b"typed text",
    b"\x1b[A",
    b"\x15",
)
"""A completion menu opens, grows, shrinks, a file is completed, the line is cleared, the last entry recalled."""
ATTEMPTS = 3
REST_SECONDS, LONGER_SECONDS = 0.5, 30.0
SIZES = ((24, 70), (40, 110))


def steps(person: Guarded) -> Iterator[str]:
    """Does one thing at a time at the idle prompt, keys and resizes, and says what it was."""
    yield "start"
    for keys in KEYS:
        person.type(keys)
        yield repr(keys)
    for rows, columns in SIZES:
        person.resize_to(rows, columns)
        yield f"{rows}x{columns}"


def rest(*people: Guarded) -> None:
    """Look until nothing was written to these screens for a while."""
    shown = [-1]
    while shown != [len(person.shown) for person in people]:
        shown = [len(person.shown) for person in people]
        for person in people:
            person.pump(seconds=REST_SECONDS / len(people))


def same(one: Guarded, other: Guarded) -> bool:
    """Whether two screens have come to rest and are equal in every cell, the cursor's place included."""
    deadline = time.monotonic() + LONGER_SECONDS
    while True:
        rest(one, other)
        if one.picture() == other.picture() or time.monotonic() > deadline:
            return one.picture() == other.picture()


@pytest.mark.parametrize(("rows", "columns"), [(30, 100), (12, 60)], ids=["roomy", "scrolling"])
def test_the_screen_is_the_same_with_and_without_a_probe(
    rig: Rig,
    terse: str,
    sample_repo: Path,
    aider_env: dict[str, str],
    tmp_path: Path,
    rows: int,
    columns: int,
) -> None:
    """At the prompt, through typing, completion, history and resizes, the two screens are equal in every cell."""
    arguments = [
        "--model",
        f"ollama_chat/{terse}",
        *QUIET,
        "till/prices.py",
        "docs/coding conventions.md",
    ]
    # The newest entry above the prompt is the hidden command itself until Aider ends (docs/limits.md).
    recalled = KEYS.index(b"\x1b[A") + 1

    def opened(probe: str, repo: Path) -> Guarded:
        (repo / ".aider.input.history").write_text("\n# 2026-01-01 00:00:00\n+the entry before\n")
        return Guarded(
            str(rig.aider_command),
            arguments,
            options=["--probe", probe],
            env=aider_env,
            cwd=repo,
            rows=rows,
            columns=columns,
        )

    def are_the_same(left: Path, right: Path) -> bool:
        """Look at both step by step; false where the machine was so slow that Aider's answer was not waited for."""
        with opened("never", left) as without, opened("always", right) as probed:
            for person in (without, probed):
                person.wait_for_prompt()
            in_time = "total_tokens" in probed.wait_for_event("context_read")["reading"]
            if in_time:
                for number, (step, _) in enumerate(zip(steps(without), steps(probed), strict=True)):
                    if number == recalled:
                        rest(without, probed)
                    else:
                        assert same(without, probed), f"{step}\n{without.text()}\n{probed.text()}"
            for person in (without, probed):
                person.type(b"\x15/exit\r")
                assert person.end() == 0
            assert len(without.journal("run_hidden")) == 0
            assert len(probed.journal("run_hidden")) == 1
        return in_time

    # Screens show the folder's name, so both have the same.
    places = [tmp_path / side / "till" for side in ("left", "right")]
    for place in places:
        shutil.copytree(sample_repo, place)
    assert any(are_the_same(*places) for _ in range(ATTEMPTS))


def test_keys_typed_during_a_probe_are_delivered_after_it(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """What is typed while the hidden command runs stands on the line when it is over, whole and once."""
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET, "till/prices.py"]

    def is_read() -> bool:
        """Whether Aider answered in time, which a busy machine may prevent."""
        with Guarded(str(rig.aider_command), arguments, env=aider_env, cwd=sample_repo) as person:
            person.wait_for_event("run_hidden")
            person.type(b"typed meanwhile")
            in_time = "total_tokens" in person.wait_for_event("context_read")["reading"]
            if in_time:
                person.wait_for(r"^ask> typed meanwhile$")
            person.type(b"\x15/exit\r")
            assert person.end() == 0
        return in_time

    assert any(is_read() for _ in range(ATTEMPTS))


def test_a_placeholder_is_never_typed_over(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """After a failed /run Aider fills the line in: nothing is typed for the user there, and the line stays."""
    arguments = ["--model", f"ollama_chat/{terse}", *QUIET, "till/prices.py"]
    with Guarded(
        str(rig.aider_command),
        arguments,
        options=["--probe", "always"],
        env=aider_env,
        cwd=sample_repo,
    ) as person:
        person.wait_for_event("context_read")
        person.say("/run echo out of order; false")
        person.wait_for_event("confirm_shown")
        person.type(b"y\r")
        person.wait_for(r"^ask> What's wrong\? Fix$")
        probes = len(person.journal("run_hidden"))
        rest(person)
        assert person.journal("prompt_shown")[-1]["empty"] is False
        assert len(person.journal("run_hidden")) == probes
        person.type(b"\x15/exit\r")
        assert person.end() == 0


def test_a_file_that_is_away_for_a_moment_stays_in_the_chat(desk: Desk) -> None:
    """No ``/tokens`` is run while one of the chat's files is not there, as during a ``git stash``."""
    one, two = desk.file("one.py", 2), desk.file("two.py", 2)
    with FakeOllama(models=(COUNTABLE,)) as ollama, desk.session(ollama.url) as person:
        person.wait_for_prompt()
        person.ask_and_probe(f"/add {one}")
        (desk.repo / one).rename(desk.repo / "away")
        person.ask(f"/add {two}")
        assert person.wait_for_event("command_not_typed")["command"] == "tokens"
        (desk.repo / "away").rename(desk.repo / one)
        person.ask_and_probe("/read-only README.md")
        person.ask("/ls")
        person.wait_for(r"Files in chat:\s+one\.py\s+two\.py")
        person.type(b"/exit\r")
        assert person.end() == 0


def test_what_aider_cannot_read_is_named_when_it_is_dropped(desk: Desk) -> None:
    """A file that is not UTF-8 was in the chat until the first ``/tokens``."""
    name = desk.file("latin.py", 1)
    (desk.repo / name).write_bytes("# Grüße\n".encode("latin-1"))
    with FakeOllama(models=(COUNTABLE,)) as ollama, desk.session(ollama.url, name) as person:
        person.wait_for("aider-guard: Aider could not read latin.py, and took it out of the chat")
        person.type(b"/exit\r")
        assert person.end() == 0
