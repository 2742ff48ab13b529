"""Spares Aider time at its start: no list of models is fetched in vain, and what it reads and defines costs less.

Aider 0.86.2 fetches them for each model that it does not know (models.py, openrouter.py). Refused, it prints what
the connection said, and writes an empty list into the user's own cache, where Aider without the guard finds it for a
day. Its own list is read with json5, which is written in Python and takes 0.2 s for it (models.py,
register_litellm_models), and its table of models' settings with a YAML parser in Python, 0.1 s (models.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_FETCHES = (
    ("raw.githubusercontent.com", "aider.models", "ModelInfoManager", "_update_cache"),
    ("openrouter.ai", "aider.models", "ModelInfoManager", "fetch_openrouter_model_info"),
    ("openrouter.ai", "aider.openrouter", "OpenRouterModelManager", "_update_cache"),
)
"""A host, and the method that asks it. Aider uses no result of theirs that is false."""
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_COMMENT = re.compile(rf"({_STRING})|//[^\n\r\u2028\u2029]*|/\*.*?\*/", re.DOTALL)
_COMMA = re.compile(rf"({_STRING})|,(?=\s*[}}\]])")


def skip_fetches(allowed_hosts: Collection[str]) -> None:
    """Make the methods that ask other hosts than these do nothing; an Aider that lacks them stays as it is."""
    for host, module, name, method in _FETCHES:
        holder = getattr(sys.modules.get(module), name, None)
        if host not in allowed_hosts and callable(getattr(holder, method, None)):
            setattr(holder, method, lambda *_arguments: None)


@contextmanager
def read_settings_faster() -> Iterator[None]:
    """Have the YAML that is read while Aider's modules are imported, its own table, parsed by libyaml.

    The user's own files are read later, as always.
    """
    try:
        yaml: Any = import_module("yaml")
        loader = yaml.CSafeLoader
    except (ImportError, AttributeError):
        yield
        return
    slow = yaml.safe_load
    yaml.safe_load = lambda stream: yaml.load(stream, Loader=loader)
    try:
        yield
    finally:
        yaml.safe_load = slow


def read_faster() -> None:
    """Let ``json5.loads`` try the standard library first, for what is JSON but for comments and commas."""
    try:
        json5: Any = import_module("json5")
    except ImportError:
        return  # an Aider that does without
    slow = json5.loads

    def loads(text: Any, *more: Any, **options: Any) -> Any:
        if type(text) is str and not more and not options:
            try:
                return json.loads(without_comments(text))
            except ValueError:
                pass  # what is more than that is json5's, the errors too
        return slow(text, *more, **options)

    json5.loads = loads


def build_models_late() -> None:
    """Have pydantic build what checks a model's fields when the model is first used, not when its class is defined.

    litellm defines some 1,000 and Aider uses 14: a quarter of the processor time of its import (litellm 1.81, pydantic
    2.12). The library openai does the same with its own. A pydantic without this default stays as it is.
    """
    try:
        config: Any = import_module("pydantic._internal._config")
        if config.config_defaults["defer_build"] is False:
            config.config_defaults["defer_build"] = True
    except (ImportError, AttributeError, KeyError, TypeError):
        return


def without_comments(text: str) -> str:
    """The text without comments, and without the commas before a closing bracket.

    A text in single quotes keeps its first quote in any case, so that no JSON comes of it.
    """
    bare = _COMMENT.sub(lambda found: found[1] or " ", text)
    return _COMMA.sub(lambda found: found[1] or "", bare)
