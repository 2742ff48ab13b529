"""The catalogue: sizes and architectures of published models, each number with where it comes from.

A size is that of the file with the weights. It is ``exact`` where its bytes are published, else ``approximate``
(rounded there, or derived as its source says). Names mean what Ollama's library means by them: ``qwen3:8b`` is its
default quantisation. The library has no IQ4_XS; such files are pulled by their ``hf.co`` names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from aider_guard.core.codec import build
from aider_guard.core.fit import Candidate
from aider_guard.core.model_memory import Architecture
from aider_guard.core.model_names import canonical_name


@dataclass(frozen=True)
class Published:
    """One file. ``name`` is what ``ollama pull`` takes; ``aliases`` are other names that mean it here."""

    name: str
    aliases: tuple[str, ...]
    quantization: str
    size_bytes: int
    is_exact: bool
    size_source: str
    architecture: Architecture
    architecture_source: str

    @property
    def candidate(self) -> Candidate:
        """The file as something to place. Its blob is its name: no other entry shares its weights."""
        return Candidate(self.name, self.size_bytes, self.architecture)


@dataclass(frozen=True)
class _Numbers:
    """An architecture as it is written in the file: all layers are alike."""

    name: str
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    vocabulary: int
    trained_tokens: int
    rope_dimensions: int
    experts_used: int = 0
    experts: int = 0
    kv_lora_rank: int = 0
    source: str = ""

    def architecture(self) -> Architecture:
        """The same with one entry a layer."""
        facts = {key: value for key, value in vars(self).items() if key != "source"}
        facts |= {key: (facts[key],) * self.layers for key in ("heads", "kv_heads")}
        return Architecture(**facts)


@dataclass(frozen=True)
class _File:
    """A file as it is written in the file."""

    name: str
    aliases: tuple[str, ...]
    architecture: str
    quantization: str
    size_bytes: int
    size_is: str
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All entries, in the order of the file. Raises ``WireError`` when the file is damaged."""
    text = files("aider_guard").joinpath("catalogue.json").read_text(encoding="utf-8")
    raw: dict[str, Any] = json.loads(text)
    kinds: dict[str, _Numbers] = build(dict[str, _Numbers], raw["architectures"])
    found: tuple[_File, ...] = build(tuple[_File, ...], raw["files"])
    return tuple(_published(file, kinds[file.architecture]) for file in found)


def _published(file: _File, numbers: _Numbers) -> Published:
    return Published(
        name=file.name,
        aliases=file.aliases,
        quantization=file.quantization,
        size_bytes=file.size_bytes,
        is_exact=file.size_is == "exact",
        size_source=file.source,
        architecture=numbers.architecture(),
        architecture_source=numbers.source,
    )


def find(name: str) -> Published | None:
    """The entry that a name of Ollama's means, without regard to case; None when there is none."""
    return _by_name().get(canonical_name(name))


def nearest(name: str, count: int = 3) -> tuple[str, ...]:
    """The names in the catalogue that are most like this one, for someone who mistyped."""
    known = {key: entry.name for key, entry in _by_name().items()}
    close = get_close_matches(canonical_name(name), known, n=3 * count, cutoff=0.5)
    return tuple(dict.fromkeys(known[key] for key in close))[:count]


@cache
def _by_name() -> dict[str, Published]:
    return {
        canonical_name(name): entry
        for entry in published()
        for name in (entry.name, *entry.aliases)
    }
