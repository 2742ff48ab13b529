"""Finds the installed model that a name means, and the installed names that are similar to it. Pure."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Final

from aider_guard.core.model_names import canonical_name, without_local
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import InstalledModel

MAX_NEAREST: Final = 3
_FAR: Final = 0.4

Installed = tuple[InstalledModel, ...] | Unavailable


def find_installed(name: str, installed: Installed) -> InstalledModel | None:
    """The installed model that a name means; None if there is none.

    A ``:local`` at the end of the name (0.18 and later) is not part of it, unless a tag ``local`` is installed.
    """
    if isinstance(installed, Unavailable):
        return None
    by_name = {canonical_name(model.name): model for model in installed}
    return by_name.get(canonical_name(name)) or by_name.get(canonical_name(without_local(name)))


def nearest_names(name: str, installed: Installed) -> tuple[str, ...]:
    """Installed names that are similar to this one, the most similar first: other tags of the same model come first.

    Stubs of models that run on other machines are left out.
    """
    if isinstance(installed, Unavailable):
        return ()
    wanted, tag = canonical_name(name).rsplit(":", 1)
    ranked = []
    for listed in (model.name for model in installed if not model.remote_host):
        model, other_tag = canonical_name(listed).rsplit(":", 1)
        bare = _unlike(wanted.rpartition("/")[2], model.rpartition("/")[2])
        ranked.append((min(_unlike(wanted, model), bare), _unlike(tag, other_tag), listed))
    return tuple(near for far, _, near in sorted(ranked) if far <= _FAR)[:MAX_NEAREST]


def _unlike(left: str, right: str) -> float:
    """How different two names are, from 0 to 1."""
    return 1 - SequenceMatcher(None, left, right).ratio()
