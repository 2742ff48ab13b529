"""The fake Ollama answers as Ollama does: other tests rely on it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_runners import Speed
from fakes.ollama_server import ERAS, FakeOllama
from fakes.ollama_troubles import STOPPED, Break, busy
from fakes.vocabulary import tiny

SMALL = FakeModel("small:latest", vocabulary=tiny(), trained_tokens=8192)
LARGE = FakeModel("large:latest", kv_bytes_per_token=1 << 20)
HELLO = {"role": "user", "content": "Hello, how is it?"}
ASK: dict[str, Any] = {"model": "small", "messages": [HELLO], "options": {"num_ctx": 1024}}


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """A server with two models, of which one does not fit beside the other."""
    with FakeOllama(version="0.24.0", models=(SMALL, LARGE), memory_bytes=10 << 30) as server:
        yield server


def post(server: FakeOllama, path: str, body: dict[str, Any]) -> httpx.Response:
    """One request."""
    return httpx.post(server.url + path, json=body, trust_env=False, verify=False)


def chat(server: FakeOllama, **more: Any) -> list[dict[str, Any]]:
    """The lines of a chat's answer."""
    return [
        json.loads(line) for line in post(server, "/api/chat", {**ASK, **more}).text.splitlines()
    ]


@pytest.mark.parametrize("version", ERAS)
def test_a_chat_in_every_era(version: str) -> None:
    """Streamed and whole, by each protocol: the same words, the same numbers, and the model is loaded once."""
    with FakeOllama(version=version, models=(SMALL,)) as server:
        *pieces, last = chat(server)
        assert "".join(piece["message"]["content"] for piece in pieces) == "It is well."
        assert last["load_duration"] > 10**9
        assert last["prompt_eval_count"] == 32
        (whole,) = chat(server, stream=False)
        assert whole["message"]["content"] == "It is well."
        assert whole["load_duration"] < 10**8
        openai = post(server, "/v1/chat/completions", ASK).json()
        assert openai["choices"][0]["message"]["content"] == "It is well."
        events = post(server, "/v1/chat/completions", {**ASK, "stream": True}).text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]


def test_a_request_that_breaks_off_did_not_come() -> None:
    """Its client went away within the body: what it would have asked is not known."""
    with FakeOllama() as server, socket.create_connection((server.host, server.port)) as client:
        client.sendall(
            b'POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"model"'
        )
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert server.received == []


def test_what_the_cache_holds_is_not_read_again(ollama: FakeOllama) -> None:
    """The second time only the last token is evaluated, and the count is the whole prompt's but in 0.30.0."""
    first, again = chat(ollama)[-1], chat(ollama)[-1]
    assert first["prompt_eval_count"] == again["prompt_eval_count"] == 32
    assert again["prompt_eval_duration"] == first["prompt_eval_duration"] // 32
    ollama.version = "0.30.0"
    assert chat(ollama)[-1]["prompt_eval_count"] == 1


def test_another_window_loads_again(ollama: FakeOllama) -> None:
    """And forgets what was read; a number asked for is not the same number by default from 0.30 on."""
    chat(ollama)
    other = chat(ollama, options={"num_ctx": 2048})[-1]
    assert other["load_duration"] > 10**9
    assert other["prompt_eval_duration"] == 32 * 10**6
    (entry,) = httpx.get(f"{ollama.url}/api/ps", trust_env=False, verify=False).json()["models"]
    assert entry["context_length"] == 2048


def test_a_second_model_pushes_out_the_first(ollama: FakeOllama) -> None:
    """Where memory does not hold both; one that does not fit alone is refused in words."""
    chat(ollama)
    chat(ollama, model="large")
    assert ollama.loaded == ["large:latest"]
    refused = post(ollama, "/api/chat", {**ASK, "model": "large", "options": {"num_ctx": 8192}})
    assert refused.status_code == 500
    assert "requires more system memory (13.0 GiB) than is available (10.0 GiB)" in refused.text


def test_loading_and_unloading_by_an_empty_request(ollama: FakeOllama) -> None:
    """Without a prompt the model is only loaded, or unloaded; one that answers leaves when it has."""
    body = {"model": "small", "options": {"num_ctx": 1024}}
    assert post(ollama, "/api/generate", body).json()["done_reason"] == "load"
    assert ollama.loaded == ["small:latest"]
    assert not ollama.chats
    assert chat(ollama)[-1]["load_duration"] < 10**8
    assert post(ollama, "/api/generate", {"model": "small", "keep_alive": 0}).json()["done"] is True
    assert ollama.loaded == []
    chat(ollama, keep_alive="0s")
    assert ollama.loaded == []


def test_a_request_that_says_nothing_of_it_leaves_the_stay_as_it_was(ollama: FakeOllama) -> None:
    """As with Ollama (tests/e2e/test_warm_reality.py)."""
    model = ollama.models[0]
    chat(ollama, keep_alive="30m")
    chat(ollama)
    runner = ollama.runners.get(model)
    assert runner is not None
    assert runner.until - time.time() > 1500
    post(ollama, "/api/generate", {"model": "small", "keep_alive": 0})
    chat(ollama)
    runner = ollama.runners.get(model)
    assert runner is not None
    assert runner.until - time.time() < 400


def test_a_client_that_goes_away_is_seen(ollama: FakeOllama) -> None:
    """In the middle of an answer; the next request does not wait for the rest of it."""
    ollama.talking.speed = Speed(load_seconds=0, answer_tokens_per_second=0.01, share=1)
    with (
        httpx.Client(trust_env=False, verify=False) as client,
        client.stream("POST", f"{ollama.url}/api/chat", json=ASK) as answer,
    ):
        assert b"It" in next(answer.iter_raw())
    ollama.talking.speed = Speed()
    assert chat(ollama)[-1]["done_reason"] == "stop"
    assert [request.body for request in ollama.cancelled] == [ASK]


def test_requests_stand_in_a_queue(ollama: FakeOllama) -> None:
    """One after the other; a request that finds the queue full gets an error."""
    ollama.talking = Talking(speed=Speed(load_seconds=0.2, share=1), max_queue=1)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(post(ollama, "/api/chat", ASK).status_code))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses)[0] == 200
    assert sorted(statuses)[-1] == 503


def test_answers_break_as_they_are_told_to(ollama: FakeOllama) -> None:
    """By an error's line, by a dead runner, by a closed connection, and then no more."""
    ollama.talking.breaks = [Break("error", 2), Break("crash", 0), Break("cut"), None]
    assert chat(ollama)[-1] == {"error": STOPPED}
    assert post(ollama, "/api/chat", ASK).status_code == 500
    assert ollama.loaded == []
    with pytest.raises(httpx.RemoteProtocolError):
        chat(ollama)
    assert chat(ollama)[-1]["done"] is True


def test_a_script_comes_before_the_version_s_own_answer(ollama: FakeOllama) -> None:
    """It is used once."""
    ollama.script["/api/chat"] = [busy()]
    assert post(ollama, "/api/chat", ASK).status_code == 503
    assert post(ollama, "/api/chat", ASK).status_code == 200


@pytest.mark.parametrize(
    ("version", "family", "native", "more", "status", "count"),
    [
        ("0.9.3", "qwen3", False, {"truncate": False}, 200, 1024),
        ("0.12.5", "qwen3", False, {}, 200, 1024),
        ("0.12.6", "qwen3", False, {"truncate": False}, 400, 0),
        ("0.24.0", "qwen3", False, {}, 200, 1024),
        ("0.30.1", "qwen3", False, {}, 200, 1023),
        ("0.30.11", "qwen3", False, {}, 200, 514),
        ("0.30.11", "deepseek2", False, {}, 400, 0),
        ("0.33.0", "qwen3", True, {}, 400, 0),
        ("0.33.0", "qwen3", False, {"truncate": False}, 400, 0),
    ],
)
def test_a_prompt_that_is_too_large(
    version: str, family: str, native: bool, more: dict[str, Any], status: int, count: int
) -> None:
    """It is cut as by its era, or refused."""
    model = FakeModel("small:latest", family=family, native=native)
    with FakeOllama(version=version, models=(model,)) as server:
        long = {**ASK, **more, "stream": False}
        long["messages"] = [{"role": "user", "content": "word " * 3000}]
        answer = post(server, "/api/chat", long)
    assert answer.status_code == status
    assert answer.json().get("prompt_eval_count", 0) == count


def test_its_log(tmp_path: Path) -> None:
    """A load, a cut and the call, with the time of now."""
    path = tmp_path / "server.log"
    with FakeOllama(version="0.9.3", models=(SMALL,), log_path=path) as server:
        chat(server, messages=[{**HELLO, "content": "word " * 3000}])
    text = path.read_text()
    for words in ("Listening on", "--ctx-size 1024", "truncating input prompt", '"/api/chat"'):
        assert words in text


def test_the_vocabulary_is_told_when_it_is_asked_for(ollama: FakeOllama) -> None:
    """Verbosely as lists, else as null."""
    plain, verbose = (
        post(ollama, "/api/show", {"model": "small", "verbose": verbose}).json()["model_info"]
        for verbose in (False, True)
    )
    assert plain["tokenizer.ggml.tokens"] is None
    tokens = verbose["tokenizer.ggml.tokens"]
    assert len(tokens) == len(verbose["tokenizer.ggml.token_type"])
    assert all(word in tokens for word in tiny().encode("Hello, how is it? Être ½ 中\n\n  x"))


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:9", 200), ("10.0.0.7", 200), ("example.com", 403)]
)
def test_a_strange_host_is_forbidden(ollama: FakeOllama, host: str, status: int) -> None:
    """As on every server that listens on loopback only."""
    headers = {"Host": host}
    answer = httpx.get(f"{ollama.url}/api/version", headers=headers, trust_env=False, verify=False)
    assert answer.status_code == status


def test_a_stub_answers_from_outside(ollama: FakeOllama) -> None:
    """Every piece tells the cloud, and the request counts as sent out."""
    ollama.models = (FakeModel("mine:latest", remote_host="https://ollama.com:443"),)
    lines = chat(ollama, model="mine")
    assert all(line["remote_host"] == "https://ollama.com:443" for line in lines)
    assert len(ollama.sent_out) == 1
