"""The user sees nothing of a hidden command: cell by cell, before, after, and through what follows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from e2e.people import Guarded
from e2e.test_session import QUIET

from aider_guard.demo.layout import Rig

Picture = tuple[tuple[str, ...], int, int]

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
REST_SECONDS, LONGER_SECONDS = 2.0, 20.0
SIZES = ((24, 70), (40, 110))


def pictures(person: Guarded, expected: Iterable[Picture | None]) -> Iterator[Picture]:
    """The screen at the idle prompt, after each key, and after each resize, whenever it has come to rest."""
    expecting = iter(expected)
    yield at_rest(person, next(expecting))
    for keys in KEYS:
        person.type(keys)
        yield at_rest(person, next(expecting))
    for rows, columns in SIZES:
        person.resize_to(rows, columns)
        yield at_rest(person, next(expecting))


def at_rest(person: Guarded, expected: Picture | None = None) -> Picture:
    """The screen once Aider wrote nothing for a while; where another one is expected, that Aider is given longer."""
    shown, deadline = -1, time.monotonic() + LONGER_SECONDS
    while shown != len(person.shown) or (
        expected not in (None, person.picture()) and time.monotonic() < deadline
    ):
        shown = len(person.shown)
        person.pump(seconds=REST_SECONDS)
    return person.picture()


@pytest.mark.parametrize(("rows", "columns"), [(30, 100), (12, 60)], ids=["roomy", "scrolling"])
def test_the_screen_is_the_same_with_and_without_a_probe(
    rig: Rig, terse: str, sample_repo: Path, aider_env: dict[str, str], rows: int, columns: int
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

    def seen(probe: str, expected: Iterable[Picture | None]) -> list[Picture]:
        """The pictures of a session; none where the machine was so slow that Aider's answer was not waited for."""
        (sample_repo / ".aider.input.history").write_text(
            "\n# 2026-01-01 00:00:00\n+the entry before\n"
        )
        with Guarded(
            str(rig.aider_command),
            arguments,
            options=["--probe", probe],
            env=aider_env,
            cwd=sample_repo,
            rows=rows,
            columns=columns,
        ) as person:
            person.wait_for_prompt()
            if probe == "always":
                reading = person.wait_for_event("context_read")["reading"]
                if "total_tokens" not in reading:
                    return []
            found = list(pictures(person, expected))
            person.type(b"\x15/exit\r")
            assert person.end() == 0
        assert len(person.journal("run_hidden")) == (1 if probe == "always" else 0)
        return found

    without = seen("never", repeat(None))
    expected = [None if step == recalled else one for step, one in enumerate(without)]
    with_probe = next(filter(None, (seen("always", expected) for _ in range(ATTEMPTS))))
    for step, (left, right) in enumerate(zip(without, with_probe, strict=True)):
        if step != recalled:
            assert left == right, (
                f"step {step}: {KEYS[step - 1] if 0 < step <= len(KEYS) else 'start or resize'!r}"
            )


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
        at_rest(person)
        assert person.journal("prompt_shown")[-1]["empty"] is False
        assert len(person.journal("run_hidden")) == probes
        person.type(b"\x15/exit\r")
        assert person.end() == 0
