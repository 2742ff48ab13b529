"""What ``resume`` and ``restart`` show at three sizes, in a real terminal around a real Aider.

The screens are kept in ``tests/view/screens/``; ``RENEW=1`` writes them anew: read the difference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from e2e.desk import COUNTABLE
from e2e.test_resume import Resuming, leave, said
from fakes.ollama_chat import Talking
from fakes.ollama_server import FakeOllama
from golden import assert_is_screen

if TYPE_CHECKING:
    from e2e.desk import Desk

SIZES = ((60, 15), (80, 24), (200, 50))
DIFFERS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-03-01 10:15"),
    (r"\d{8}-\d{6}-\d+", "20260301-101500-4242"),
    (r"in \d+\.\d s", "in 0.6 s"),
    (r"process \d+", "process 812"),
)
"""What is another in each run, and what is kept for it; none changes where a line ends."""


def kept(text: str) -> str:
    """A screen from the guard's first line on, without what differs from run to run and the empty rows below."""
    text = text[text.index("aider-guard: ") :]
    return as_always(text).rstrip() + "\n"


def as_always(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, stands_for in DIFFERS:
        text = re.sub(pattern, stands_for, text)
    return text


def test_the_screens_are_those_that_were_read(desk: Desk) -> None:
    """A session of two files that was left, opened again in each size and restarted there."""
    file = desk.file("lib/two words.py", 3)
    with FakeOllama(models=(COUNTABLE,), talking=Talking(says="It is well.")) as server:
        with desk.session(server.url, "README.md") as person:
            person.wait_for_prompt()
            person.ask(f'/add "{file}"')
            person.ask("How is the till?")
            leave(person)
        for size in SIZES:
            resume_and_restart(desk, server.url, size)


def resume_and_restart(desk: Desk, ollama: str, size: tuple[int, int]) -> None:
    """Open the session again in a terminal of this size, and restart it from another one."""
    columns, rows = size
    with Resuming(desk, ollama, size=(rows, columns)) as person:
        person.wait_for_prompt()
        person.wait_for(r"^ask>$")
        assert_is_screen(f"resume-{columns}x{rows}", kept(person.text()))
        printed = said(desk, "restart")
        person.wait_for_prompt(2)
        person.wait_for(r"^ask>$")
        shown = kept(person.text())
        assert_is_screen(f"restart-{columns}x{rows}", f"{as_always(printed)}\n{shown}")
        leave(person)
