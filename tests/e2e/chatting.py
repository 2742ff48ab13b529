"""A fake Ollama that chats: a short answer to whatever it is told, and a memory of what that was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fakes.answering import Answer, Raw, Received
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

MIB = 1024**2
MODELS = tuple(
    FakeModel(name, size_bytes=300 * MIB, vram_bytes=0, trained_tokens=trained)
    for name, trained in (("small:latest", 8192), ("tiny:latest", 64))
)


@dataclass
class ChattingOllama(FakeOllama):
    """An Ollama of the time when it passes names of its cloud on, which also answers chats."""

    version: str = "0.24.0"
    models: tuple[FakeModel, ...] = MODELS

    def answer(self, request: Received) -> Answer:
        """As the fake; litellm asks by ``name``, as every Ollama still allows (api/types.go: ShowRequest)."""
        body = request.body
        if isinstance(body, dict) and "name" in body:
            request = Received(request.method, request.path, {"model": body["name"], **body})
        if request.path == "/api/chat" and not self._is_sent_out(request):
            self.received.append(request)
            return chat_answer(request.body["model"])
        return super().answer(request)

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the requests for text."""
        return [request.body for request in self.received if request.path == "/api/chat"]


def chat_answer(model: str) -> Raw:
    """A short answer, as a stream and as a whole: both are one JSON object a line (docs/api.md)."""
    line = {
        "model": model,
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": "It is well"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": 3,
    }
    content = json.dumps(line).encode() + b"\n"
    return Raw(content, 200, (("Content-Type", "application/x-ndjson"),))
