"""No cloud through the door: names of clouds, stubs and redirects are refused before a word has left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import httpx
import pytest
from e2e.chatting import ChattingOllama
from e2e.desk import COUNTABLE, Desk
from e2e.doors import OpenDoor, open_door, settings_for
from fakes.answering import Json, Raw
from fakes.ollama_models import FakeModel

from aider_guard.core.chat.events import RequestRefused

SECRET = "the-secret-of-the-house"
STUB = FakeModel("mine:latest", size_bytes=384, remote_host="https://ollama.com:443")


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ("gpt-oss:120b-cloud", "cloud"),
        ("qwen3:CLOUD", "cloud"),
        ("gpt-oss: cloud", "cloud"),
        ("mine", "https://ollama.com:443"),
    ],
)
def test_a_switch_to_a_cloud_s_model(desk: Desk, model: str, where: str) -> None:
    """Refused with the reason; Ollama hears neither the name nor a word of the prompt, and the way back is open."""
    server = ChattingOllama(models=(COUNTABLE, STUB))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        person.ask(f"/model ollama_chat/{model}")
        person.ask(f"Say hello to {SECRET}.")
        screen = person.wait_for(rf"aider-guard: not sent: {model}.*{where}")
        assert "Retrying in" not in screen
        assert not server.sent_out
        assert not any(SECRET in str(request.body) for request in server.received)
        person.ask("/model ollama_chat/small")
        person.ask("Hello.")
        assert person.wrote("It is well")
        person.type(b"/exit\r")
        assert person.end() == 0


def test_a_redirect_is_not_followed(desk: Desk) -> None:
    """Where a server sends its clients elsewhere, the prompt does not follow."""
    server = ChattingOllama(models=(COUNTABLE,))
    with ChattingOllama() as elsewhere, server, desk.session(server.url) as person:
        person.wait_for_prompt()
        headers = (("Location", f"{elsewhere.url}/api/chat"),)
        server.script["/api/chat"] = [Raw(b"", status, headers) for status in (307,)]
        person.ask(f"Say hello to {SECRET}.")
        person.wait_for(r"aider-guard: ")
        assert not elsewhere.received
        person.type(b"/exit\r")
        assert person.end() == 0


def test_an_answer_from_elsewhere_is_broken_off(desk: Desk) -> None:
    """A model that became a stub in the middle of the session: its answer names a host, and is not shown."""
    server = ChattingOllama(models=(COUNTABLE,))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        server.models = (FakeModel("small:latest", remote_host="https://ollama.com:443"),)
        person.ask("Hello.")
        person.wait_for(r"aider-guard: .*ollama\.com")
        assert not person.wrote("It is well")
        person.type(b"/exit\r")
        assert person.end() == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/chat", "not sent: mine runs at https://ollama.com"),
        ("/api/generate", "not sent: mine runs at https://ollama.com"),
        ("/v1/chat/completions", "not sent: mine runs at https://ollama.com"),
        ("/v1/embeddings", "mine would leave this machine"),
    ],
)
@pytest.mark.parametrize("listed", ["before the alias was made", "not at all"])
def test_an_alias_that_is_not_listed_yet(path: str, said: str, listed: str) -> None:
    """Made after the list was read, or with an Ollama that could not tell it: asked about before it is sent a word."""
    server = ChattingOllama(models=(COUNTABLE,))
    if listed == "not at all":
        server.script["/api/tags"] = [Json({"error": "starting"}, 503)] * 1000
    with server, open_door(server.url, settings_for(server.url, "small", 4096)) as door:
        until(lambda: "/api/tags" in server.paths())
        if listed != "not at all":
            assert ask(door, path, "small").status_code == 200

            def costs_nothing() -> bool:
                asked = len(server.received)
                assert ask(door, path, "small").status_code == 200
                return "/api/show" not in [one.path for one in server.received[asked:]]

            until(
                costs_nothing
            )  # what is known; what is read in the background may still be under way
        server.models = (COUNTABLE, STUB)
        secret = f"Say hello to {SECRET}."
        for _ in range(2):
            assert said in ask(door, path, "mine", secret).text
        assert not server.sent_out
        assert not any(SECRET in str(request.body) for request in server.received)
        assert door.wait_for(RequestRefused).reason == "cloud"


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\u00a0", "\u3000"])
def test_a_clouds_name_with_space_reaches_ollama_on_no_path(space: str) -> None:
    """Ollama does not count the space, and would send such a request out: it does not even hear the name."""
    server = ChattingOllama(models=(COUNTABLE,))
    name = f"gpt-oss:{space}120b-cloud"
    bodies = {
        **{f"/api/{path}": {"model": name} for path in ("chat", "generate", "show", "embed")},
        **{f"/api/{path}": {"model": name} for path in ("embeddings", "delete", "pull", "push")},
        "/api/create": {"model": "new", "from": name},
        "/api/copy": {"source": "small", "destination": name},
        **{f"/v1/{path}": {"model": name} for path in ("chat/completions", "completions")},
        **{f"/v1/{path}": {"model": name} for path in ("embeddings", "responses", "messages")},
    }
    with server, open_door(server.url, settings_for(server.url, "small", 4096)) as door:
        until(lambda: "/api/tags" in server.paths())
        for path, body in bodies.items():
            text = {"prompt": SECRET, "messages": [{"role": "user", "content": SECRET}]}
            answer = httpx.post(
                f"{door.url}{path}",
                json={**text, **body},
                trust_env=False,
                verify=False,
                timeout=20,
            )
            assert "aider-guard: " in answer.text, path
        listed = httpx.get(f"{door.url}/v1/models/{quote(name)}", trust_env=False, verify=False)
        assert "would leave this machine" in listed.text
        assert not server.sent_out
        assert not any("cloud" in str(request.body) for request in server.received)


def test_nothing_is_fetched_or_sent_away_for_a_program_inside() -> None:
    """Ollama would ask the host in the name, which may be a text: it hears nothing, unless the network is open."""
    server = ChattingOllama(models=(COUNTABLE,))
    name = f"{SECRET}.example.org/x/y"
    bodies = {
        "/api/pull": {"model": name, "insecure": True},
        "/api/push": {"model": name},
        "/api/create": {"model": "new", "from": name},
        "/api/web": {"query": SECRET},
    }
    with server:
        settings = settings_for(server.url, "small", 4096)
        with open_door(server.url, settings) as door:
            for count, (path, body) in enumerate(bodies.items(), 1):
                answer = httpx.post(
                    f"{door.url}{path}", json=body, trust_env=False, verify=False, timeout=20
                )
                assert answer.status_code == 403
                assert answer.json()["error"].startswith("aider-guard: ")
                assert door.wait_for(RequestRefused, count).reason == "forbidden"
            asked = [request for request in server.received if SECRET in str(request.body)]
            assert {request.path for request in asked} <= {"/api/show"}  # whether it is here
        with open_door(server.url, replace(settings, refuse_cloud=False)) as door:
            for path, body in bodies.items():
                httpx.post(
                    f"{door.url}{path}", json=body, trust_env=False, verify=False, timeout=20
                )
            assert set(bodies) <= server.paths()


def ask(door: OpenDoor, path: str, model: str, text: str = "Hello.") -> httpx.Response:
    """A request in the form of that path."""
    key = {"/api/generate": "prompt", "/v1/embeddings": "input"}.get(path, "messages")
    said: object = [{"role": "user", "content": text}] if key == "messages" else text
    body = {"model": model, key: said, "stream": False}
    with httpx.Client(trust_env=False, verify=False, timeout=20) as client:
        answer = client.post(f"{door.url}{path}", json=body)
    if path == "/v1/embeddings" and answer.status_code == 404:  # the fake has none
        return httpx.Response(200)
    return answer


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
