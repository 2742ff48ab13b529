"""Resolves main, editor and weak model with Aider's own ``Model``, without network and without lasting changes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .environment import Origins, restore_environment, shown_address
from .files import unreadable
from .parsing import Parsed

EVERY_MODEL = "aider/extra_params"
OPENROUTER = "openrouter/…"
_DEFAULT_KEYS = (
    "OPENROUTER_API_KEY",
    "ANTHROPIC_API_KEY",
    "DEEPSEEK_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "VERTEXAI_PROJECT",
)
# litellm.completion() takes another model or provider from these (litellm/main.py).
# Where litellm finds the key for a server of the user's own (main.py; llms/, by provider).
_KEYS = {
    "ollama": "OLLAMA_API_KEY",
    "ollama_chat": "OLLAMA_API_KEY",
    "openai": "OPENAI_API_KEY",
    "hosted_vllm": "HOSTED_VLLM_API_KEY",
    "lm_studio": "LM_STUDIO_API_KEY",
}
_REDIRECTING = ("model", "custom_llm_provider", "fallbacks", "context_window_fallback_dict")


def resolved_roles(
    aider_main: Any, parsed: Parsed, settings_files: list[str]
) -> list[dict[str, Any]]:
    """Describe the roles, main first; none where no model is named and no key leads to one."""
    models = aider_main.models
    with _prepare_models(models):
        files = _register(models, settings_files, parsed.problems)
        aliases = _register_aliases(models, parsed)
        asked, source = _main_model(parsed)
        if not asked:
            return []
        options = parsed.options
        main = models.Model(
            asked,
            weak_model=options.weak_model,
            editor_model=options.editor_model,
            editor_edit_format=getattr(options, "editor_edit_format", None),
        )
        roles = _Roles(parsed, files, aliases, main)
        return [
            roles.main(asked, source),
            roles.second("editor", main.editor_model, main.editor_edit_format),
            roles.second("weak", main.weak_model, main.weak_model.edit_format),
        ]


@contextmanager
def _prepare_models(models: Any) -> Iterator[None]:
    """Let Aider's Model work on copies of its tables, without asking the network or litellm; undone at the end.

    ``Model`` merges extra parameters into the entries of the table (models.py: configure_model_settings), so that
    the entries are copied too.
    """
    table, aliases = list(models.MODEL_SETTINGS), dict(models.MODEL_ALIASES)
    ask_info, ask_keys = models.Model.get_model_info, models.Model.validate_environment
    models.MODEL_SETTINGS[:] = map(copy.copy, table)
    for entry in models.MODEL_SETTINGS:
        entry.extra_params = copy.deepcopy(entry.extra_params)
        entry.accepts_settings = copy.copy(getattr(entry, "accepts_settings", None))
    models.Model.get_model_info = lambda _self, _name: {}
    models.Model.validate_environment = lambda _self: {
        "keys_in_environment": True,
        "missing_keys": [],
    }
    try:
        yield
    finally:
        models.Model.get_model_info, models.Model.validate_environment = ask_info, ask_keys
        models.MODEL_SETTINGS[:] = table
        models.MODEL_ALIASES.clear()
        models.MODEL_ALIASES.update(aliases)


def _register(models: Any, paths: list[str], problems: list[str]) -> dict[str, str]:
    """Read the user's entries into Aider's table; return the file of each, by name.

    Aider stops at the first file that it cannot read, and keeps what it has read by then (models.py:1066).
    """
    files: dict[str, str] = {}
    for path in paths:
        before = {id(entry) for entry in models.MODEL_SETTINGS}
        try:
            models.register_models([path])
        except Exception as error:  # noqa: BLE001  # Aider raises Exception itself
            sentence = unreadable(path, error.__context__ or error, "model settings")
            problems.append(f"{sentence}. Aider then reads no settings file after it")
        files.update(
            {entry.name: path for entry in models.MODEL_SETTINGS if id(entry) not in before}
        )
        if problems and problems[-1].startswith(path):
            break
    return files


def _register_aliases(models: Any, parsed: Parsed) -> dict[str, str]:
    """Put the user's aliases over Aider's; return the source of each, by alias (main.py 770-780)."""
    source = parsed.sources.at("alias")
    origins = {}
    for definition in getattr(parsed.options, "alias", None) or ():
        alias, mark, name = definition.partition(":")
        if not mark:
            parsed.problems.append(
                f"an alias, {source}, is not of the form alias:model, and Aider ends with it"
            )
            break
        models.MODEL_ALIASES[alias.strip()] = name.strip()
        origins[alias.strip()] = source
    return origins


def _main_model(parsed: Parsed) -> tuple[str, str]:
    """The main model before aliases, and its source; ("", "") when Aider would find none."""
    if parsed.options.model:
        return parsed.options.model, parsed.chosen_by or parsed.sources.at("model")
    if os.environ.get(_DEFAULT_KEYS[0]):  # which one, Aider asks openrouter.ai (onboarding.py)
        return OPENROUTER, _key_source(_DEFAULT_KEYS[0], parsed.origins)
    from aider import onboarding

    chosen = onboarding.try_to_select_default_model()
    for name in _DEFAULT_KEYS[1:]:
        with restore_environment():
            # The key that chose it is the one without which another model comes out.
            if os.environ.pop(name, "") and onboarding.try_to_select_default_model() != chosen:
                return chosen, _key_source(name, parsed.origins)
    return chosen or "", ""


def _key_source(name: str, origins: Origins) -> str:
    return f"the key {name} in {origins.of(name)}"


class _Roles:
    """Describes the roles of one main model."""

    def __init__(
        self, parsed: Parsed, files: dict[str, str], aliases: dict[str, str], main: Any
    ) -> None:
        self._parsed, self._files, self._aliases, self._main = parsed, files, aliases, main

    def main(self, asked: str, source: str) -> dict[str, Any]:
        """Describe the main model."""
        edit_format = self._parsed.options.edit_format or self._main.edit_format
        return self._describe("main", self._main, asked, source, edit_format=edit_format)

    def second(self, role: str, model: Any, edit_format: str) -> dict[str, Any]:
        """Describe editor or weak model: named by an option, else by the main model's entry, else the main model."""
        dest = f"{role}_model"
        asked, source, named_by = model.name, "the main model", ""
        by_entry = getattr(self._main, f"{dest}_name")
        by_option = getattr(self._parsed.options, dest)
        if by_option:
            asked, source = by_option, self._parsed.sources.at(dest)
        elif by_entry:
            asked, named_by = by_entry, self._files.get(self._main.name, "")
            source = f"Aider's settings for {self._main.name}"
            source = f"{dest}_name in {named_by}" if named_by else source
        return self._describe(
            role, model, asked, source, edit_format=edit_format, named_by=named_by
        )

    def _describe(
        self,
        role: str,
        model: Any,
        asked: str,
        source: str,
        *,
        edit_format: str,
        named_by: str = "",
    ) -> dict[str, Any]:
        extra = model.extra_params or {}
        if asked in self._aliases:
            source = f"{source}, an alias in {self._aliases[asked]}"
        num_ctx = extra.get("num_ctx")
        address = extra.get("base_url") or extra.get("api_base") or ""  # litellm's order
        of_every_model = self._files.get(EVERY_MODEL) if extra else ""
        values = {name: _names(extra.get(name)) for name in _REDIRECTING}
        redirects = [f"{name}: {value}" for name in values for value in values[name]]
        return {
            "role": role,
            "model": model.name,
            "asked": asked,
            "source": source,
            "api_base": shown_address(str(address)) if address else "",
            "address": str(address) if address else "",
            "num_ctx": whole_number(num_ctx),
            "edit_format": edit_format or "",
            "settings_source": self._files.get(model.name) or of_every_model or named_by,
            "redirects": redirects,
            "headers": role_headers(model.name.partition("/")[0], extra),
        }


def whole_number(value: Any) -> int | None:
    """Return a number as Ollama reads it: 16384.0 is a whole one (api/types.go, FromMap); None for any other value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def role_headers(provider: str, extra: dict[str, Any]) -> list[list[str]]:
    """Return the headers that litellm sends for a role: the extra ones, and its key unless these have one."""
    more = extra.get("extra_headers")
    pairs = (
        [[str(name), str(value)] for name, value in more.items()] if isinstance(more, dict) else []
    )
    key = extra.get("api_key") or os.environ.get(_KEYS.get(provider, "")) or ""
    if key and "authorization" not in {name.lower() for name, _ in pairs}:
        pairs.append(["Authorization", f"Bearer {key}"])
    return pairs


def _names(value: Any) -> list[str]:
    """The models in a value: a name, a list of names or of mappings with a ``model``, a mapping of names to those."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [str(value["model"])] if "model" in value else _names(list(value.values()))
    return [name for item in value for name in _names(item)] if isinstance(value, list) else []
