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
    wanted = canonical_name(name)
    ranked = sorted(
        (_distance(wanted, canonical_name(model.name)), model.name)
        for model in installed
        if not model.remote_host
    )
    return tuple(near for ((far, _), near) in ranked if far <= _FAR)[:MAX_NEAREST]


def _distance(wanted: str, name: str) -> tuple[float, float]:
    """How different two canonical names are, from 0 to 1: the names of the models, then the tags."""
    (model, tag), (other, other_tag) = wanted.rsplit(":", 1), name.rsplit(":", 1)
    bare, other_bare = model.rpartition("/")[2], other.rpartition("/")[2]
    return min(_unlike(model, other), _unlike(bare, other_bare)), _unlike(tag, other_tag)


def _unlike(left: str, right: str) -> float:
    return 1 - SequenceMatcher(None, left, right).ratio()
