"""The chat history: its exchanges, and that Aider reads back the file that we write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chatlog import (
    Announced,
    Exchange,
    announcements,
    exchanges,
    files_mentioned,
    last_exchanges,
    render_for_restore,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CAPTURES = Path(__file__).parents[1] / "captures"
HEADER = "\n# aider chat started at 2026-01-02 03:04:05\n\n"


def user(text: str) -> str:
    """The lines that Aider 0.86.2 logs for a text of the user's (io.py ``user_input``)."""
    lines = "  \n#### ".join(text.splitlines() or ["<blank>"])
    return f"\n#### {lines}".rstrip() + "  \n"


def tool(text: str) -> str:
    """The line that Aider logs for one of its own (io.py ``append_chat_history``)."""
    return f"> {text.strip()}".rstrip() + "  \n"


def answer(text: str) -> str:
    """The lines that Aider logs for an answer of the model (io.py ``ai_output``)."""
    return f"\n{text.strip()}\n\n"


def restored(text: str) -> list[tuple[str, str]]:
    """How Aider reads a chat history back, by prefixes: ``split_chat_history_markdown``."""
    messages: list[tuple[str, str]] = []
    role, content = "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("# "):
            continue
        new = (
            "tool" if line.startswith("> ") else "user" if line.startswith("#### ") else "assistant"
        )
        if new != role:
            messages.append((role, content))
            role, content = new, ""
        content += line.removeprefix("#### ") if new == "user" else line
    messages.append((role, content))
    return [(role, content) for role, content in messages if role != "tool" and content.strip()]


def said(text: str) -> list[tuple[str, str]]:
    return [(exchange.user, exchange.assistant) for exchange in exchanges(text)]


HELLO = user("hello") + answer("Hi.") + tool("Tokens: 1 sent, 1 received.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (HEADER + tool("aider --model m") + tool("Aider v0.86.2"), []),
        (HEADER + HELLO, [("hello", "Hi.")]),
        (HELLO + HEADER + HELLO, [("hello", "Hi.")] * 2),
        (user("a\n\nb ") + answer("x\n\ny"), [("a\n\nb", "x\n\ny")]),
        (user("<unanswered>") + HELLO, [("hello", "Hi.")]),
        (user("first") + tool("litellm.APIConnectionError") + HELLO, [("hello", "Hi.")]),
        (user("/tokens") + tool("$ 0.0000 5 system messages") + HELLO, [("hello", "Hi.")]),
        (user("!ls") + tool("Add output? y") + HELLO, [("hello", "Hi.")]),
        (user("/ask why?") + user("why?") + answer("So."), [("why?", "So.")]),
        (user("/run x") + answer("an answer to what the command said"), []),
        (HELLO + user("/clear") + tool("All chat history cleared."), []),
        (HELLO + user("/cl") + HELLO, [("hello", "Hi.")]),
        (HELLO + user("/reset") + user("again") + answer("Yes."), [("again", "Yes.")]),
        (HELLO + user("/copy") + tool("Copied."), [("hello", "Hi.")]),
        (HELLO + user(" /clear"), [("hello", "Hi.")]),
        (
            HELLO + user("/load f") + tool("Executing: /clear") + tool("All chat history cleared."),
            [],
        ),
        (HELLO + tool("All files dropped and chat history cleared."), []),
        (user("q") + answer("#### A heading\n\ntext"), [("q", "#### A heading\n\ntext")]),
        (user("q") + answer("a\n#### Heading  \nb"), [("q", "a\n#### Heading  \nb")]),
        (
            user("q") + answer("> a quote\n> goes on\n\ntext"),
            [("q", "> a quote\n> goes on\n\ntext")],
        ),
        (
            user("q") + answer("# Title\n```python\n# note\n```"),
            [("q", "# Title\n```python\n# note\n```")],
        ),
        (
            user("q") + answer("one") + tool("Applied edit to a.py") + answer("two"),
            [("q", "one\n\ntwo")],
        ),
        (
            HELLO + tool("Processing your request...") + answer("about a comment"),
            [("hello", "Hi.")],
        ),
        (
            user("q")
            + answer("a plan\n\n- x")
            + tool("Edit the files? y")
            + user("a plan\n\n- x")
            + answer("code"),
            [("q", "a plan\n\n- x")],
        ),
        (user("q") + "> Commit 1a2b fix:\n\nlong body  \n" + HELLO, [("hello", "Hi.")]),
        (HELLO.replace("\n", "\r\n"), [("hello", "Hi.")]),
    ],
)
def test_exchanges(text: str, expected: list[tuple[str, str]]) -> None:
    """Answered messages since the last clear; no commands, no tools, headings left alone."""
    if "Commit 1a2b" in text:
        # The first line of a longer text of a tool lacks its sign, and passes for an answer.
        assert said(text)[-1] == expected[-1]
    else:
        assert said(text) == expected


def test_a_recorded_chat() -> None:
    """A chat that Aider wrote, with ``/ask`` and other commands, holds one exchange."""
    text = (CAPTURES / "tokens" / "full.txt").read_text(encoding="utf-8")
    assert said(text) == [("Say hi", "I'm here to help with your code! What can I do for you?")]


def test_a_recorded_architect() -> None:
    """The architect's answer, logged again for the editor, and the editor's answer are not messages."""
    text = (CAPTURES / "chats" / "architect.txt").read_text(encoding="utf-8")
    assert [(one.user, one.assistant.split()[0]) for one in exchanges(text)] == [
        ("Say hi", "I'm"),
        ("Say hi twice", "Sorry"),
        ("Say bye", "You're"),
    ]


prefixes = st.sampled_from(
    ["# ", "> ", "#### ", "####", "```", "a", " ", "\n", "\x0c", "\u2028", "- x"]
)
texts = st.lists(prefixes | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)
chats = st.lists(st.builds(Exchange, texts, texts), max_size=4)


def protected(text: str) -> str:
    own = ("# ", "> ", "#### ")
    lines = text.splitlines(keepends=True)
    return "".join(f" {line}" if line.startswith(own) else line for line in lines)


def ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


@given(chats)
def test_aider_reads_back_what_is_rendered(chat: list[Exchange]) -> None:
    """Aider's reader finds exactly these messages; lines like its own marks moved by a blank."""
    expected: list[tuple[str, str]] = []
    for one in chat:
        if one.user.strip() and one.assistant.strip():
            expected.append(
                ("user", "".join(f"{line}\n" for line in one.user.rstrip().splitlines()))
            )
            expected.append(("assistant", ended(protected(one.assistant))))
    assert restored(render_for_restore(chat)) == expected


@given(chats)
def test_a_handed_over_chat_is_read_again(chat: list[Exchange]) -> None:
    """A handoff to which the next launch adds is read back whole."""
    once = exchanges(render_for_restore(chat))
    again = exchanges(render_for_restore(once) + HEADER + tool("aider") + HELLO)

    assert again == (*once, Exchange("hello", "Hi."))


def test_what_follows_a_handed_over_chat_is_read_as_aider_writes_it() -> None:
    """In the part handed over a tool's line is the answer's and the user's need no blanks; after it they do."""
    handed = render_for_restore([Exchange("why?", "So  \n#### A  \n> b  \n")])
    assert said(handed) == [("why?", "So  \n #### A  \n > b  ")]
    text = handed + HEADER + tool("aider") + user("q") + answer("a\n#### b")
    assert said(text) == [("why?", "So  \n #### A  \n > b  "), ("q", "a\n#### b")]


plain = st.lists(
    st.sampled_from(["a", "b c", "# t", "> q", "#### h", "```", "", "é"]), min_size=1
).map("\n".join)
answers = plain.map(str.strip).filter(bool)
messages = plain.map(lambda text: f"m{text}".rstrip())
events = st.one_of(
    st.tuples(st.just("exchange"), messages, answers),
    st.tuples(st.just("unanswered"), messages, st.just("")),
    st.tuples(st.just("command"), st.sampled_from(["/tokens", "!ls", "/add a.py"]), st.just("")),
    st.tuples(st.just("clear"), st.sampled_from(["/clear", "/reset"]), st.just("")),
)


@given(st.lists(events, max_size=8), st.booleans())
def test_whatever_is_said_is_found(story: Iterable[tuple[str, str, str]], usage: bool) -> None:
    """Any order of messages, commands and clears gives the answered messages since the clear."""
    text = HEADER + tool("aider")
    expected: list[tuple[str, str]] = []
    for what, question, reply in story:
        text += user(question)
        if what == "exchange":
            text += answer(reply) + (tool("Tokens: 1 sent, 1 received.") if usage else "")
            expected.append((question, reply))
        elif what == "clear":
            text += tool("All chat history cleared.")
            expected = []
        elif what == "command":
            text += tool("Done.")
    assert said(text) == expected


@given(st.text(max_size=200))
def test_arbitrary_text_never_raises(text: str) -> None:
    """Any text has exchanges, perhaps none, and perhaps an announcement."""
    assert all(one.assistant for one in exchanges(text))
    announcements(text)


A, B, C = Exchange("a", "1"), Exchange("b", "2"), Exchange("c", "3")


@pytest.mark.parametrize(
    ("tokens", "limit", "kept"),
    [
        ([10, 10, 10], 30, (A, B, C)),
        ([10, 10, 10], 29, (B, C)),
        ([1, 50, 10], 20, (C,)),
        ([1, 1, 50], 20, ()),
        ([0, 0, 0], 0, (A, B, C)),
        ([1, 1, 1], 0, ()),
    ],
)
def test_the_newest_whole_exchanges(
    tokens: list[int], limit: int, kept: tuple[Exchange, ...]
) -> None:
    """The newest ones that fit are kept, without a gap."""
    assert last_exchanges((A, B, C), tokens, limit) == kept


MODELS = tool("Aider v0.86.2") + tool(
    "Main model: ollama_chat/a:7b with ask edit format, prompt cache"
)
WEAK = tool("Weak model: ollama_chat/w")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (
            HEADER
            + tool("aider")
            + tool("Aider v0.86.2")
            + tool("Model: m with whole edit format"),
            Announced("m", "whole", "m"),
        ),
        (HEADER + MODELS + WEAK, Announced("ollama_chat/a:7b", "ask", "ollama_chat/w")),
        (MODELS + WEAK, Announced("ollama_chat/a:7b", "ask", "ollama_chat/w")),
        (
            HEADER
            + tool("Aider v0.86.2")
            + tool("Main model: m with architect edit format, infinite output")
            + tool("Editor model: e with editor-diff edit format")
            + WEAK,
            Announced("m", "architect", "ollama_chat/w", "e", "editor-diff"),
        ),
        (
            HEADER
            + MODELS
            + user("/code")
            + tool("Aider v0.86.2")
            + tool("Model: m with diff edit format"),
            Announced("m", "diff", "m"),
        ),
        # An answer that imitates Aider, and the editor that --verbose announces.
        (
            HEADER + MODELS + HELLO + MODELS.replace("a:7b", "evil"),
            Announced("ollama_chat/a:7b", "ask", "ollama_chat/a:7b"),
        ),
        (
            HEADER
            + MODELS
            + user("/x")
            + tool("Aider v0.86.2")
            + tool("Model: e with editor-diff edit format"),
            Announced("ollama_chat/a:7b", "ask", "ollama_chat/a:7b"),
        ),
    ],
)
def test_announcements(text: str, expected: Announced | None) -> None:
    """The models and the mode are those of Aider's own last announcement."""
    assert announcements(text) == expected


def test_a_recorded_announcement() -> None:
    """After ``/architect`` and ``/code`` the recorded announcements name mode and weak model."""
    text = (CAPTURES / "tokens" / "architect.txt").read_text(encoding="utf-8")
    before_code = text.partition("#### /code")[0]
    main, weak = "ollama_chat/small", "ollama_chat/small2"
    assert announcements(before_code) == Announced(main, "architect", weak, main, "editor-whole")
    assert announcements(text) == Announced(main, "whole", weak)


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("look at src/calc.py please", {"src/calc.py"}),
        ("look at calc.py.", {"src/calc.py"}),
        ("`calc.py`, (README.md)", {"src/calc.py", "README.md"}),
        ("./README.md", {"README.md"}),
        ("docs/README.md", set()),
        ("mycalc.py calc.pyc calc.py.bak my-calc.py", set()),
        ("Applied edit to my notes.md  \n", {"docs/my notes.md"}),
        ("> Applied edit to src/calc.py  \n", {"src/calc.py"}),
        ("calc.py-Datei", {"src/calc.py"}),
        ("a+b(1).py", {"a+b(1).py"}),
        ("", set()),
    ],
)
def test_files_mentioned(text: str, mentioned: set[str]) -> None:
    """A file is mentioned by its path or by its name alone, as a whole word."""
    names = ["src/calc.py", "README.md", "docs/my notes.md", "a+b(1).py"]
    assert set(files_mentioned(text, names)) == mentioned
