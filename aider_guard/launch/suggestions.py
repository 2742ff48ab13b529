"""What ``init`` suggests for Aider's settings files: the plan's models, and habits that suit a small window. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aider_guard.launch.conf_file import Setting, sets
from aider_guard.launch.pins import EVERY_MODEL
from aider_guard.launch.settings import OLLAMA_PREFIXES, ollama_name
from aider_guard.launch.test_commands import TestCommand
from aider_guard.launch.tiers import Plan, map_tokens

ROLE_KEYS = {"main": "model", "editor": "editor-model", "weak": "weak-model"}
_ATTRIBUTION = (
    "attribute-author",
    "attribute-committer",
    "attribute-co-authored-by",
    "attribute-commit-message-author",
    "attribute-commit-message-committer",
)


def named_models(conf: Mapping[object, Any]) -> dict[str, str]:
    """The models that a ``.aider.conf.yml`` names, by role; what chooses one without its name (``opus: true``) is
    given as it is written.
    """
    return {
        role: str(value) if isinstance(value, str) else f"{key}: {value}"
        for role, option in ROLE_KEYS.items()
        for key, value in conf.items()
        if sets(key, option) and value
    }


def names_for_ollama(named: Mapping[str, str]) -> dict[str, str] | None:
    """The names as Ollama knows them; None when one of them is another provider's."""
    names = {role: ollama_name(name) for role, name in named.items()}
    known = {role: name for role, name in names.items() if name is not None}
    return known if len(known) == len(names) else None


def model_settings(plan: Plan, *, architect: bool, window_tokens: int) -> list[Setting]:
    """The settings that follow from the models: their names, architect mode for two of them, the map's size."""
    prefix = OLLAMA_PREFIXES[
        0
    ]  # /api/chat: /api/generate hides why an answer ended, and ignores keep_alive
    found = [Setting("model", prefix + plan.main.name)]
    if plan.editor is not None:
        found.append(Setting("editor-model", prefix + plan.editor.name))
    if architect and plan.editor is not None:
        found.append(Setting("architect", True, "one model plans, the other edits; both fit"))
    others = {offer.name for offer in (plan.main, plan.editor) if offer is not None}
    why = "in memory anyway: no other is loaded for commit messages"
    found.append(
        Setting("weak-model", prefix + plan.weak.name, why if plan.weak.name in others else "")
    )
    size = map_tokens(window_tokens)
    return [*found, Setting("map-tokens", size, f"for a window of {window_tokens:,} tokens")]


def habits(test: TestCommand | None) -> list[Setting]:
    """The settings that hold for any model."""
    found = [Setting("map-refresh", "auto")]
    found += [Setting(key, False) for key in _ATTRIBUTION]
    found.append(Setting("dirty-commits", False, "your unfinished work is not committed for you"))
    if test is not None:
        found.append(
            Setting("test-cmd", test.command, "for /test; all it prints goes into the window")
        )
    return [
        *found,
        Setting("auto-test", False, "a long traceback after each edit fills the window"),
    ]


def window_entries(window_tokens: int) -> list[dict[str, Any]]:
    """The entry of ``.aider.model.settings.yml`` that fixes the window of every model, all tags of a blob included.

    An entry under a model's own name would put off what Aider knows of it (edit format, reasoning tag, temperature:
    models.py, configure_model_settings looks at the name only where no entry matches it).
    """
    return [{"name": EVERY_MODEL, "extra_params": {"num_ctx": window_tokens}}]
