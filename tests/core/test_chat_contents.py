"""What the chat holds, what a session unloads, and what it hands over when Aider can no longer be asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aider_guard.core.actions import Handoff
from aider_guard.core.chat_contents import (
    files_of_prompt,
    last_known_handoff,
    rows_of_request,
    session_models,
)
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    LastRequest,
    LoadedModel,
    ModelsReading,
    Unavailable,
)
from aider_guard.core.state import Limits, State

UNKNOWN = Unavailable("not told")
SYSTEM = ContextRow("system", "", 500)
EDITABLE = ContextRow("file", "a.py", 300)
READ_ONLY = ContextRow("file", "NOTES.md", 200, read_only=True)


def test_the_parts_of_a_prompt_are_scaled_to_the_servers_count() -> None:
    """The answer is history from then on, and not scaled; without parts, or with empty ones, nothing is known."""
    assert rows_of_request((SYSTEM, EDITABLE, READ_ONLY), 2000, 70) == (
        ContextRow("system", "", 1000),
        ContextRow("file", "a.py", 600),
        ContextRow("file", "NOTES.md", 400, read_only=True),
        ContextRow("history", "", 70),
    )
    assert rows_of_request((ContextRow("map", "", 1),), 3, 2) == (
        ContextRow("map", "", 3),
        ContextRow("history", "", 2),
    )
    assert rows_of_request((), 2000, 70) == ()
    assert rows_of_request((ContextRow("map", "", 0),), 2000, 70) == ()


@pytest.mark.parametrize(("age", "unloaded"), [(9.9, True), (10.0, True), (10.1, False)])
def test_an_old_list_unloads_nothing(age: float, *, unloaded: bool) -> None:
    """A list of ten seconds ago still counts; an older one may have models that are gone."""
    listed = ModelsReading((LoadedModel("ours:latest", "", 1, 1, 8192),), 100.0)
    state = State(Limits(stale_after_seconds=10.0), models=("ours",), loaded=listed)
    assert session_models(state, 100.0 + age) == (("ours:latest",) if unloaded else ())


def test_the_handoff_has_the_files_of_the_newest_request() -> None:
    """Each as it was in the chat, with the mode that Aider was in."""
    request = LastRequest(1000, rows=(SYSTEM, EDITABLE, READ_ONLY))
    state = State(last_request=request, last_mode="ask", last_multiline=True)
    handoff = Handoff(("a.py",), ("NOTES.md",), mode="ask", multiline=True)
    assert last_known_handoff(state) == handoff


def test_a_handoff_without_a_request_or_a_table_is_the_last_one() -> None:
    """What this Aider took over when it started; a table without files says that there are none."""
    before = Handoff(("old.py",))
    state = State(handoff=before, last_mode="ask", last_multiline=True)
    assert last_known_handoff(state) == Handoff(("old.py",), mode="ask", multiline=True)
    table = ContextReading("m", (SYSTEM,), 500, UNKNOWN, 100.0)
    emptied = State(handoff=before, context=table)
    assert last_known_handoff(emptied) == Handoff()
    measured = State(handoff=before, last_request=LastRequest(1000, rows=(SYSTEM,)))
    assert last_known_handoff(measured) == Handoff()


LONG = "src/main/java/org/example/Long.java"
PROMPTS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "none": ((), ((), ())),
    "columns": (("a.py lib/b.py", "c.py"), (("a.py", "lib/b.py", "c.py"), ())),
    "both kinds": (
        ("Readonly: NOTES.md two words.md", "", "Editable: a.py", "two words.md.py"),
        (("a.py", "two", "words.md.py"), ("NOTES.md", "two words.md")),
    ),
    "wider than the terminal": (
        ("src/main/java/org/exam", "ple/Long.java", "a.py"),
        (("a.py", "src/main/java/org/example/Long.java"), ()),
    ),
    "not pretty": (
        ("NOTES.md (read only)", "two words.md (read only)", "a.py"),
        (("a.py",), ("NOTES.md", "two words.md")),
    ),
}


@pytest.mark.parametrize(("rows", "files"), PROMPTS.values(), ids=PROMPTS.keys())
def test_the_files_are_those_that_the_prompt_names(
    rows: tuple[str, ...], files: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    """In each of the ways in which Aider prints them; a name with a blank where it is known."""
    assert files_of_prompt(rows, ("two words.md", "a.py", LONG)) == files


def test_files_that_no_request_or_table_has_yet_are_handed_over() -> None:
    """One was added at the newest prompt, and one dropped; Aider died before it could be asked."""
    request = LastRequest(1000, rows=(SYSTEM, EDITABLE, READ_ONLY))
    later = State(last_request=request, files_changed=True)
    shown = replace(later, prompt_files=("Readonly: NOTES.md", "Editable: new.py"))
    assert last_known_handoff(shown) == Handoff(("new.py",), ("NOTES.md",))
    # A prompt without names, as before the files of a restart are loaded, takes none away.
    assert last_known_handoff(later) == Handoff(("a.py",), ("NOTES.md",))
    named = State(files_changed=True, prompt_files=("new.py",), handoff=Handoff(known=False))
    assert last_known_handoff(named) == Handoff(("new.py",))
