"""A fake Ollama that chats with the real Aider: small models, and a short answer to each message."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

MIB = 1024**2
MODELS = tuple(
    FakeModel(name, size_bytes=300 * MIB, vram_bytes=0, trained_tokens=trained)
    for name, trained in (("small:latest", 8192), ("tiny:latest", 64))
)


@dataclass
class ChattingOllama(FakeOllama):
    """An Ollama of the time when it passes names of its cloud on."""

    version: str = "0.24.0"
    models: tuple[FakeModel, ...] = MODELS
    talking: Talking = field(default_factory=lambda: Talking(says="It is well"))
