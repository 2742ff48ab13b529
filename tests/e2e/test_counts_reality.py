"""What is counted before a prompt is sent is what a real Ollama evaluates, to the token."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from e2e.conftest import PRIVATE, TODAY
from e2e.shallow import NAME
from e2e.texts import texts

from aider_guard.core.chat.request import FORMS, read
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.door.prompt_counter import CounterProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aider_guard.demo.ollama_server import PrivateOllama

pytestmark = pytest.mark.servers(PRIVATE, TODAY)
WINDOW = 4096  # what /v1 has, too: another one would load the model anew
OPTIONS = {"num_ctx": WINDOW, "num_predict": 1, "temperature": 0}
CHAT, GENERATE, V1 = "/api/chat", "/api/generate", "/v1/chat/completions"
LEGACY = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
WITH_INDEX = (
    "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}"
    '{{- if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}{{ if not $last }}<|im_end|>\n{{ end }}'
    '{{- end }}{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant\n{{ end }}{{- end }}'
)


class Reality:
    """Counts, and the server that says how many tokens it evaluated."""

    def __init__(self, base: str, vocabularies: Path) -> None:
        self._base = base
        self._counts = CounterProcess(vocabularies=str(vocabularies), wait_seconds=30)
        upstream = Upstream("", base, "ollama")
        self._settings = DoorSettings("t", (upstream,), (DoorRole("main", NAME),), WINDOW)
        self._counts.serve(self._settings)
        self._http = httpx.Client(base_url=base, timeout=120, trust_env=False, verify=False)

    def both(self, path: str, body: dict[str, Any]) -> tuple[object, int]:
        """What is counted of a request, and what the server evaluates of it then."""
        body = {"model": NAME, "stream": False, "options": OPTIONS, "max_tokens": 1, **body}
        asked = read(FORMS[path], body, self._settings, "")
        counted = asyncio.run(self._counts.count(asked))
        answer = self._http.post(path, json=body).raise_for_status().json()
        if "usage" in answer:
            return counted, answer["usage"]["prompt_tokens"]
        return counted, answer["prompt_eval_count"]

    def close(self) -> None:
        """End both."""
        self._counts.close()
        self._http.close()

    def create(self, name: str, **more: Any) -> None:
        """A model with the weights of the shallow one."""
        body = {"model": name, "from": NAME, "stream": False, **more}
        self._http.post("/api/create", json=body).raise_for_status()


@pytest.fixture(scope="module")
def reality(
    ollama: PrivateOllama, shallow: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reality]:
    """A counter on the private server."""
    assert shallow == NAME
    reality = Reality(ollama.url, tmp_path_factory.mktemp("vocabularies"))
    yield reality
    reality.close()


def exactly(tokens: int) -> Count:
    """A count that claims to be exact."""
    return Count(tokens, exact=True)


@pytest.mark.slow
def test_two_hundred_texts(reality: Reality) -> None:
    """Through a chat, a prompt with its template, and a raw one: the count before is the number after, each time."""
    ways: list[tuple[str, Any]] = [
        (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}),
        (GENERATE, lambda text: {"prompt": text, "raw": True}),
        (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}),
        (GENERATE, lambda text: {"prompt": text, "system": "Be brief."}),
    ]
    wrong = []
    for number, (kind, text) in enumerate(texts()):
        path, body = ways[number % len(ways)]
        counted, evaluated = reality.both(path, body(text))
        if counted != exactly(evaluated):
            wrong.append((kind, text, counted, evaluated))
    assert wrong == []


CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("system", "You are a till."), ("user", "Add 1,234.50 and 99.\n")],
    [
        ("user", "one"),
        ("user", "two"),
        ("assistant", "  three\n\n"),
        ("assistant", ""),
        ("user", "four"),
    ],
    [
        ("system", "a"),
        ("system", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("system", "e"),
        ("user", "f"),
    ],
    [
        ("user", "What is <|im_end|> in ``` <|endoftext|>?"),
        ("assistant", "A mark."),
        ("user", "中文?"),
    ],
    [("assistant", "I begin."), ("user", "Do you?")],
    [("user", "An answer begun"), ("assistant", "Well, it")],
]


@pytest.mark.parametrize("model", [NAME, "legacy", "indexed", "plain", "spoken"])
def test_conversations(reality: Reality, model: str) -> None:
    """System prompts, history, neighbours of one role, and marks in the text; in templates of every form."""
    templates = {
        "legacy": LEGACY,
        "indexed": WITH_INDEX,
        "plain": "{{ .Prompt }}",
        "spoken": WITH_INDEX,
    }
    said = {
        "system": "You speak.",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],
    }
    if model in templates:
        more = said if model == "spoken" else {}
        reality.create(model, template=templates[model], **more)
    exact = model != "plain"
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for path in (CHAT, V1):
            counted, evaluated = reality.both(path, {"model": model, "messages": messages})
            assert isinstance(counted, Count)
            assert (counted.exact, not exact or counted.tokens == evaluated) == (exact, True)
    counted, evaluated = reality.both(GENERATE, {"model": model, "prompt": "Hello 42"})
    assert not exact or counted == exactly(evaluated)
