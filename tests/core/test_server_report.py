"""Which installed model a name means, and which installed names are like it."""

from __future__ import annotations

import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import (
    InstalledModel,
    ModelFacts,
    ServedModel,
    ServerProcess,
    find_installed,
    loses_system,
    nearest_names,
)

UNREAD = Unavailable("not read")


def installed(*names: str) -> tuple[InstalledModel, ...]:
    return tuple(InstalledModel(name, 1, "") for name in names)


@pytest.mark.parametrize(
    ("name", "listed", "found"),
    [
        ("qwen3", ("qwen3:8b", "qwen3:latest"), "qwen3:latest"),
        ("library/QWEN3:8b", ("qwen3:8b",), "qwen3:8b"),
        ("qwen3:8b:local", ("qwen3:8b",), "qwen3:8b"),
        ("qwen3:local", ("qwen3:latest",), "qwen3:latest"),
        ("qwen3:local", ("qwen3:latest", "qwen3:local"), "qwen3:local"),
        ("qwen3:4b", ("qwen3:8b",), None),
        ("qwen3", (), None),
    ],
)
def test_which_model_a_name_means(name: str, listed: tuple[str, ...], found: str | None) -> None:
    """Spellings of one name mean one model; ``:local`` is left out only where no such tag is installed."""
    model = find_installed(name, installed(*listed))
    assert (model.name if model else None) == found
    assert find_installed(name, UNREAD) is None


@pytest.mark.parametrize(
    ("name", "listed", "nearest"),
    [
        # The same model comes first, of its tags those that are most alike, and of these by the alphabet.
        ("qwen3:80b", ("qwen2:80b", "qwen3:1b", "qwen3:8b"), ("qwen3:8b", "qwen3:1b", "qwen2:80b")),
        ("m:8", ("m:3", "m:2", "m:1", "m:0"), ("m:0", "m:1", "m:2")),
        ("m:8", ("m:3", "m:2", "m:1"), ("m:1", "m:2", "m:3")),
        # Three letters of five are alike enough, two of five are not.
        ("abcde", ("abcxy", "abxyz"), ("abcxy",)),
        # With another owner or on another host it is still the same model.
        ("qwen3", ("someone/qwen3:8b",), ("someone/qwen3:8b",)),
        ("someone/qwen3", ("qwen3:8b",), ("qwen3:8b",)),
        ("localhost:5000/me/own", ("hf.co/me/own:q4",), ("hf.co/me/own:q4",)),
        ("me/own", ("localhost:5000/me/own:q4",), ("localhost:5000/me/own:q4",)),
        ("gpt-oss", ("qwen3:8b",), ()),
    ],
)
def test_the_nearest_names(name: str, listed: tuple[str, ...], nearest: tuple[str, ...]) -> None:
    """At most three, the most similar first."""
    assert nearest_names(name, installed(*listed)) == nearest
    assert nearest_names(name, UNREAD) == ()


def test_models_of_other_machines_are_not_suggested() -> None:
    """The stub of a cloud's model would not run here."""
    stub = InstalledModel("qwen3:80b", 1, "", remote_host="https://ollama.com")
    assert nearest_names("qwen3:8b", (stub, *installed("qwen3:1b"))) == ("qwen3:1b",)


def test_what_is_not_told_of_a_model_or_a_process() -> None:
    """No window in the model file, and a process that was found by itself."""
    assert ModelFacts("m", "m:latest", 1, 2, UNREAD).num_ctx_parameter == 0
    assert ServerProcess(7, "ollama", "me", UNREAD).inferred is False


def test_the_address_of_a_served_model_is_not_shown() -> None:
    """It may hold a password."""
    assert "secret" not in repr(ServedModel("m", "openai/m", "http://me:secret@localhost:1/v1"))


@pytest.mark.parametrize(
    ("template", "modelfile", "loses"),
    [
        ("{{ .Prompt }}", "TEMPLATE {{ .Prompt }}", True),
        ("{{- if .Prompt }}User: {{ .Prompt }}{{ end }}{{ .Response }}", "", True),
        ("{{ .Systematic }}{{ .Prompt }}", "", True),
        ("{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}", "", False),
        ("{{ range $.Messages }}{{ .Content }}{{ end }}", "", False),
        ("{%- for message in messages %}{{ message.content }}{%- endfor %}", "", False),
        ("{{ .Prompt }}", "FROM x\nRENDERER qwen3-coder\n", False),
        ("", "", False),
        (" \n", "", False),
        (None, None, False),
        ("{{ .Prompt }}", 7, True),
    ],
)
def test_a_template_without_a_place_for_system_text(
    template: object, modelfile: object, loses: bool
) -> None:
    """One in Go that is used, and names neither the system text nor the messages."""
    assert loses_system(template, modelfile) == loses


def test_a_name_that_is_not_there_is_not_suggested() -> None:
    """The list may be older than the deletion."""
    listed = tuple(InstalledModel(name, 1, "") for name in ("qwen3:8b", "qwen3:4b"))
    assert nearest_names("qwen3:8b", listed) == ("qwen3:4b",)
    assert nearest_names("library/QWEN3:8b", listed) == ("qwen3:4b",)
