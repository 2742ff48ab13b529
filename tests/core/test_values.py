"""Every value of the core and of counting stays as it was made."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass
from typing import get_args

import pytest

import aider_guard.core
import aider_guard.counting
from aider_guard.core.actions import Action, Handoff, Notice
from aider_guard.core.events import Event

DRAWN_ON = "_Cells"  # the screen's cells, which no other module sees

MODULES = [
    importlib.import_module(found.name)
    for package in (aider_guard.core, aider_guard.counting)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
VALUES = sorted(
    {
        value
        for module in MODULES
        for _, value in inspect.getmembers(module, inspect.isclass)
        if is_dataclass(value)
        and value.__module__.startswith(("aider_guard.core.", "aider_guard.counting."))
        if value.__name__ != DRAWN_ON
    },
    key=lambda value: (value.__module__, value.__qualname__),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__qualname__)
def test_values_are_frozen(value: type) -> None:
    """An event, an action, a state or a reading is handed on without a copy: it must not change there."""
    assert value.__dataclass_params__.frozen  # type: ignore[attr-defined]  # dataclasses tell it nowhere else


NOT_IN_THE_JOURNAL = {
    "AiderLogged": "mentioned",
    "ChatSaved": "editable read_only",
    "ContextRead": "dropped",
    "ContextRow": "name",
    "CountFiles": "root paths",
    "DoorSettings": "token",
    "FilesCounted": "tokens",
    "Finding": "what evidence fix",
    "Gpu": "busy_percent slowed_by_heat",
    "Handoff": "editable read_only",
    "ModelsChosen": "root",
    "Notice": "lines is_short",
    "PromptShown": "files",
    "RequestFinished": "parts",
    "RequestRefused": "said",
    "RunHidden": "needs",
    "ServerProcess": "settings",
    "ServerReport": "installed models others helps",
    "ServedModel": "base headers",
    "ShowTitle": "text",
    "TurnFinished": "mentioned",
    "Upstream": "base headers",
}


def test_what_is_not_in_the_journal() -> None:
    """Names of files and folders, addresses, tokens, settings, such texts; the load of a GPU, another each time."""
    left_out = {
        value.__name__: " ".join(
            field.name for field in fields(value) if not field.metadata.get("journal", True)
        )
        for value in VALUES
    }
    assert {name: names for name, names in left_out.items() if names} == NOT_IN_THE_JOURNAL


FACTS = {
    "reason",
    "id",
    "problem",
    "version",
    "name",
    "command",
    "signal",
    "main",
    "models",
    "ours",  # models, too
    "names",
    "mode",
    "digest",
    "model",
    "cause",
    "done_reason",
    # Of the air gap: they tell where a program went, which may be a text it sends away by a lookup.
    *("because", "host", "program"),
    "notice",
    "parted_in",  # a kind of part of a prompt
}
"""The texts in events and actions that the journal writes down: none is the user's, and none names a file."""


@pytest.mark.parametrize(
    "kind", [*get_args(Event), *get_args(Action), Handoff, Notice], ids=lambda kind: kind.__name__
)
def test_a_field_with_texts_is_marked_or_known_to_hold_none(kind: type) -> None:
    """Every text that is written down is one of those that name no file: a new field fails here until it is judged."""
    for field in fields(kind):
        texts = "str" in str(field.type) and field.metadata.get("journal", True)
        assert not texts or field.name in FACTS, field.name
