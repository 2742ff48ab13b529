"""The catalogue: sizes and architectures of published models, each number with where it comes from.

A size is that of the file with the weights, and of its tower for pictures. How a number was obtained is one of three:
``exact`` (published to the byte, or by the maker), ``computed`` (the sum of a file's tensors, or derived as its source
says) and ``estimated`` (rounded where it is published, or that of a model of the same shape). Names mean what Ollama's
library means by them: ``qwen3:8b`` is its default quantisation. The library has no IQ4_XS; such files are pulled by
their ``hf.co`` names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from aider_guard.core.architecture import Architecture, parse_architecture
from aider_guard.core.codec import build
from aider_guard.core.model_memory import Candidate
from aider_guard.core.model_names import canonical_name
from aider_guard.errors import ConfigError

Obtained = Literal["exact", "computed", "estimated"]
"""How a number was obtained."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One model file. ``name`` is what ``ollama pull`` takes; ``aliases`` are other names that mean it here."""

    name: str
    aliases: tuple[str, ...]
    quantization: str
    size_bytes: int
    size_obtained: Obtained
    size_source: str
    architecture: Architecture
    architecture_obtained: Obtained
    architecture_source: str

    @property
    def is_exact(self) -> bool:
        """Whether the size is known to the byte."""
        return self.size_obtained == "exact"

    @property
    def candidate(self) -> Candidate:
        """The file as core/fit takes it. Its blob is its name: no other entry shares its weights."""
        return Candidate(self.name, self.size_bytes, self.architecture)


@dataclass(frozen=True)
class _ArchitectureRecord:
    """An architecture in catalogue.json: ``facts`` are keys of a GGUF file, without the name before them."""

    name: str
    vocabulary: int
    obtained: Obtained
    source: str
    facts: dict[str, int | tuple[int, ...]]

    def architecture(self) -> Architecture:
        """The architecture, parsed as Ollama's answer is. Raises ``ConfigError`` when its facts are not whole."""
        facts = {f"{self.name}.{key}": value for key, value in self.facts.items()}
        table = {"name": "token_embd.weight", "shape": [1, self.vocabulary]}
        found = parse_architecture({"general.architecture": self.name, **facts}, [table])
        if isinstance(found, Architecture):
            return found
        raise ConfigError(f"the catalogue is damaged, install aider-guard again: {found.reason}")


@dataclass(frozen=True)
class _FileRecord:
    """A model file in catalogue.json."""

    name: str
    aliases: tuple[str, ...]
    architecture: str
    quantization: str
    size_bytes: int
    obtained: Obtained
    source: str
    main_memory_bytes: int = 0
    draft_bytes: int = 0
    draft_tokens: int = 0
    has_vision: bool = False


@cache
def catalogue_entries() -> tuple[CatalogueEntry, ...]:
    """All entries, in the order of catalogue.json. Raises ``WireError`` or ``ConfigError`` when it is damaged."""
    text = files("aider_guard").joinpath("catalogue.json").read_text(encoding="utf-8")
    raw: dict[str, Any] = json.loads(text)
    shapes: dict[str, _ArchitectureRecord] = build(
        dict[str, _ArchitectureRecord], raw["architectures"]
    )
    parsed = {key: shape.architecture() for key, shape in shapes.items()}
    records: tuple[_FileRecord, ...] = build(tuple[_FileRecord, ...], raw["files"])
    return tuple(
        _entry(record, shapes[record.architecture], parsed[record.architecture])
        for record in records
    )


def _entry(
    record: _FileRecord, shape: _ArchitectureRecord, architecture: Architecture
) -> CatalogueEntry:
    return CatalogueEntry(
        name=record.name,
        aliases=record.aliases,
        quantization=record.quantization,
        size_bytes=record.size_bytes,
        size_obtained=record.obtained,
        size_source=record.source,
        architecture=replace(
            architecture,
            main_memory_bytes=record.main_memory_bytes,
            draft_bytes=record.draft_bytes,
            draft_tokens=record.draft_tokens,
            has_vision=record.has_vision,
        ),
        architecture_obtained=shape.obtained,
        architecture_source=shape.source,
    )


def find(name: str) -> CatalogueEntry | None:
    """Find the entry that an Ollama name means, without regard to case; None when there is none."""
    return _by_name().get(canonical_name(name))


def nearest(name: str, count: int = 3) -> tuple[str, ...]:
    """The names in the catalogue that are most like this one, to correct a typing error."""
    entries = {key.removesuffix(":latest"): entry for key, entry in _by_name().items()}
    wanted = canonical_name(name).removesuffix(":latest")
    close = get_close_matches(wanted, entries, n=3 * count, cutoff=0.5)
    return tuple(dict.fromkeys(entries[key].name for key in close))[:count]


@cache
def _by_name() -> dict[str, CatalogueEntry]:
    return {
        canonical_name(name): entry
        for entry in catalogue_entries()
        for name in (entry.name, *entry.aliases)
    }
