"""On a server of today each prompt can be counted before it is sent: Ollama renders it, and its child counts it.

That holds for each way in which a prompt is made and for each kind of vocabulary (``standin.sample_models``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from e2e.shallow import NAME, upload
from e2e.texts import COUNT, texts
from standin.program import standin_ollama
from standin.sample_models import (
    CODER,
    GEMMA,
    GEMMA_JINJA,
    JINJA,
    add_gemma,
    add_gemma_jinja,
    add_jinja,
)

from aider_guard.demo.model import TEMPLATE

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

OPTIONS = {"num_ctx": 2048, "num_predict": 1, "temperature": 0}
FORMS: tuple[Callable[[str], list[dict[str, str]]], ...] = (
    lambda text: [{"role": "user", "content": text}],
    lambda text: [
        {"role": "system", "content": "You are a till."},
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And?"},
    ],
)


class Counter:
    """Asks a server and the child that runs a model."""

    def __init__(self, server: PrivateOllama, model: str) -> None:
        self._model, self._server = model, server
        self._http = httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False)
        shown = self._http.post("/api/show", json={"model": model}).json()["modelfile"]
        self._file = re.search(r"^FROM (\S+)", shown, re.MULTILINE)

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def before(self, messages: list[dict[str, str]]) -> int:
        """The tokens of a prompt that is not sent."""
        text = self._ask(messages, _debug_render_only=True)["_debug_info"]["rendered_template"]
        question = {"content": text, "add_special": True, "parse_special": True}
        answer = self._http.post(f"http://127.0.0.1:{self._port()}/tokenize", json=question)
        return len(answer.json()["tokens"])

    def after(self, messages: list[dict[str, str]]) -> int:
        """The tokens that were read, or taken from the cache."""
        return int(self._ask(messages)["prompt_eval_count"])

    def _ask(self, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        body = {"model": self._model, "messages": messages, "stream": False, "options": OPTIONS}
        answer = self._http.post("/api/chat", json={**body, **more}).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer

    def _port(self) -> int:
        assert self._file is not None
        for process in psutil.Process(self._server.pid).children():
            words = process.cmdline()
            if self._file[1] in words:
                return int(words[words.index("--port") + 1])
        raise AssertionError(f"no child runs {self._file[1]}")


@pytest.fixture(scope="module")
def server(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateOllama]:
    """A stand-in with a model of one layer for each way."""

    def add_models(models: Path) -> None:
        add_jinja(models, layers=1)
        add_gemma(models, rig, layers=1)
        add_gemma_jinja(models, rig, layers=1)

    with standin_ollama(rig, tmp_path_factory.mktemp("counts"), add_models=add_models) as server:
        digest = upload(rig, server)
        body = {"files": {"model.gguf": digest}, "template": TEMPLATE, "stream": False}
        for name, more in ((NAME, {}), (CODER, {"renderer": "qwen3-coder"})):
            httpx.post(
                f"{server.url}/api/create",
                json={"model": name, **body, **more},
                trust_env=False,
                verify=False,
            ).raise_for_status()
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("model", [NAME, CODER, JINJA, GEMMA, GEMMA_JINJA])
def test_two_hundred_of_two_hundred(server: PrivateOllama, model: str) -> None:
    """Alone, and as an earlier answer in a conversation."""
    counter = Counter(server, model)
    wrong = []
    for place, (kind, text) in enumerate(texts()):
        messages = FORMS[place // 12 % len(FORMS)](text)
        counted = counter.before(messages)
        if counted != (evaluated := counter.after(messages)):
            wrong.append((kind, text, counted, evaluated))
    counter.close()
    assert len(texts()) == COUNT
    assert wrong == []
