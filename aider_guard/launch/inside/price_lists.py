"""Spares Aider the fetching of lists of models and prices from hosts that a session does not reach.

Aider 0.86.2 fetches them for each model that it does not know (models.py, openrouter.py). Refused, it prints what
the connection said, and writes an empty list into the user's own cache, where Aider without the guard finds it for a
day.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

_FETCHES = (
    ("raw.githubusercontent.com", "aider.models", "ModelInfoManager", "_update_cache"),
    ("openrouter.ai", "aider.models", "ModelInfoManager", "fetch_openrouter_model_info"),
    ("openrouter.ai", "aider.openrouter", "OpenRouterModelManager", "_update_cache"),
)
"""A host, and the method that asks it. Aider uses no result of theirs that is false."""


def skip_fetches(allowed_hosts: Collection[str]) -> None:
    """Make the methods that ask other hosts than these do nothing; an Aider that lacks them stays as it is."""
    for host, module, name, method in _FETCHES:
        holder = getattr(sys.modules.get(module), name, None)
        if host not in allowed_hosts and callable(getattr(holder, method, None)):
            setattr(holder, method, lambda *_arguments: None)
