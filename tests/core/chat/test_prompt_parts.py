"""Splitting a prompt of Aider's into its parts."""

from __future__ import annotations

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, chat, listing, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import Form, conversation
from aider_guard.core.chat.size import Part, parts, rows
from aider_guard.core.readings import ContextRow, RowKind

FILES = {
    "src/a b.py": "def a():\n    pass\n",
    "../outside.md": "no newline at the end",
    "empty.txt": "",
}


def whole_prompt(system: str, files: str, map_prefix: str) -> list[dict[str, str]]:
    """A prompt in the order of Aider's ChatChunks.all_messages."""
    return [
        message("system", system),
        message("user", "Change get_factorial() to use math.factorial"),
        message("assistant", "To make this change we need to modify `mathweb/flask/app.py`"),
        message("user", prompts.SWITCHED),
        message("assistant", "Ok."),
        message("user", listing(prompts.READ_ONLY, {"CONVENTIONS.md": "be kind\n"})),
        message("assistant", "Ok, I will use these files as references."),
        message("user", f"{map_prefix}\ncalc.py:\n⋮\n│def add(a, b):\n"),
        message("assistant", "Ok, I won't try and edit those files without asking first."),
        message("user", "an earlier question"),
        message("assistant", "an earlier answer"),
        message("user", listing(files, FILES)),
        message("assistant", "Ok, any changes I propose will be to those files."),
        message("user", f"fix it\n\n{prompts.REMINDER}"),
    ]


@pytest.mark.parametrize("form", ["chat", "generate", "openai_chat"])
@pytest.mark.parametrize(
    ("system", "files", "map_prefix"),
    [
        (prompts.DIFF, prompts.CHAT_FILES, prompts.MAP),
        (f"{prompts.ASK}\n{prompts.REMINDER}", prompts.ASK_FILES, prompts.ASK_MAP),
        (f"{prompts.CONTEXT}\n{prompts.REMINDER}", prompts.CONTEXT_FILES, prompts.ASK_MAP),
    ],
)
def test_each_kind_of_content_is_found_with_its_names(
    form: Form, system: str, files: str, map_prefix: str
) -> None:
    """In each edit format, flattened by litellm or not."""
    pieces = parts(request_of(form, body(form, whole_prompt(system, files, map_prefix))))
    named = [(part.name, part.read_only) for part in pieces if part.kind == "file"]
    assert named == [("CONVENTIONS.md", True), *((name, False) for name in FILES)]
    by_kind = {
        kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("map", "history")
    }
    assert "def add(a, b)" in by_kind["map"]
    assert by_kind["history"] == "an earlier questionan earlier answerfix it"
    assert [part.text for part in pieces if part.current] == ["fix it"]


def test_the_examples_of_an_edit_format_are_instructions() -> None:
    """The examples look like a conversation about files, but are instructions."""
    chat_request = request_of(
        "chat", body("chat", whole_prompt(prompts.DIFF, prompts.CHAT_FILES, prompts.MAP))
    )
    system = "".join(part.text for part in parts(chat_request) if part.kind == "system")
    assert "get_factorial" in system
    assert prompts.SWITCHED in system


def test_a_whole_prompt_in_its_parts() -> None:
    """Each message of Aider's order, with what answers it: the answers to files are instructions."""
    messages = whole_prompt(prompts.DIFF, prompts.CHAT_FILES, prompts.MAP)
    texts = [one["content"] for one in messages]
    listed = [listing("", {name: text}) for name, text in FILES.items()]
    assert parts(request_of("chat", body("chat", messages))) == (
        *(Part("system", text) for text in texts[:5]),
        Part("system", prompts.READ_ONLY),
        Part(
            "file", listing("", {"CONVENTIONS.md": "be kind\n"}), "CONVENTIONS.md", read_only=True
        ),
        Part("system", texts[6]),
        Part("map", texts[7]),
        Part("map", texts[8]),
        Part("history", texts[9]),
        Part("history", texts[10]),
        Part("system", prompts.CHAT_FILES),
        *(Part("file", text, name) for text, name in zip(listed, FILES, strict=True)),
        Part("system", texts[12]),
        Part("history", "fix it", current=True),
        Part("system", f"\n\n{prompts.REMINDER}"),
    )


@pytest.mark.parametrize(
    ("said", "found"),
    [
        # A system text that is sent as the user's (use_system_prompt: false):
        (
            [("user", prompts.DIFF), ("assistant", "Ok."), ("user", "a"), ("assistant", "b"), ("user", "c")],
            ["system", "system", "history", "history", "current"],
        ),
        ([("user", prompts.DIFF), ("assistant", "No."), ("user", "c")], ["history", "history", "current"]),
        ([("user", "hello"), ("assistant", "Ok."), ("user", "c")], ["history", "history", "current"]),
        ([("system", prompts.DIFF), ("user", "a"), ("assistant", "b")], ["system", "current", "history"]),
        ([("user", "a"), ("system", "s"), ("user", "c")], ["history", "system", "current"]),
        ([("assistant", "b")], ["history"]),
        # What begins as a message of Aider's own is one only where no newer message of the user's follows it not:
        ([("user", prompts.MAP)], ["current"]),
        ([("user", prompts.MAP), ("user", "c")], ["map", "current"]),
        ([("assistant", prompts.MAP), ("user", "c")], ["history", "current"]),
        ([("user", "I am not sharing any files."), ("user", "c")], ["system", "current"]),
        ([("user", "I am not sharing any files.")], ["current"]),
        # Without a file in it, it is a message on files:
        ([("user", prompts.CHAT_FILES), ("assistant", "b"), ("user", "c")], ["history", "history", "current"]),
    ],
)  # fmt: skip
def test_each_message_is_known_by_its_place_and_its_beginning(
    said: list[tuple[str, str]], found: list[str]
) -> None:
    """Instructions come first, and the newest message of the user's is never one of Aider's own."""
    pieces = parts(request_of("chat", body("chat", [message(role, text) for role, text in said])))
    assert ["current" if part.current else part.kind for part in pieces] == found


@pytest.mark.parametrize(
    ("system", "said", "message_end"),
    [
        ("s\nrules\n", "fix it\n\nrules\n", 6),
        ("s\nrules\n", "\n\nrules\n", 0),
        ("s\nrules\n", "one\n\ntwo\n\nrules\n", 8),
        ("s\nrules\n", "fix it\n\n\nrules\n", 7),
        ("s\nrules\n", "fix it\n\nrules", None),
        ("s\nrules\n", "fix it\n\n", None),
        ("s\nrules\n", "fix it", None),
        ("no\nother", "fix it\n\nrules\n", None),
        ("rules\n", "fix it\n\nrules\n", None),
    ],
)
def test_the_reminder_at_the_end_of_the_newest_message_is_an_instruction(
    system: str, said: str, message_end: int | None
) -> None:
    """It is known by the system text, which ends with the same lines."""
    end = len(said) if message_end is None else message_end
    expected = (
        Part("system", system),
        Part("history", said[:end], current=True),
        Part("system", said[end:]),
    )
    assert parts(chat(system, (said,))) == tuple(part for part in expected if part.text)


def test_a_reminder_needs_a_system_text() -> None:
    """Without one the message is the user's to its end."""
    said = [message("user", "a"), message("user", "fix it\n\na")]
    pieces = parts(request_of("chat", body("chat", said)))
    assert pieces == (Part("history", "a"), Part("history", "fix it\n\na", current=True))


def test_a_raw_prompt_is_one_part() -> None:
    """Nothing is known of its composition."""
    pieces = parts(request_of("openai_text", b'{"prompt":"### User:\\nx"}'))
    assert pieces == (Part("history", "### User:\nx", current=True),)


@pytest.mark.parametrize(
    "fence",
    [
        ("```", "```"),
        ("````", "````"),
        ("<source>", "</source>"),
        ("<sourcecode>", "</sourcecode>"),
    ],
)
def test_files_are_told_apart_by_the_fence_that_aider_chose(fence: tuple[str, str]) -> None:
    """A file may hold text that looks like the beginning of another file, with another fence."""
    other = "```" if fence[0] != "```" else "~~~"
    files = {
        "a.md": f"text {fence[1]}\n\nb.py\n{other}\nx\n",
        "b.py": f"{other}\n",
        "c": "last line",
    }
    messages = [
        message("system", prompts.DIFF),
        message("user", listing(prompts.CHAT_FILES, files, fence)),
        message("assistant", "Ok."),
        message("user", "go"),
    ]
    pieces = parts(request_of("chat", body("chat", messages)))
    assert [part.name for part in pieces if part.kind == "file"] == list(files)
    assert all(files[part.name] in part.text for part in pieces if part.kind == "file")


def test_a_question_about_such_a_listing_is_a_message() -> None:
    """The newest message is never split into files."""
    pieces = parts(chat(said=(listing(prompts.CHAT_FILES, FILES),)))
    assert [part.kind for part in pieces] == ["system", "history"]


TEXTS = st.sampled_from(
    [
        prompts.CHAT_FILES,
        prompts.READ_ONLY,
        prompts.MAP,
        prompts.SWITCHED,
        prompts.REMINDER,
        "Ok.",
        "\n```\n",
        "\na.py\n```\n",
        "```\n\nb\n```\n",
        "### User:\n",
        "",
    ]
)
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.lists(TEXTS | st.text(max_size=9), max_size=4).map("".join),
    ),
    max_size=8,
)


@given(MESSAGES, st.sampled_from(["chat", "generate"]))
def test_every_character_is_in_exactly_one_part(said: list[tuple[str, str]], form: Form) -> None:
    """This holds for any messages."""
    chat_request = request_of(form, body(form, [message(role, text) for role, text in said]))
    texts = [one.content for one in conversation(chat_request)]
    assert "".join(part.text for part in parts(chat_request)) == "".join(texts)


KINDS: tuple[RowKind, ...] = ("system", "map", "history", "file")


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5000)), max_size=9),
    st.integers(0, 100_000),
)
def test_rows_sum_up_to_the_total(sizes_of_kinds: list[tuple[RowKind, int]], total: int) -> None:
    """The tokens of the template are shared out, and no row is negative."""
    names = [f"{at}.py" if kind == "file" else "" for at, (kind, _) in enumerate(sizes_of_kinds)]
    pieces = [Part(kind, "x", name) for (kind, _), name in zip(sizes_of_kinds, names, strict=True)]
    sizes = [size for _, size in sizes_of_kinds]
    made = rows(pieces, sizes, total)
    assert sum(row.tokens for row in made) == (total if sum(sizes) else 0)
    assert all(row.tokens >= 0 for row in made)
    assert len({(row.kind, row.name) for row in made}) == len(made)


def test_rows_are_in_proportion() -> None:
    """One row for each kind and file in the order of the prompt; each end is rounded, so no token is lost."""
    pieces = [
        Part("system", "x"),
        Part("file", "x", "a.py", read_only=True),
        Part("history", "x"),
        Part("file", "x", "a.py"),
        Part("system", "x"),
        Part("history", "x", current=True),
    ]
    assert rows(pieces, [10, 20, 5, 1, 4, 0], 60) == (
        ContextRow("system", "", 21),
        ContextRow("file", "a.py", 30, read_only=True),
        ContextRow("history", "", 7),
        ContextRow("file", "a.py", 2),
    )
    assert rows(pieces[:2], [0, 0], 60) == (
        ContextRow("system", "", 0),
        ContextRow("file", "a.py", 0, read_only=True),
    )
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        rows(pieces, [10], 60)
