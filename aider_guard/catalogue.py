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
from aider_guard.core.model_memory import Architecture, Candidate
from aider_guard.core.model_names import canonical_name


@dataclass(frozen=True)
class CatalogueEntry:
    """One model file. ``name`` is what ``ollama pull`` takes; ``aliases`` are other names that mean it here."""

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
        """The file as core/fit takes it. Its blob is its name: no other entry shares its weights."""
        return Candidate(self.name, self.size_bytes, self.architecture)


@dataclass(frozen=True)
class _ArchitectureRecord:
    """An architecture in catalogue.json: all layers are alike."""

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
        """The architecture with the heads of each layer."""
        facts = {key: value for key, value in vars(self).items() if key != "source"}
        facts |= {key: (facts[key],) * self.layers for key in ("heads", "kv_heads")}
        return Architecture(**facts)


@dataclass(frozen=True)
class _FileRecord:
    """A model file in catalogue.json."""

    name: str
    aliases: tuple[str, ...]
    architecture: str
    quantization: str
    size_bytes: int
    size_is: str
    source: str


@cache
def catalogue_entries() -> tuple[CatalogueEntry, ...]:
    """All entries, in the order of catalogue.json. Raises ``WireError`` when it is damaged."""
    text = files("aider_guard").joinpath("catalogue.json").read_text(encoding="utf-8")
    raw: dict[str, Any] = json.loads(text)
    architectures: dict[str, _ArchitectureRecord] = build(
        dict[str, _ArchitectureRecord], raw["architectures"]
    )
    records: tuple[_FileRecord, ...] = build(tuple[_FileRecord, ...], raw["files"])
    return tuple(
        CatalogueEntry(
            name=record.name,
            aliases=record.aliases,
            quantization=record.quantization,
            size_bytes=record.size_bytes,
            is_exact=record.size_is == "exact",
            size_source=record.source,
            architecture=architectures[record.architecture].architecture(),
            architecture_source=architectures[record.architecture].source,
        )
        for record in records
    )


def find(name: str) -> CatalogueEntry | None:
    """Find the entry that an Ollama name means, without regard to case; None when there is none."""
    return _by_name().get(canonical_name(name))


def nearest(name: str, count: int = 3) -> tuple[str, ...]:
    """The names in the catalogue that are most like this one, to correct a typing error."""
    entries = _by_name()
    close = get_close_matches(canonical_name(name), entries, n=3 * count, cutoff=0.5)
    return tuple(dict.fromkeys(entries[key].name for key in close))[:count]


@cache
def _by_name() -> dict[str, CatalogueEntry]:
    return {
        canonical_name(name): entry
        for entry in catalogue_entries()
        for name in (entry.name, *entry.aliases)
    }
