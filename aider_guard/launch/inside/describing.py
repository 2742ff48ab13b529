"""Describes what Aider will use as one value for JSON; launch/aider_settings.py decodes it as AiderSettings."""

from __future__ import annotations

import importlib.util
import os
import platform
from typing import Any

from .environment import addresses_set, keys_set, restore_environment
from .files import check_metadata
from .parsing import Parsed, parse
from .roles import resolved_roles

# Options by their names in Aider, and the types that the guard reads. An older Aider may lack some.
_WANTED: dict[str, type] = {
    **dict.fromkeys(("chat_history_file", "input_history_file", "analytics_log"), str),
    **dict.fromkeys(("notifications_command", "encoding", "test_cmd", "load", "map_refresh"), str),
    **dict.fromkeys(("restore_chat_history", "notifications", "multiline", "auto_test"), bool),
    **dict.fromkeys(("auto_lint", "detect_urls", "check_update", "analytics"), bool),
    **dict.fromkeys(("show_release_notes", "verify_ssl", "subtree_only"), bool),
    **dict.fromkeys(("map_tokens", "max_chat_history_tokens", "cache_keepalive_pings"), int),
    **dict.fromkeys(("read", "lint_cmd"), list),
}
_MODELS = ("model", "weak_model", "editor_model")


def describe(arguments: list[str]) -> dict[str, Any]:
    """Describe what Aider will use. The environment and Aider's modules are as before afterwards.

    Raises SystemExit where Aider's parser ends the program: for a wrong flag, for ``--help``.
    """
    from aider import __version__
    from aider import main as aider_main

    with restore_environment():
        parsed = parse(aider_main, arguments)
        root, options = parsed.git_root, parsed.options
        search = aider_main.generate_search_path_list
        settings_files = search(".aider.model.settings.yml", root, options.model_settings_file)
        metadata_files = search(".aider.model.metadata.json", root, options.model_metadata_file)
        check_metadata(metadata_files, parsed.problems)
        return {
            "version": __version__,
            "python": platform.python_version(),
            "git_root": root,
            **_named_models(aider_main, parsed),
            "roles": _roles(aider_main, parsed, settings_files),
            **_options(parsed),
            "ollama_api_base": os.environ.get("OLLAMA_API_BASE", ""),
            "default_notifications_command": _default_notifications_command(options),
            "tokenizers": _tokenizers(),
            "model_settings_files": settings_files,
            "model_metadata_files": metadata_files,
            "keys": keys_set(parsed.origins),
            "addresses": addresses_set(parsed.origins),
            "config_files": parsed.config_files,
            "env_files": parsed.env_files,
            "problems": list(dict.fromkeys(parsed.problems)),
        }


def _options(parsed: Parsed) -> dict[str, Any]:
    options, origin = parsed.options, parsed.sources
    values = {
        name: getattr(options, name)
        for name, kind in _WANTED.items()
        if type(getattr(options, name, None)) is kind
    }
    messages = (getattr(options, name, None) for name in ("message", "message_file"))
    values["sends_message"] = any(messages)
    # As InputOutput decides (aider/io.py), with prompt_toolkit's is_dumb_terminal.
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    values["fancy_input"] = getattr(options, "fancy_input", True) and not is_dumb
    values["architect"] = getattr(options, "edit_format", None) == "architect"
    sources = {
        name: origin.at(name) for name in (*_WANTED, *_MODELS) if not origin.is_default(name)
    }
    if values["architect"]:
        sources["architect"] = origin.at("edit_format")
    values["sources"] = {name: source for name, source in sources.items() if source}
    return values


def _named_models(aider_main: Any, parsed: Parsed) -> dict[str, str | None]:
    """The models that options name, with aliases resolved."""
    aliases = dict(aider_main.models.MODEL_ALIASES)
    for definition in getattr(parsed.options, "alias", None) or ():
        alias, _, name = definition.partition(":")
        aliases[alias.strip()] = name.strip()
    names = {dest: getattr(parsed.options, dest, None) for dest in _MODELS}
    return {dest: aliases.get(name, name) if name else None for dest, name in names.items()}


def _roles(aider_main: Any, parsed: Parsed, settings_files: list[str]) -> list[dict[str, Any]]:
    if hasattr(aider_main.models, "Model"):
        try:
            return resolved_roles(aider_main, parsed, settings_files)
        except Exception as error:  # noqa: BLE001  # another Aider than those tried: what was named is still known
            reason = f"{type(error).__name__}: {error}"
            parsed.problems.append(f"Aider's models cannot be resolved ({reason})")
    # Editor and weak model are the main model where they are not named.
    models = _named_models(aider_main, parsed)
    main = models["model"]
    roles = {"main": main, "editor": models["editor_model"], "weak": models["weak_model"]}
    return [{"role": role, "model": name or main} for role, name in roles.items()] if main else []


def _default_notifications_command(options: Any) -> str | None:
    if not getattr(options, "notifications", False) or options.notifications_command:
        return None
    from aider.io import InputOutput

    command = InputOutput.get_default_notification_command(None)
    return str(command) if command else None


def _tokenizers() -> str:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.origin:
        return ""
    return os.path.join(os.path.dirname(spec.origin), "litellm_core_utils", "tokenizers")
