"""Names as words of Aider's commands, against a re-statement of Aider's own rules."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.drop_advice import (
    ChatFile,
    dropped_by,
    quote_for_aider,
    why_not,
    word_for_drop,
)

ROOT = "/home/user/repo"


def words_of(args: str) -> list[str]:
    """How Aider 0.86.2 splits the arguments of ``/add``: its ``parse_quoted_filenames``."""
    pairs = re.findall(r"\"(.+?)\"|(\S+)", args.strip())
    return [name for pair in pairs for name in pair if name]


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("calc.py", "calc.py"),
        ("docs/my notes.md", '"docs/my notes.md"'),
        ("../outside.md", "../outside.md"),
        ("/abs/with blank.md", '"/abs/with blank.md"'),
        ("a$b.py", "a$b.py"),
        ("it's.py", "it's.py"),
        ("it's mine.py", '"it\'s mine.py"'),
        ('we"ird.py', 'we"ird.py'),
        ("[id].tsx", "[id].tsx"),
        ("no\u00a0break.md", '"no\u00a0break.md"'),
        (" leading.md", '" leading.md"'),
        ("~notes.md", "./~notes.md"),
        ("été 漢字.py", '"été 漢字.py"'),
        ('"quoted".py', None),
        ('a "b" c.py', None),
        ("two\nlines", None),
        ("two\rlines", None),
        ("", None),
    ],
)
def test_names_become_words(name: str, quoted: str | None) -> None:
    """Blanks need quotes, a tilde a folder before it; some names have no word, but a reason."""
    assert quote_for_aider(name) == quoted
    assert bool(why_not(name)) == (quoted is None)


any_name = st.text(
    st.one_of(st.sampled_from(" \t\"'~*[]?./"), st.characters(exclude_categories=["Cs"])),
    max_size=8,
)


@given(st.lists(any_name, max_size=5))
def test_aider_reads_back_exactly_these_names(names: list[str]) -> None:
    """The quoted words of any names, put together, are split into these names again."""
    quoted = {name: word for name in names if (word := quote_for_aider(name)) is not None}

    expected = [f"./{name}" if name.startswith("~") else name for name in quoted]
    assert words_of(" ".join(quoted.values())) == expected


def editable(*names: str) -> tuple[ChatFile, ...]:
    return tuple(ChatFile(name) for name in names)


@pytest.mark.parametrize(
    ("word", "dropped"),
    [
        ("a.py", {"a.py", "data.py", "lib/a.py", "a.py.bak"}),
        ("./a.py", {"a.py"}),
        ("lib/a.py", {"lib/a.py"}),
        ("repo", {"a.py", "data.py", "lib/a.py", "a.py.bak", "[id].tsx", "i.tsx"}),
        ("*.py", {"a.py", "data.py"}),
        ("lib/*.py", {"lib/a.py"}),
        ("[id].tsx", {"i.tsx"}),
        ("[[]id].tsx", {"[id].tsx"}),
        ("[x].tsx", set()),
        (f"{ROOT}/a.py", {"a.py", "a.py.bak"}),
        ("gone.py", set()),
    ],
)
def test_what_drop_takes_of_editable_files(word: str, dropped: set[str]) -> None:
    """A word drops every path that contains it, a glob its matches, and ``./`` exactly one file."""
    chat = editable("a.py", "data.py", "lib/a.py", "a.py.bak", "[id].tsx", "i.tsx")
    assert {file.name for file in dropped_by(word, chat, ROOT)} == dropped


def test_a_glob_without_a_match_is_taken_literally() -> None:
    """A name with brackets drops its own file when nothing else matches it as a glob."""
    assert dropped_by("[id].tsx", editable("[id].tsx", "a.py"), ROOT) == {ChatFile("[id].tsx")}


def test_read_only_files_are_found_by_substring_also_for_a_glob() -> None:
    """A read-only file goes whenever its path contains the word literally."""
    chat = (ChatFile("notes.md", read_only=True), ChatFile("x[1].md", read_only=True))
    assert dropped_by("notes", chat, ROOT) == {chat[0]}
    assert dropped_by("[1]", chat, ROOT) == {chat[1]}
    assert dropped_by("*.md", chat, ROOT) == set()


@pytest.mark.parametrize(
    ("file", "others", "word"),
    [
        (ChatFile("a.py"), ["b.py"], "a.py"),
        (ChatFile("a.py"), ["data.py"], "./a.py"),
        (ChatFile("repo"), ["a.py"], "./repo"),
        (ChatFile("[id].tsx"), ["a.py"], "[id].tsx"),
        (ChatFile("[id].tsx"), ["i.tsx"], "[[]id].tsx"),
        (ChatFile("*.py"), ["a.py"], "[*].py"),
        (ChatFile("~x.py"), ["a.py"], "./~x.py"),
        (ChatFile("notes.md", read_only=True), ["a.py"], "notes.md"),
        (ChatFile("notes.md", read_only=True), ["old-notes.md"], f"{ROOT}/notes.md"),
        (ChatFile("../out.md", read_only=True), ["a.py"], "../out.md"),
        (ChatFile('a "b".py'), ["a.py"], None),
    ],
)
def test_the_word_for_one_file(file: ChatFile, others: list[str], word: str | None) -> None:
    """The plain name where it drops no other file, else a spelling that is exact."""
    assert word_for_drop(file, (file, *editable(*others)), ROOT) == word


some_name = st.text("ab./[]*? ~", min_size=1, max_size=6).filter(
    lambda name: (
        not name.startswith("/")
        and not name.endswith("/")
        and "//" not in name
        and "./" not in f"{name}/"
    )
)


@given(st.lists(some_name, min_size=1, max_size=5, unique=True), st.data())
def test_an_editable_file_can_be_dropped_alone(names: list[str], data: st.DataObject) -> None:
    """Whatever else is editable in the chat, there is a word that drops just the one file."""
    chat = editable(*names)
    file = data.draw(st.sampled_from(chat))
    word = word_for_drop(file, chat, ROOT)
    assert word is not None
    assert dropped_by(word, chat, ROOT) == {file}
