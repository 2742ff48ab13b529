"""What ``doctor`` prints: for people, for programs, and when a launch is refused."""

from __future__ import annotations

import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from checks.worlds import MAIN, NO, no_model, process, role, same, server, world
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.findings import SEVERITIES, Finding, doctor_status
from aider_guard.launch.facts import Facts
from aider_guard.view.doctor import _progress, as_data, render, run_doctor
from aider_guard.view.page import Page

PLAIN = Page(80)
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ENV = "/home/ada/till/.env"


def till(**more: object) -> Facts:
    """The machine of docs/doctor.md."""
    return world(
        role("main", MAIN, "--model on the command line"),
        role("editor", MAIN, "the main model"),
        role("weak", "gpt-4o", f"AIDER_WEAK_MODEL in {ENV}"),
        aider_script="/home/ada/.local/bin/aider",
        server=server(version="0.9.3", process=process(OLLAMA_NUM_PARALLEL="4")),
        **more,
    )


def page_of(facts: Facts, page: Page = PLAIN) -> str:
    return render(facts, examine(facts), page, verbose=True)


def test_the_example_of_the_docs_is_what_is_printed() -> None:
    """Word for word, but for what needs nothing."""
    facts = till()
    found = [
        finding
        for finding in examine(facts)
        if finding.id in {"aider", "ollama", "side-model", "ollama-parallel"}
    ]
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")

    assert render(facts, found, PLAIN, verbose=True) in re.findall(
        r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )


def test_a_page_on_which_all_is_fine() -> None:
    """Three lines of what runs, what is good to know, and the verdict."""
    lines = page_of(world()).splitlines()

    assert lines[:4] == [
        "Aider 0.86.2  /usr/bin/aider",
        "Ollama 0.31.0 at http://127.0.0.1:11434, local  process 812, ollama, of ollama",
        f"{MAIN} (main, editor, weak)  window 16,384 tokens",
        "",
    ]
    assert lines[-1] == "no problems, 5 notes"
    assert len(lines) < 24


def test_notes_are_counted_and_shown_on_request_only() -> None:
    """A system on which all is fine fits any screen."""
    lines = render(world(), examine(world()), PLAIN).splitlines()
    assert lines[3:] == ["", "no problems, 5 notes (-v shows them)"]
    one = [finding for finding in examine(world()) if finding.severity == "info"][:3]
    assert render(world(), one, PLAIN).splitlines()[-1] == "no problems, 1 note (-v shows it)"
    with_problem = render(till(), examine(till()), PLAIN)
    assert "info " not in with_problem
    assert "--weak-model" in with_problem


VERDICTS = [
    (no_model(), "1 problem that stops a session"),
    (world(restore_chat_history=True), "1 warning"),
    (world(state_free_bytes=NO), "no problems, 1 check that could not be made"),
    (world(settings=NO, aider_problem="none"), "1 problem that stops a session"),
]


@pytest.mark.parametrize(("facts", "verdict"), VERDICTS)
def test_the_last_line_is_the_verdict(facts: Facts, verdict: str) -> None:
    """How many findings of each kind there are."""
    assert page_of(facts).splitlines()[-1].startswith(verdict)


def test_a_page_without_aider_and_ollama_says_so() -> None:
    """Nothing is known, and nothing fails."""
    text = page_of(world(settings=NO, server=NO, window_tokens=NO, aider_problem="no Aider here"))

    assert text.startswith("no model  window not known\n\nstop     no Aider here\n")


def test_fixes_stand_on_lines_of_their_own_and_whole() -> None:
    """However narrow the terminal is: what is pasted is one line."""
    facts = till(auto_test=True, test_cmd="python -m pytest tests/unit tests/slow -k 'not network'")
    lines = page_of(facts, Page(40)).splitlines()
    fixes = [finding.fix for finding in examine(facts) if finding.fix]

    assert fixes
    assert all(f"         {fix}" in lines for fix in fixes)


@pytest.mark.parametrize("rows", [18, 40])
def test_what_needs_nothing_gives_way_on_a_small_screen(rows: int) -> None:
    """The fixes of infos are left out where the page would be longer than the screen; those of others never."""
    facts = till(detect_urls=True)
    text = page_of(facts, Page(80, rows))

    assert "--weak-model" in text
    assert ("--no-detect-urls" in text) == (rows == 40)


def test_colours_change_nothing_but_colours() -> None:
    """Without its escape codes the page is the plain one."""
    coloured = page_of(till(), Page(80, colour=True))

    assert "\x1b[31mstop" in coloured
    assert "\x1b[33mwarn" in coloured
    assert ESCAPE.sub("", coloured) == page_of(till())


def test_nothing_that_was_read_moves_the_cursor() -> None:
    """A model's name may hold an escape code."""
    facts = world(*same("evil\x1b[2J\rmodel"))

    assert "\x1b" not in page_of(facts)


words = st.text(max_size=60)
findings = st.lists(
    st.builds(Finding, words, st.sampled_from(SEVERITIES), words, words, words), max_size=6
)


@given(findings, st.integers(-5, 300), st.integers(0, 60), st.booleans())
def test_no_findings_are_too_strange_to_print(
    found: list[Finding],
    columns: int,
    rows: int,
    colour: bool,  # hypothesis names it
) -> None:
    """Any texts, any terminal: lines without a control character but our own colours."""
    text = render(world(), found, Page(columns, rows, colour=colour))

    assert all(letter.isprintable() or letter == "\n" for letter in ESCAPE.sub("", text))


# JSON


def test_the_json_has_the_documented_keys() -> None:
    """Those of docs/doctor.md, for each finding and in its order."""
    data = as_data(examine(till()))
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(?:findings\[\]\.)?(\w+)` \| (?:boolean|string)", text, re.MULTILINE)
    assert isinstance(data["findings"], list)

    assert ["ok", *data["findings"][0]] == keys
    assert data["ok"] is False
    assert as_data(examine(world()))["ok"] is True


# The command


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and when the second dot came."""

    def __init__(self) -> None:
        super().__init__()
        self.is_growing = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.endswith(".."):
            self.is_growing.set()
        return super().write(text)


@pytest.mark.parametrize("as_json", [True, False])
def test_doctor_without_anything_is_findings_and_a_status(tmp_path: Path, *, as_json: bool) -> None:
    """No Aider, no Ollama: status 1, and a finding for each."""
    out, err = io.StringIO(), io.StringIO()
    status = run_doctor(
        Config(ollama="http://127.0.0.1:9"),
        (),
        state_dir=tmp_path,
        as_json=as_json,
        environment={"PATH": str(tmp_path)},
        out=out,
        err=err,
    )

    assert status == 1
    assert err.getvalue() == ""
    if as_json:
        ids = {finding["id"] for finding in json.loads(out.getvalue())["findings"]}
        assert {"aider-missing", "ollama-unread"} <= ids
    else:
        assert "\x1b" not in out.getvalue()
        assert out.getvalue().endswith("\n")


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_it_wants_none(
    tmp_path: Path, no_color: str, *, is_coloured: bool
) -> None:
    """NO_COLOR (no-color.org): present and not empty."""
    out = Terminal()
    run_doctor(
        Config(ollama="http://127.0.0.1:9"),
        (),
        state_dir=tmp_path,
        environment={"PATH": str(tmp_path), "NO_COLOR": no_color},
        out=out,
        err=io.StringIO(),
    )
    assert ("\x1b[" in out.getvalue()) == is_coloured


def test_what_takes_long_shows_that_it_lives() -> None:
    """A line that grows, and nothing of it is left."""
    err = Terminal()
    with _progress(err, patience_seconds=0.01):
        assert err.is_growing.wait(10)

    assert err.getvalue().count("\n") == 0
    assert err.getvalue().endswith("\r\x1b[2K")


def test_what_is_quick_shows_nothing() -> None:
    """Neither a word nor an escape code."""
    err = Terminal()
    with _progress(err, patience_seconds=60):
        pass
    assert err.getvalue() == ""


def test_no_progress_without_a_terminal() -> None:
    """A pipe gets none, however long it takes."""
    err = io.StringIO()
    before = threading.active_count()
    with _progress(err, patience_seconds=0):
        assert threading.active_count() == before
    assert err.getvalue() == ""


def test_the_status_is_that_of_the_findings() -> None:
    """Of the worst of them."""
    assert doctor_status(examine(replace(till(), settings=NO))) == 1
