"""Which of the installed models a name means, and which are named almost like it. Pure."""

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
    """The installed model that a name means, as Ollama looks it up.

    ``:local`` at the end of a name (0.18 and later) is no part of it, unless there is such a tag.
    """
    if isinstance(installed, Unavailable):
        return None
    by_name = {canonical_name(model.name): model for model in installed}
    return by_name.get(canonical_name(name)) or by_name.get(canonical_name(without_local(name)))


def nearest_names(name: str, installed: Installed) -> tuple[str, ...]:
    """Installed names that are like this one, the most similar first: other tags of it before all.

    Stubs of models that run elsewhere are not among them.
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
    """How far off the spelling is, from 0 to 1: of the model, then of its tag."""
    (model, tag), (other, other_tag) = (one.rsplit(":", 1) for one in (wanted, name))
    bare, other_bare = model.rpartition("/")[2], other.rpartition("/")[2]
    return min(_unlike(model, other), _unlike(bare, other_bare)), _unlike(tag, other_tag)


def _unlike(one: str, other: str) -> float:
    return 1 - SequenceMatcher(None, one, other).ratio()
