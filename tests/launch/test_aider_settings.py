"""Reading back the settings that Aider reports."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings, decode, ollama_name
from aider_guard.session.startup import models_chosen

FACTS = {
    "version": "0.86.2",
    "git_root": "/repo",
    "model": "ollama_chat/m",
    "weak_model": None,
    "editor_model": None,
    "chat_history_file": ".aider.chat.history.md",
    "read": ["a b.md"],
    "model_settings_files": ["x.yml", "y.yml"],
}


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def test_the_answer_is_read() -> None:
    """Names, paths and lists as Aider gave them; what it did not give has a default."""
    settings = decode(line(FACTS))
    assert isinstance(settings, AiderSettings)
    assert (settings.version, settings.model, settings.read) == (
        "0.86.2",
        "ollama_chat/m",
        ("a b.md",),
    )
    assert settings.model_settings_files == ("x.yml", "y.yml")
    assert (settings.encoding, settings.multiline, settings.analytics_log) == ("utf-8", False, None)


def test_aiders_own_problem_is_passed_on() -> None:
    """When Aider's parser is not as expected, its reason is the reason."""
    assert decode(line({"problem": "AttributeError: no parser"})) == Unavailable(
        "AttributeError: no parser"
    )


WRONG: list[bytes] = [
    b"",
    b"\n",
    b"not JSON\n",
    b"\xff\xfe\n",
    line(None),
    line([]),
    line("text"),
    line({"model": 7}),
    line({"read": "a.md"}),
    line({"multiline": "yes"}),
    line({"unknown": 1}),
]


@pytest.mark.parametrize("answer", WRONG)
def test_an_answer_that_makes_no_sense_is_unavailable(answer: bytes) -> None:
    """Garbage, other types and other fields: the settings are not known, and nothing raises."""
    settings = decode(answer)
    assert isinstance(settings, Unavailable)
    assert "cannot be read" in settings.reason


@given(st.binary(max_size=100))
def test_no_bytes_raise(answer: bytes) -> None:
    """Whatever comes is settings or a reason."""
    assert isinstance(decode(answer), AiderSettings | Unavailable)


MODELS = [
    (AiderSettings(), ()),
    (AiderSettings(model="a"), ("a",)),
    (AiderSettings(model="a", weak_model="b", editor_model="c"), ("a", "b", "c")),
    (AiderSettings(model="a", weak_model="a", editor_model="b"), ("a", "b")),
    (AiderSettings(weak_model="b"), ("b",)),
]


@pytest.mark.parametrize(("settings", "models"), MODELS)
def test_models_are_named_once_the_main_one_first(
    settings: AiderSettings, models: tuple[str, ...]
) -> None:
    """Main, weak, editor; one that is not named follows from the main one."""
    assert settings.models == models


NAMES = [
    ("ollama_chat/qwen3:8b", "qwen3:8b"),
    ("ollama/qwen3", "qwen3"),
    ("ollama_chat/hf.co/org/Model-GGUF:Q4_K_M", "hf.co/org/Model-GGUF:Q4_K_M"),
    ("gpt-4o", None),
    ("openrouter/ollama/x", None),
    ("ollama", None),
]


@pytest.mark.parametrize(("model", "name"), NAMES)
def test_only_ollamas_models_have_a_name_there(model: str, name: str | None) -> None:
    """Both prefixes, and the rest of the name as it is."""
    assert ollama_name(model) == name


@pytest.mark.parametrize(
    ("refresh", "source", "follows"),
    [
        ("auto", "", True),
        ("auto", "/home/u/.aider.conf.yml", True),
        ("auto", "--map-refresh on the command line", False),
        ("auto", "AIDER_MAP_REFRESH in the environment", False),
        ("files", "/home/u/.aider.conf.yml", False),
        ("manual", "--map-refresh on the command line", False),
        (None, "", False),
    ],
)
def test_whether_the_map_follows_the_words_unasked(
    refresh: str | None, source: str, follows: bool
) -> None:
    """A line in a file may be of ``aider-guard init``; an old Aider has no such option."""
    settings = AiderSettings(
        map_refresh=refresh,
        sources={"map_refresh": source} if source else {},
        config_files=("/home/u/.aider.conf.yml",),
    )
    assert settings.map_follows_words is follows
    assert models_chosen(settings, 8192, "", ()).map_follows_words is follows
