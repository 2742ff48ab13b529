"""The stand-in for an Ollama of 0.30 to 0.35 does what a real one does: other tests rely on it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from e2e.conftest import TODAY, create
from e2e.emptying import empty
from standin.program import standin_ollama

from aider_guard.demo.layout import SMALL

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig
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
    empty(ollama)
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


def test_shift_is_a_setting_of_the_load(ollama: PrivateOllama) -> None:
    """A request that says otherwise loads anew; one that says the same does not."""
    ask(ollama, "/api/generate", options=OPTIONS)
    before = ollama.loads()
    ask(ollama, "/api/generate", options=OPTIONS, shift=True)
    assert ollama.loads() == before
    ask(ollama, "/api/generate", options=OPTIONS, shift=False)
    assert ollama.loads() == before + 1
    assert "--context-shift" not in child(ollama).cmdline()


def test_unloaded_is_gone(ollama: PrivateOllama) -> None:
    """From the list, and from the machine."""
    ask(ollama, "/api/generate", options=OPTIONS)
    process = child(ollama)
    ollama.unload(SMALL)
    process.wait(10)
    assert ollama.loaded() == []


def test_a_model_leaves_after_its_time(ollama: PrivateOllama) -> None:
    """The time is that of the last request that named one."""
    ask(ollama, "/api/generate", options=OPTIONS, keep_alive="200ms")
    child(ollama).wait(10)
    ask(ollama, "/api/generate", options=OPTIONS, keep_alive=-1)
    (entry,) = httpx.get(f"{ollama.url}/api/ps", trust_env=False).json()["models"]
    assert entry["expires_at"].startswith("23")


def test_a_child_that_was_killed_is_started_again(ollama: PrivateOllama) -> None:
    """It stays in the list until the next request needs it."""
    ask(ollama, "/api/generate", options=OPTIONS)
    for other in set(ollama.loaded()) - {f"{SMALL}:latest"}:  # what another test had loaded
        ollama.unload(other)
    ask(ollama, "/api/generate", options=OPTIONS)
    process = child(ollama)
    process.kill()
    process.wait(10)
    assert ollama.loaded() == [f"{SMALL}:latest"]
    answer = ask(ollama, "/api/chat", messages=MESSAGES, options=OPTIONS, stream=False)
    assert answer.json()["prompt_eval_count"] > 0
    assert child(ollama).pid != process.pid


def test_a_model_that_is_removed_is_not_found(ollama: PrivateOllama) -> None:
    """It is not in the list any more, and a request for it names it."""
    create(ollama, "passing", **{"from": SMALL})
    removed = httpx.request(
        "DELETE", f"{ollama.url}/api/delete", json={"model": "passing"}, trust_env=False
    )
    assert removed.status_code == 200
    listed = httpx.get(f"{ollama.url}/api/tags", trust_env=False).json()["models"]
    assert "passing:latest" not in [model["name"] for model in listed]
    for path in ("/api/chat", "/api/show"):
        answer = ask(ollama, path, model="passing")
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'passing' not found"})


def test_two_loads_at_once_are_one(ollama: PrivateOllama) -> None:
    """Requests that come while a model is being loaded get the same child."""
    before = ollama.loads()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: ask(ollama, "/api/generate", options=OPTIONS, prompt="Hi"), range(4))
        )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert ollama.loads() <= before + 1


def test_thoughts_are_a_field_of_their_own(ollama: PrivateOllama) -> None:
    """For a model that can think, unless it is told not to; another model refuses to."""
    template = (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Thinking }}{{ .Content }}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n{{ if .Think }}<think>\n{{ end }}"
    )
    model = create(ollama, "thinker", **{"from": SMALL}, template=template)
    assert "thinking" in ask(ollama, "/api/show", model=model).json()["capabilities"]
    same = {"model": model, "messages": MESSAGES, "options": OPTIONS, "stream": False}
    thinking = ask(ollama, "/api/chat", **same).json()["message"]
    assert (thinking["content"], len(thinking["thinking"]) > 2) == ("", True)
    plain = ask(ollama, "/api/chat", **same, think=False).json()["message"]
    assert (len(plain["content"]) > 2, "thinking" in plain) == (True, False)
    refused = ask(ollama, "/api/chat", messages=MESSAGES, think=True)
    assert refused.json() == {"error": f'"{SMALL}" does not support thinking'}


def test_none_is_left_when_it_ends(rig: Rig, tmp_path: Path) -> None:
    """Its children end with it, also when it is killed itself."""
    with standin_ollama(rig, tmp_path) as server:
        ask(server, "/api/generate", options=OPTIONS)
        process = child(server)
        psutil.Process(server.pid).kill()
        process.wait(10)
