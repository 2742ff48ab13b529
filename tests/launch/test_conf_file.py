"""Aider's settings files with what is missing added, and nothing of the user's changed."""

from __future__ import annotations

import io
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import EVERY_MODEL
from aider_guard.launch.conf_file import (
    Extended,
    Kept,
    Setting,
    extend_conf,
    extend_entries,
    pinned_windows,
    read_conf,
    sets,
)

NAME = ".aider.conf.yml"
WANTED = [
    Setting("model", "ollama_chat/qwen3:8b", "why"),
    Setting("map-tokens", 1024),
    Setting("auto-test", False),
]
VALUES = {"model": "ollama_chat/qwen3:8b", "map-tokens": 1024, "auto-test": False}
WINDOW = [{"name": EVERY_MODEL, "extra_params": {"num_ctx": 8192}}]


def extended(content: bytes | None, settings: list[Setting] = WANTED, **more: Any) -> Extended:
    """The extension, which must succeed."""
    result = extend_conf(NAME, content, settings, header="by init\nfor 8 GiB", **more)
    assert isinstance(result, Extended), result
    return result


def as_aider_reads(content: bytes) -> Any:
    """What Aider's configargparse gets from a file: text with universal new lines, safely loaded."""
    return yaml.safe_load(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def is_kept(old: bytes, new: bytes) -> bool:
    """Whether the old bytes are all there, in one or two pieces around what is new."""
    return any(new.startswith(old[:at]) and new.endswith(old[at:]) for at in range(len(old) + 1))


USERS: list[bytes] = [
    b"",
    b"\n\n",
    b"# only a comment",
    b"#\ttabs in\ta comment\n\n",
    b"---\n# a start\n",
    b"---",
    b"--- # and an end\n...\n",
    b"dark-mode: true\n",
    b"dark-mode: true",
    b"dark-mode: true\r\n# two\r\nstream: false\r\n",
    b"dark-mode: true\rstream: false\r",
    b"\xef\xbb\xbfdark-mode: true\n",
    b"\xef\xbb\xbf",
    b"  dark-mode: true\n  stream: false\n",
    b"dark-mode: true\n...\n",
    b"dark-mode: true\n...\n# after the end\n",
    b"'dark-mode': \"true\"\n? stream\n: false\n",
    b"read: &files [a, b]\nfile: *files\n",
    b"base: &base {stream: false}\n<<: *base\n",
    b"commit-prompt: |\n  two\n  lines\n",
    b"commit-prompt: |\n  two\n  lines",
    b"commit-prompt: |+\n  two\n  lines\n\n\n",
    b"commit-prompt: >-\n  two\n  lines\n\n",
    b"commit-prompt: 'over\n\n  lines'\n",
    b"read:\n- a\n- b",
    b"timeout: .nan\n",
    b'set-env: [A=1, "B=\xe2\x82\xac"]\n',
    b"stream: true\nstream: false\n",
    b'commit-prompt: "a\xc2\x85b"\n',
]


@pytest.mark.parametrize("old", USERS)
def test_every_byte_of_the_users_stays_and_the_missing_settings_are_read(old: bytes) -> None:
    """However the file is written, its bytes stay, its values stay, and the new ones come."""
    new = extended(old).content

    assert is_kept(old, new)
    before, after = as_aider_reads(old) or {}, as_aider_reads(new)
    assert repr({key: after[key] for key in before}) == repr(before)
    assert {key: after[key] for key in VALUES} == VALUES
    assert len(after) == len(before) + len(VALUES)


def test_a_new_file_has_the_comment_and_the_settings() -> None:
    """Without a file of the user's there is nothing else in it."""
    assert extended(None, WANTED[:2]).content.decode() == (
        "# by init\n# for 8 GiB\nmodel: ollama_chat/qwen3:8b  # why\nmap-tokens: 1024\n"
    )


@pytest.mark.parametrize(
    ("old", "newline"),
    [(b"a1: 1\r\nb1: 2", "\r\n"), (b"a1: 1\nb1: 2", "\n"), (b"a1: 1\rb1: 2", "\r")],
)
def test_new_lines_are_of_the_files_own_kind(old: bytes, newline: str) -> None:
    """A file with carriage returns gets lines with carriage returns."""
    added = extended(old).content.decode()[len(old) :]

    lines = ["", "", "# by init", "# for 8 GiB", "model: ollama_chat/qwen3:8b  # why"]
    lines += ["map-tokens: 1024", "auto-test: false", ""]
    assert added == newline.join(lines)


def test_a_second_time_nothing_is_added() -> None:
    """What is there, is there: the same bytes again, and nothing to tell."""
    first = extended(b"# mine\n")
    again = extended(first.content)

    assert again == Extended(first.content, (), ())


REFUSED: list[tuple[bytes, str]] = [
    (b"model: [", "not valid YAML, line 1"),
    (b"a: 1\n\tb: 2\n", "not valid YAML, line 2"),
    (b"a: 1\n---\nb: 2\n", "another document"),
    (b"a: 2020-13-45\n", "not valid YAML"),
    (b"a: !!python/object:os.system x\n", "not valid YAML"),
    (b"a: *nowhere\n", "not valid YAML"),
    (b"a: \x1b[2J\n", "not valid YAML"),
    (b"[" * 5000, "not valid YAML"),
    (b"model: caf\xe9\n", "not in UTF-8"),
    (b"- a\n- b\n", "no settings"),
    (b"just words\n", "no settings"),
    (b"{stream: false}\n", "braces"),
    (b"{}", "braces"),
]


@pytest.mark.parametrize(("old", "why"), REFUSED)
def test_a_file_that_cannot_be_extended_is_refused_in_a_sentence(old: bytes, why: str) -> None:
    """The sentence names the file and the reason, on one line that is safe to print."""
    result = extend_conf(NAME, old, WANTED, header="x")

    assert isinstance(result, Unavailable)
    assert result.reason.startswith(NAME)
    assert why in result.reason
    assert result.reason.isprintable()


SPELLINGS: list[tuple[object, str, bool]] = [
    ("auto-test", "auto-test", True),
    ("--auto-test", "auto-test", True),
    ("no-auto-test", "auto-test", True),
    ("--no-auto-test", "auto-test", True),
    ("auto_test", "auto-test", True),
    ("Auto-Test", "auto-test", True),
    ("weak", "weak-model", True),
    ("weak-m", "weak-model", True),
    ("weak-models", "weak-model", False),
    ("test", "test-cmd", False),
    ("editor", "editor-model", False),
    ("test-c", "test-cmd", True),
    ("model-settings-file", "model", False),
    ("opus", "model", True),
    ("4o", "model", True),
    (4, "model", True),
    ("edit-format", "architect", True),
    ("chat-mode", "architect", True),
    ("auto-accept-architect", "architect", False),
    ("attribute-commit-message-author", "attribute-committer", False),
    ("lint-cmd", "test-cmd", False),
    (True, "model", False),
    (None, "model", False),
    ("", "model", False),
    ("a", "auto-test", False),
]


@pytest.mark.parametrize(("key", "option", "same"), SPELLINGS)
def test_other_spellings_of_an_option_are_recognised(key: object, option: str, same: bool) -> None:
    """With dashes before it, negated, cut short as Aider's parser allows, or with an underscore."""
    assert sets(key, option) is same


def test_what_the_user_has_set_is_kept_and_told_with_the_suggestion() -> None:
    """No line changes; a value that is as suggested needs no word."""
    old = b"map-tokens: 512\nmodel: ollama_chat/qwen3:8b\nauto_test: on\n"
    result = extended(old)

    assert result.content == old
    assert result.added == ()
    assert result.kept == (
        Kept("map-tokens", "512", "1024", NAME),
        Kept("auto_test", "true", "false", NAME, "Aider refuses this spelling, write auto-test"),
    )


def test_what_is_kept_is_shown_without_control_characters() -> None:
    """A file that came with a repository cannot move the cursor, and a long value is not spread out."""
    result = extended(b'map-tokens: "\\e[2J"\nmodel: [a, b]\nauto-test:\n')

    assert [kept.value for kept in result.kept] == ["(several values)", r"'\x1b[2J'", "(empty)"]


def test_what_another_file_sets_is_kept_too() -> None:
    """Aider reads the home folder's file as well; a line here would silently beat it."""
    result = extended(b"stream: false\n", elsewhere=[("~/" + NAME, {"map-tokens": 0})])

    assert result.added == ("model", "auto-test")
    assert result.kept == (Kept("map-tokens", "0", "1024", "~/" + NAME),)


def test_the_file_that_aider_reads_last_is_the_one_that_is_shown() -> None:
    """A setting in both files is shown with the value that counts."""
    result = extended(b"map-tokens: 8\n", elsewhere=[("~/" + NAME, {"map-tokens": 0})])

    assert result.kept == (Kept("map-tokens", "8", "1024", NAME),)


def test_a_negated_option_is_reported_whatever_its_value() -> None:
    """What ``no-auto-test: false`` means to configargparse is not what it says: it switches the tests off."""
    result = extended(b"no-auto-test: false\n")

    assert "auto-test" not in result.added
    assert [kept.key for kept in result.kept] == ["no-auto-test"]


def test_a_byte_order_mark_stays_the_first_thing() -> None:
    """Before our lines, without a line of its own."""
    assert extended(b"\xef\xbb\xbf").content.startswith(b"\xef\xbb\xbf# by init\n")


def test_a_setting_with_an_empty_value_is_not_written_twice() -> None:
    """The user left room for it: YAML would take the second line, and the first would look like a mistake."""
    assert b"map-tokens: 1024" not in extended(b"map-tokens:\n").content


def entries(content: bytes | None, **more: Any) -> Extended:
    """The extension of model settings, which must succeed."""
    result = extend_entries(".aider.model.settings.yml", content, WINDOW, header="by init", **more)
    assert isinstance(result, Extended), result
    return result


@pytest.mark.parametrize(
    "old",
    [
        None,
        b"",
        b"# nothing\n",
        b"- name: a\n  edit_format: diff\n",
        b"- name: a\r\n  extra_params:\r\n    keep_alive: 30m",
        b"  - name: a\n  - name: b\n",
        b"-\n  name: a # odd\n",
        b"- {name: a}\n- &b\n  name: b\n",
    ],
)
def test_an_entry_for_every_model_is_added_to_a_list(old: bytes | None) -> None:
    """Block lists are extended in their own column; the entries before it stay as they are."""
    new = entries(old).content

    assert is_kept(old or b"", new)
    assert as_aider_reads(new) == [*(as_aider_reads(old or b"") or []), *WINDOW]
    assert entries(new).content == new


def test_an_entry_of_the_users_for_every_model_is_left_alone() -> None:
    """Aider would replace it as a whole by a second one of the same name."""
    old = b"- name: aider/extra_params\n  extra_params: {num_ctx: 4096, secret: abc}\n"
    result = entries(old)

    assert result.content == old
    assert result.kept == (
        Kept(EVERY_MODEL, "num_ctx 4096", "num_ctx 8192", ".aider.model.settings.yml"),
    )


def test_an_entry_for_every_model_without_a_window_is_reported_too() -> None:
    """A second one would take its other parameters away."""
    old = b"- name: aider/extra_params\n  extra_params: {keep_alive: 30m}\n"
    result = entries(old)

    assert result.content == old
    assert [(kept.value, kept.suggested) for kept in result.kept] == [
        ("no num_ctx", "num_ctx 8192")
    ]


def test_a_window_that_the_user_fixed_for_one_model_is_not_overridden() -> None:
    """The entry for every model is applied over each model's own (configure_model_settings)."""
    old = b"- name: ollama_chat/a\n  extra_params: {num_ctx: 4096}\n"

    assert entries(old).content == old
    assert entries(None, elsewhere=[("~", as_aider_reads(old))]).added == ()


def test_an_entry_that_agrees_is_not_mentioned() -> None:
    """A second init is silent about what the first one wrote."""
    result = entries(b"- name: aider/extra_params\n  extra_params: {num_ctx: 8192, x: 1}\n")

    assert (result.added, result.kept) == ((), ())


@pytest.mark.parametrize(
    "old", [b"a: 1\n", b"- 1\n", b"- {nam: a}\n", b"[]", b"- [\n", b"- name: 1\n"]
)
def test_model_settings_of_another_form_are_refused(old: bytes) -> None:
    """Aider could not read them either, or nothing can be added without touching them."""
    result = extend_entries("s.yml", old, WINDOW, header="x")

    assert isinstance(result, Unavailable)
    assert result.reason.startswith("s.yml")


def test_the_windows_that_entries_fix_are_those_of_these_models() -> None:
    """By either of Ollama's prefixes, or for every model; what is no number counts for nothing."""
    result: list[dict[str, Any]] = [
        {"name": "ollama/a", "extra_params": {"num_ctx": 1}},
        {"name": "ollama_chat/a", "extra_params": {"num_ctx": 2}},
        {"name": EVERY_MODEL, "extra_params": {"num_ctx": 3}},
        {"name": "ollama_chat/b", "extra_params": {"num_ctx": 4}},
        {"name": "ollama/a", "extra_params": {"num_ctx": True}},
        {"name": "ollama/a", "extra_params": None},
    ]

    assert pinned_windows(result, ["a"]) == [1, 2, 3]


def test_a_conf_file_that_is_not_there_sets_nothing() -> None:
    """No file and an empty one are the same."""
    assert read_conf(NAME, None) == read_conf(NAME, b"") == {}


WORDS = st.sampled_from(
    [
        "dark-mode",
        "stream",
        "read",
        "model",
        "map-tokens",
        "auto_test",
        "no-auto-test",
        "x y",
        "#no",
    ]
)
SCALARS = st.one_of(
    st.booleans(), st.integers(-9, 10**6), st.floats(), st.text(max_size=12), st.none(), st.dates()
)
CONFS = st.dictionaries(WORDS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=6)
COMMENTS = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "P", "Zs"], include_characters="\t")).map(
        lambda words: f"# {words}"
    ),
    max_size=3,
)


@st.composite
def conf_files(draw: st.DrawFn) -> bytes:
    """A file as people write them: keys in some style, comments before, between and after, any new line."""
    blocks = [
        yaml.safe_dump(
            {key: value},
            allow_unicode=draw(st.booleans()),
            default_style=draw(st.sampled_from([None, "'", '"', "|"])),
        )
        for key, value in draw(CONFS).items()
    ]
    text = ""
    for block in blocks:
        text += (
            "".join(f"{line}\n" for line in draw(COMMENTS))
            + block
            + draw(st.sampled_from(["", "\n"]))
        )
    text += "\n".join(draw(COMMENTS)) + draw(st.sampled_from(["", "\n", "\n\n"]))
    start = draw(st.sampled_from(["", "", "---\n", "\ufeff"]))
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    return (start + text).encode("utf-8")


@given(conf_files())
def test_any_file_is_extended_without_loss_or_refused(old: bytes) -> None:
    """Its bytes stay, its values stay, what is missing comes, and a second time changes nothing; or a sentence."""
    result = extend_conf(NAME, old, WANTED, header="by init")
    if isinstance(result, Unavailable):
        assert result.reason.startswith(NAME)
        assert result.reason.isprintable()
        return

    assert is_kept(old, result.content)
    before, after = as_aider_reads(old) or {}, as_aider_reads(result.content) or {}
    assert repr({key: after[key] for key in before}) == repr(before)
    assert {key: after[key] for key in result.added} == {key: VALUES[key] for key in result.added}
    assert set(after) == {*before, *result.added}
    again = extend_conf(NAME, result.content, WANTED, header="by init")
    assert isinstance(again, Extended)
    assert again.content == result.content


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_garbage_is_answered_in_a_sentence(old: bytes) -> None:
    """Whatever the bytes, there is an answer, and a file is never changed in what it says."""
    result = extend_conf(NAME, old, WANTED, header="by init")
    if isinstance(result, Unavailable):
        assert result.reason.isprintable()
    else:
        assert is_kept(old, result.content)
