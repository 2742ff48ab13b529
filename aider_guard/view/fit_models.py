"""Looks up the models and cards that ``fit`` and ``init`` are called with: models by name, cards by size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aider_guard import catalogue
from aider_guard.config import Config
from aider_guard.core.architecture import Architecture
from aider_guard.core.fit import Card
from aider_guard.core.model_memory import Candidate
from aider_guard.core.model_names import canonical_name, is_cloud_name, is_valid_name
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.aider_settings import ollama_name
from aider_guard.launch.ollama_address import may_be_asked, ollama_address
from aider_guard.launch.server_runtime import MAIN_MEMORY, cards_of
from aider_guard.ollama.gguf_header import read_gguf

GIVE_VRAM = "give the card's memory in GiB: --vram 16"
GIVE_SHARE = "give the part of the main memory that models may have, in GiB: --vram 16"
_GIB = 1 << 30
_VRAM = re.compile(r"(?:(\d{1,2})\s*[x*]\s*)?(\d+(?:\.\d+)?)\s*(?:gib|gb|g)?", re.IGNORECASE)


@dataclass(frozen=True)
class RequestedModel:
    """A model named by the user. ``source`` says where its numbers are from: the server, or the catalogue's source."""

    candidate: Candidate
    source: str
    is_exact: bool = True


def server_address(config: Config, environment: Mapping[str, str]) -> str | Unavailable:
    """The address of Ollama that the guard would use without Aider's settings; unavailable where it is its cloud."""
    no_aider = Unavailable("Aider is not asked")
    if may_be_asked(config, no_aider, environment):
        return ollama_address(config, no_aider, environment)
    return Unavailable("Ollama's own cloud is not asked")


def plain_name(model: str) -> str:
    """Ollama's name for a model. Raises ConfigError for a model that runs in a cloud, and for an empty name."""
    named = ollama_name(model.strip())
    name = (model if named is None else named).strip()
    if not name:
        raise ConfigError("a model needs a name, such as qwen3:8b")
    if is_cloud_name(name):
        raise ConfigError(f"{name} runs in Ollama's cloud, not on a card")
    if not is_valid_name(name):
        raise ConfigError(f"{name} is not a name that Ollama accepts for a model, as qwen3:8b is")
    return name


def is_file_name(model: str) -> bool:
    """Whether the user means a file, and not a model of Ollama's: it ends in ``.gguf``, and is not to be pulled."""
    text = model.strip().lower()
    return text.endswith(".gguf") and not text.startswith(("hf.co/", "huggingface.co/"))


def file_model(name: str) -> RequestedModel:
    """Read a model from a GGUF file, as Ollama would run it. Raises ConfigError for a file that cannot be read."""
    path = Path(name.strip()).expanduser()
    found = read_gguf(path)
    if isinstance(found, Unavailable):
        raise ConfigError(f"{found.reason}; give a language model's GGUF file, or a model's name")
    blob = str(path.resolve())
    candidate = Candidate(path.name, found.size_bytes, found.architecture, blob)
    return RequestedModel(candidate, f"the header of {path}")


def known_model(
    name: str, server: ServerReport | Unavailable, corrections: Mapping[str, int]
) -> RequestedModel:
    """Look a model up by its plain name: as it is installed, else as the catalogue has it.

    Raises:
        ConfigError: neither has it; with the nearest names, or why the server could not tell.
    """
    answer = server if isinstance(server, Unavailable) else server.models.get(name)
    if isinstance(answer, ModelFacts):
        if answer.remote_host:
            raise ConfigError(f"{name} runs on {answer.remote_host}, not on a card")
        match answer.size_bytes, answer.architecture:
            case int(size_bytes), Architecture() as architecture:
                more = corrections.get(canonical_name(answer.resolved or name), 0)
                candidate = Candidate(name, size_bytes, architecture, answer.blob, more)
                return RequestedModel(candidate, "installed in Ollama")
    entry = catalogue.find(name)
    if entry is None:
        raise ConfigError(_unknown(name, answer))
    # Names of one entry are one file: they share its name as their blob.
    candidate = Candidate(name, entry.size_bytes, entry.architecture, blob=entry.name)
    source = f"{entry.size_source}; {entry.architecture_source}"
    return RequestedModel(candidate, source, entry.is_exact)


def _unknown(name: str, answer: ModelFacts | ModelMissing | Unavailable | None) -> str:
    match answer:
        case ModelFacts():
            parts = (answer.architecture, answer.size_bytes)
            reasons = [part.reason for part in parts if isinstance(part, Unavailable)]
            return f"{name} is installed, but what it needs cannot be computed: {reasons[0]}"
        case ModelMissing():
            names = (*answer.nearest, *catalogue.nearest(name))
            what = f"{name} is neither installed nor in the catalogue"
        case Unavailable():
            names = catalogue.nearest(name)
            what = f"{name} is not in the catalogue, and {answer.reason}"
        case _:
            names = catalogue.nearest(name)
            what = f"{name} is not in the catalogue"
    nearest = tuple(dict.fromkeys(names))[:3]
    words = f"; the nearest names: {', '.join(nearest)}" if nearest else ""
    return f"{what}{words}; of a model that is not pulled yet, give the file: aider-guard fit FILE.gguf"


def cards_here(
    server: ServerReport | Unavailable, memory: Callable[[], MemoryReading]
) -> tuple[Card, ...]:
    """The GPUs that Ollama can use on this machine. Raises ConfigError where there is none, or none that is known."""
    if isinstance(server, Unavailable):
        raise ConfigError(f"{server.reason}; {GIVE_VRAM}")
    reading = memory()
    cards = cards_of(server, reading)
    if isinstance(cards, Unavailable):
        raise ConfigError(f"{cards.reason}; {GIVE_VRAM}")
    if cards[0].name == MAIN_MEMORY:
        if isinstance(reading.gpus, Unavailable) and not reading.shares_main_memory:
            raise ConfigError(f"no GPU was found here ({reading.gpus.reason}); {GIVE_VRAM}")
        raise ConfigError(f"the GPU here has no memory of its own; {GIVE_SHARE}")
    return cards


def named_cards(sizes: Sequence[str]) -> tuple[Card, ...]:
    """Cards by their memory in GiB: ``16``, ``2x24`` for two; all of it counts as free. Raises ConfigError."""
    cards: list[Card] = []
    for text in sizes:
        match = _VRAM.fullmatch(text.strip())
        count = int(match[1] or 1) if match else 0
        size = float(match[2]) if match else math.nan
        if not (0 < size <= 1024 and 1 <= count <= 16):
            raise ConfigError(f"--vram {text!r}: takes a card's memory in GiB, such as 16, or 2x24")
        cards += [Card(f"{size:g} GiB", int(size * _GIB), int(size * _GIB))] * count
    return tuple(cards)
