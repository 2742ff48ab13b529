"""Splitting a prompt of Aider's into its parts."""

from __future__ import annotations

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, chat, listing, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import Form, conversation
from aider_guard.core.chat.size import Part, parts, rows
from aider_guard.core.readings import RowKind

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
