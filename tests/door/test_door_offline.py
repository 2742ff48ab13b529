"""What the door answers for clouds in a session that stays on this machine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from door.handler_services import HandlerSetup
from door.scripted import OpenDoor, door_to

from aider_guard.core.events import EgressBlocked
from aider_guard.door import app

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a secret"}], "stream": True}


def ask(door: OpenDoor, path: str, body: Any = CHAT, **more: Any) -> httpx.Response:
    """Send a request as a cloud's client does whose base is the door's."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"{door.base}/cloud/{path}", content=content, trust_env=False, verify=False, **more
    )


def words(model: str, host: str) -> str:
    return (
        f"aider-guard: this session is offline: {model} would run at {host};"
        " /model NAME goes back to a local model"
    )


GOOGLE = "generativelanguage.googleapis.com"
REQUESTS = [
    ("api.openai.com:443/chat/completions", CHAT, "gpt-4o"),
    ("api.anthropic.com:443/v1/messages", {**CHAT, "model": "claude-x"}, "claude-x"),
    (f"{GOOGLE}:443/models/gemini-x:streamGenerateContent?alt=sse", {"contents": []}, "gemini-x"),
    (f"{GOOGLE}:443:generateContent", {"contents": []}, "this model"),
    ("mine.openai.azure.com:443/openai/deployments/x/chat/completions", {"messages": []}, "x"),
    ("openrouter.ai:443/chat/completions", {**CHAT, "model": "some/model"}, "some/model"),
    ("api.cohere.com:443", {"model": "command-x"}, "command-x"),
    ("api.openai.com:443/audio/transcriptions", b"--form\r\n", "this model"),
    ("api.openai.com:443/chat/completions", {"model": ["a secret"]}, "this model"),
    ("api.openai.com:443/chat/completions", {"model": "a\nb"}, "a?b"),
]


@pytest.mark.parametrize(("path", "body", "model"), REQUESTS)
def test_one_line_says_where_the_model_would_run(path: str, body: Any, model: str) -> None:
    """With a status that is not tried again; the attempt is reported, and nothing of the body but the model's name."""
    setup = HandlerSetup()
    with door_to(setup.handler, "http://127.0.0.1:9") as door:
        answer = ask(door, path, body)
    host = path.partition(":")[0]
    assert (answer.status_code, answer.text) == (400, words(model, host))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert setup.events == [EgressBlocked(host, 443, "http")]


def test_a_program_that_asks_for_a_list_of_models_is_told_too() -> None:
    """With GET, and without a body."""
    setup = HandlerSetup()
    with door_to(setup.handler, "http://127.0.0.1:9") as door:
        url = f"{door.base}/cloud/api.groq.com:443/models"
        answer = httpx.get(url, trust_env=False, verify=False)
    assert (answer.status_code, answer.text) == (400, words("this model", "api.groq.com"))


def test_a_failure_in_openais_newer_protocol() -> None:
    """litellm reads an answer, which reports an invalid request; a streamed one says it."""
    setup = HandlerSetup()
    path, said = "api.openai.com:443/responses", words("o3-pro", "api.openai.com")
    with door_to(setup.handler, "http://127.0.0.1:9") as door:
        whole = ask(door, path, {"model": "o3-pro", "input": "x"})
        streamed = ask(door, path, {"model": "o3-pro", "input": "x", "stream": True})
    assert (whole.status_code, streamed.status_code) == (200, 200)
    assert whole.json()["error"] == {"code": "invalid_request_error", "message": said}
    assert streamed.headers["content-type"] == "text/event-stream"
    first, last, end = streamed.text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["delta"] == said
    assert (last, end) == ("data: [DONE]", "")
    assert len(setup.events) == 2


def test_a_large_or_coded_body_is_answered_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is kept; the name in such a body is not known."""
    monkeypatch.setattr(app, "MAX_HANDLED_BYTES", 1000)
    setup = HandlerSetup()
    with door_to(setup.handler, "http://127.0.0.1:9") as door:
        large = ask(door, "api.x.ai:443/chat/completions", {**CHAT, "more": "x" * 3_000_000})
        coded = ask(door, "api.x.ai:443/v1", b"\x28\xb5", headers={"Content-Encoding": "zstd"})
    assert large.text == coded.text == words("this model", "api.x.ai")


def test_where_clouds_are_allowed_there_is_no_such_part() -> None:
    """The door knows nothing of it, and nothing is reported."""
    setup = HandlerSetup()
    with door_to(setup.handler, "http://127.0.0.1:9", refuse_cloud=False) as door:
        answer = ask(door, "api.openai.com:443/chat/completions")
    assert (answer.status_code, answer.content) == (403, b"")
    assert setup.events == []
