"""The stand-in for an Ollama of 0.30 to 0.35 does what a real one does: other tests rely on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from e2e.conftest import TODAY

from aider_guard.demo.layout import SMALL

if TYPE_CHECKING:
    from aider_guard.demo.ollama_server import PrivateOllama

pytestmark = pytest.mark.servers(TODAY)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi."}]
OPTIONS = {"num_ctx": 2048, "num_predict": 4, "temperature": 0, "seed": 1}


def ask(server: PrivateOllama, path: str, **body: Any) -> httpx.Response:
    """One request."""
    whole = {"model": SMALL, **body}
    return httpx.post(server.url + path, json=whole, timeout=60, trust_env=False, verify=False)


def child(server: PrivateOllama) -> psutil.Process:
    """The only llama-server."""
    (found,) = psutil.Process(server.pid).children()
    return found


def counted(server: PrivateOllama, **body: Any) -> int:
    """How many tokens a prompt has: the server renders, its child counts."""
    shown = ask(server, "/api/show").json()["modelfile"]
    answer = ask(server, "/api/chat", stream=False, _debug_render_only=True, **body).json()
    words = child(server).cmdline()
    assert words[0].endswith("/lib/ollama/llama-server")
    assert re.search(r"^FROM (\S+)", shown, re.MULTILINE)[1] == words[words.index("--model") + 1]  # type: ignore[index]
    port = words[words.index("--port") + 1]
    question = {
        "content": answer["_debug_info"]["rendered_template"],
        "add_special": True,
        "parse_special": True,
    }
    found = httpx.post(
        f"http://127.0.0.1:{port}/tokenize", json=question, trust_env=False, verify=False
    )
    return len(found.json()["tokens"])


def test_a_prompt_is_counted_before_it_is_evaluated(ollama: PrivateOllama) -> None:
    """The same number, streamed and whole, and the model is loaded once."""
    loads = ollama.loads()
    tokens = counted(ollama, messages=MESSAGES, options=OPTIONS)
    streamed = ask(ollama, "/api/chat", messages=MESSAGES, options=OPTIONS)
    *pieces, last = map(json.loads, streamed.text.splitlines())
    assert all(set(piece) == {"model", "created_at", "message", "done"} for piece in pieces)
    whole = ask(ollama, "/api/chat", messages=MESSAGES, options=OPTIONS, stream=False).json()
    assert (last["prompt_eval_count"], whole["prompt_eval_count"]) == (tokens, tokens)
    assert "".join(piece["message"]["content"] for piece in pieces) == whole["message"]["content"]
    assert ollama.loads() == loads + 1


def test_the_processes_are_those_of_ollama(ollama: PrivateOllama) -> None:
    """Their names and command lines, as every user of the machine sees them."""
    ask(ollama, "/api/generate", options=OPTIONS)
    server = psutil.Process(ollama.pid)
    assert (server.name(), server.cmdline()[:2]) == ("ollama", ["/usr/local/bin/ollama", "serve"])
    assert child(ollama).name() == "llama-server"
    assert child(ollama).cmdline()[-3:] == ["--context-shift", "--keep", "4"]
    content = Path(f"/proc/{child(ollama).pid}/cmdline").read_bytes()
    assert content.endswith(b"4\0")
    assert b"\0\0" not in content


@pytest.mark.parametrize("window", [2048, 1024])
def test_a_window_that_differs_loads_anew(ollama: PrivateOllama, window: int) -> None:
    """One that is larger than the model was trained for is that of its training."""
    ask(ollama, "/api/generate", options={"num_ctx": 8192})
    before = ollama.loads()
    ask(ollama, "/api/generate", options={"num_ctx": 99999})
    assert ollama.loads() == before
    ask(ollama, "/api/generate", options={"num_ctx": window})
    assert ollama.loads() == before + 1


def test_unloaded_is_gone(ollama: PrivateOllama) -> None:
    """From the list, and from the machine."""
    ask(ollama, "/api/generate", options=OPTIONS)
    process = child(ollama)
    ollama.unload(SMALL)
    process.wait(10)
    assert ollama.loaded() == []
