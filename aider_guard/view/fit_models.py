"""What ``fit`` is asked about: models by name, from Ollama or the catalogue, and cards by size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aider_guard import catalogue
from aider_guard.catalogue import Published
from aider_guard.core.fit import Candidate, Card
from aider_guard.core.model_memory import Architecture
from aider_guard.core.model_names import canonical_name, is_cloud_name
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.aider_settings import ollama_name

_GIB = 1 << 30
_VRAM = re.compile(r"(?:(\d{1,2})\s*[x*]\s*)?(\d+(?:\.\d+)?)\s*(?:gib|gb|g)?", re.IGNORECASE)


@dataclass(frozen=True)
class RequestedModel:
    """A model that was asked for. ``source`` says where its numbers are from: the server, or the catalogue's source."""

    candidate: Candidate
    source: str
    is_exact: bool = True


def plain_name(model: str) -> str:
    """A model's name as Ollama has it. Raises ConfigError for one that runs elsewhere, and for none at all."""
    named = ollama_name(model.strip())
    name = (model if named is None else named).strip()
    if not name:
        raise ConfigError("a model needs a name, such as qwen3:8b")
    if is_cloud_name(name):
        raise ConfigError(f"{name} runs in Ollama's cloud, not on a card")
    return name


def known_model(
    name: str, server: ServerReport | Unavailable, corrections: Mapping[str, int]
) -> RequestedModel:
    """A model by its plain name: as it is installed, else as the catalogue has it.

    Raises:
        ConfigError: neither knows it; with the nearest names, or why the server could not tell.
    """
    found = server if isinstance(server, Unavailable) else server.models.get(name)
    if isinstance(found, ModelFacts) and found.remote_host:
        raise ConfigError(f"{name} runs on {found.remote_host}, not on a card")
    if isinstance(found, ModelFacts):
        installed = _installed(name, found, corrections)
        if installed is not None:
            return installed
    entry = catalogue.find(name)
    if entry is not None:
        return _published(name, entry)
    raise ConfigError(_unknown(name, found))


def _installed(
    name: str, facts: ModelFacts, corrections: Mapping[str, int]
) -> RequestedModel | None:
    match facts.size_bytes, facts.architecture:
        case int(size_bytes), Architecture() as architecture:
            more = corrections.get(canonical_name(facts.resolved or name), 0)
            return RequestedModel(
                Candidate(name, size_bytes, architecture, facts.blob, more), "installed in Ollama"
            )
    return None


def _published(name: str, entry: Published) -> RequestedModel:
    """Names of one entry are one file: they share its name as their blob."""
    candidate = Candidate(name, entry.size_bytes, entry.architecture, blob=entry.name)
    return RequestedModel(
        candidate, f"{entry.size_source}; {entry.architecture_source}", entry.is_exact
    )


def _unknown(name: str, found: ModelFacts | ModelMissing | Unavailable | None) -> str:
    match found:
        case ModelFacts():
            parts = (found.architecture, found.size_bytes)
            reasons = [part.reason for part in parts if isinstance(part, Unavailable)]
            return f"{name} is installed, but what it needs cannot be computed: {reasons[0]}"
        case ModelMissing():
            names = (*found.nearest, *catalogue.nearest(name))
            what = f"{name} is neither installed nor in the catalogue"
        case Unavailable():
            names = catalogue.nearest(name)
            what = f"{name} is not in the catalogue, and {found.reason}"
        case _:
            names = catalogue.nearest(name)
            what = f"{name} is not in the catalogue"
    nearest = tuple(dict.fromkeys(names))[:3]
    return f"{what}; the nearest: {', '.join(nearest)}" if nearest else what


def named_cards(sizes: Sequence[str]) -> tuple[Card, ...]:
    """Cards by their memory in GiB: ``16``, ``2x24`` for two; all of it counts as free. Raises ConfigError."""
    return tuple(card for text in sizes for card in _named(text))


def _named(text: str) -> tuple[Card, ...]:
    matched = _VRAM.fullmatch(text.strip())
    count = int(matched[1] or 1) if matched else 0
    size = float(matched[2]) if matched else math.nan
    if not (0 < size <= 1024 and 1 <= count <= 16):
        raise ConfigError(f"--vram {text!r}: takes a card's memory in GiB, such as 16, or 2x24")
    return (Card(f"{size:g} GiB", int(size * _GIB), int(size * _GIB)),) * count
