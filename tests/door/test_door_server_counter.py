"""Ollama counts its own prompts: what it and the process of its model are asked, and when neither is asked anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.ollama_models import CHATML
from fakes.ollama_server import FakeModel, FakeOllama, Hang, Json
from fakes.vocabulary import tiny

from aider_guard.core.chat.request import read
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import RequestTarget
from aider_guard.door.prompt_counter import CounterProcess
from aider_guard.door.server_counter import (
    AGAIN_SECONDS,
    KNOWN_SECONDS,
    RenderedPrompt,
    ServerCounter,
)
from aider_guard.ollama.model_process import NO_PROCESS, STARTING, ModelProcess

WINDOW = 4096
TEXT = "<bos>the system\nthe log\n"
MESSAGES = [
    {"role": "system", "content": "the system"},
    {"role": "user", "content": "the log "},
]
BODY = {"model": "exact", "messages": MESSAGES, "stream": True, "options": {"num_gpu": 7}}
NOT_READ = Unavailable("not read")


@dataclass
class CountingServer:
    """An Ollama, the process of its only model, and the counter that asks both."""

    ollama: FakeOllama
    child: FakeOllama
    now: float = 1000.0
    process: ModelProcess | Unavailable = NOT_READ
    lookups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ollama.answers["/api/chat"] = rendering(TEXT)
        self.child.answers["/props"] = Json(
            {"bos_token": "<bos>", "default_generation_settings": {}}
        )
        self.child.answers["/tokenize"] = Json({"tokens": [1, 1, 5, 6, 7]})
        self.process = process_at(self.child.port)
        self.counter = ServerCounter(
            find=self.find, answer_seconds=0.5, clock=lambda: self.now + time.monotonic()
        )
        upstream = Upstream("", self.ollama.url, "ollama")
        self.settings = DoorSettings("t", (upstream,), (DoorRole("main", "exact"),), WINDOW)
        self.target = RequestTarget(upstream, "0.33.0", WINDOW, NOT_READ)

    def find(self, _base: str, digest: str) -> ModelProcess | Unavailable:
        """Return the process."""
        self.lookups.append(digest)
        return self.process

    def render(self, path: str = "chat", **changed: Any) -> RenderedPrompt | Unavailable:
        """Ask about a prompt."""
        request = read(path, {**BODY, **changed}, self.settings, "")  # type: ignore[arg-type]
        return self.counter.render(request, self.target, self.settings)

    def asked(self) -> list[str]:
        """Return the paths that were asked for a text or for tokens."""
        paths = [one.path for one in (*self.ollama.received, *self.child.received)]
        return [path for path in paths if path not in ("/api/show", "/props")]


def rendering(text: str) -> Json:
    """As Ollama answers ``_debug_render_only``."""
    message = {"role": "", "content": ""}
    return Json({"model": "exact", "message": message, "_debug_info": {"rendered_template": text}})


def process_at(port: int, window: int = WINDOW) -> ModelProcess:
    """A process that runs: this one."""
    own = psutil.Process()
    started_at, parent_pid = own.create_time(), own.ppid()
    return ModelProcess(os.getpid(), started_at, parent_pid, "127.0.0.1", port, window, "e" * 64)


@pytest.fixture
def server() -> Iterator[CountingServer]:
    """With one model."""
    model = FakeModel("exact:latest", vocabulary=tiny(), template=CHATML, blob="e" * 64)
    with FakeOllama(models=(model,)) as ollama, FakeOllama() as child:
        server = CountingServer(ollama, child)
        with contextlib.closing(server.counter):
            yield server


def test_ollama_renders_and_the_process_counts(server: CountingServer) -> None:
    """With the request's own options and the pin, or the model would be loaded anew; and nothing is dropped."""
    assert server.render() == RenderedPrompt(TEXT, 4)
    (rendered,) = [one.body for one in server.ollama.received if one.path == "/api/chat"]
    assert rendered == {
        **BODY,
        "stream": False,
        "truncate": False,
        "keep_alive": "30m",
        "_debug_render_only": True,
        "options": {"num_gpu": 7, "num_ctx": WINDOW, "num_predict": 1},
    }
    (counted,) = [one.body for one in server.child.received if one.path == "/tokenize"]
    assert counted == {"content": TEXT, "add_special": True, "parse_special": True}


@pytest.mark.parametrize(
    ("text", "tokens", "count"),
    [
        ("<bos>a", [1, 1, 5], 2),
        ("<bos>a", [1, 5], 2),
        ("a a", [5, 5], 2),
        ("", [1], 1),
        ("", [], 0),
    ],
)
def test_a_first_token_counts_once(
    server: CountingServer, text: str, tokens: list[int], count: int
) -> None:
    """Ollama takes it out of the text where the tokeniser adds it."""
    server.ollama.answers["/api/chat"] = rendering(text)
    server.child.answers["/tokenize"] = Json({"tokens": tokens})
    rendered = server.render()
    assert isinstance(rendered, RenderedPrompt)
    assert rendered.tokens == count


@pytest.mark.parametrize(
    ("text", "is_partial"),
    [(TEXT, False), ("the log", True), ("the system the logs", False), ("the system", True)],
)
def test_a_template_that_leaves_messages_out_is_noticed(
    server: CountingServer, text: str, is_partial: bool
) -> None:
    """Blanks around a text do not count: templates take them away."""
    server.ollama.answers["/api/chat"] = rendering(text)
    rendered = server.render()
    assert isinstance(rendered, RenderedPrompt)
    assert rendered.is_partial == is_partial


def test_a_model_that_is_being_loaded_is_not_asked_for(server: CountingServer) -> None:
    """Its process says so; as soon as it is there, it counts."""
    server.child.answers["/props"] = Json({"error": {"message": "Loading model"}}, 503)
    server.target = replace(server.target, loaded_tokens=WINDOW)  # as it was read a moment ago
    assert server.render() == Unavailable("the model is being loaded")
    server.process = NO_PROCESS
    assert server.render() == NO_PROCESS
    assert server.asked() == []
    server.process = process_at(server.child.port)
    server.child.answers["/props"] = Json({})
    assert isinstance(server.render(), RenderedPrompt)


def test_a_model_with_another_window_is_not_asked_for(server: CountingServer) -> None:
    """It would be loaded anew."""
    server.process = process_at(server.child.port, WINDOW - 1)
    assert server.render() == Unavailable("the model is not loaded as the request needs it")
    assert server.asked() == []


@pytest.mark.parametrize(
    ("version", "loaded", "renders"),
    [
        ("0.12.6", WINDOW, True),
        ("0.33.0", WINDOW, True),
        ("0.12.5", WINDOW, False),
        ("0.0.0", WINDOW, False),
        (NOT_READ, WINDOW, False),
        ("0.33.0", WINDOW * 2, False),
        ("0.33.0", NOT_READ, False),
    ],
)
def test_without_a_process_ollama_only_renders(
    server: CountingServer, version: str | Unavailable, loaded: int | Unavailable, renders: bool
) -> None:
    """Where it can and drops nothing, and where the model is known to be loaded with the request's window."""
    server.process = Unavailable("in a container")
    server.target = replace(server.target, version=version, loaded_tokens=loaded)
    rendered = server.render()
    if renders:
        assert isinstance(rendered, RenderedPrompt)
        assert (rendered.text, isinstance(rendered.tokens, Unavailable)) == (TEXT, True)
    assert server.asked() == (["/api/chat"] if renders else [])


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("openai_chat", {}),
        ("chat", {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}),
        ("generate", {"prompt": "a", "images": ["aGk="]}),
    ],
)
def test_what_is_no_text_of_ollamas_is_not_asked(
    server: CountingServer, path: str, changed: dict[str, Any]
) -> None:
    """Another protocol's prompts, and pictures."""
    assert isinstance(server.render(path, **changed), Unavailable)
    assert server.asked() == []


def test_without_a_fixed_window_nothing_is_asked(server: CountingServer) -> None:
    """The server's own could be another than the one with which the model is loaded."""
    server.settings = replace(server.settings, window_tokens=0)
    assert isinstance(server.render(), Unavailable)
    assert server.asked() == []


def test_a_process_that_hangs_is_left_alone_for_a_while(server: CountingServer) -> None:
    """The text is there all the same."""
    server.child.answers["/tokenize"] = Hang()
    for paths, later in ((2, AGAIN_SECONDS - 1), (3, 1.0)):
        rendered = server.render()
        assert isinstance(rendered, RenderedPrompt)
        assert isinstance(rendered.tokens, Unavailable)
        assert len(server.asked()) == paths
        server.now += later
    server.child.answers["/tokenize"] = Json({"tokens": [1]})
    assert server.render() == RenderedPrompt(TEXT, 1)


@pytest.mark.parametrize(
    ("answer", "comes_back"),
    [(Hang(), True), (Json({"error": "busy"}, 503), True), (Json({"message": {}}), False)],
)
def test_an_ollama_that_does_not_render_is_left_alone(
    server: CountingServer, answer: Any, comes_back: bool
) -> None:
    """For a while; and for ever if it is another program, which has generated."""
    server.ollama.answers["/api/chat"] = answer
    for _ in range(2):
        assert isinstance(server.render(), Unavailable)
    assert server.asked() == ["/api/chat"]
    server.ollama.answers["/api/chat"] = rendering(TEXT)
    server.now += AGAIN_SECONDS
    assert isinstance(server.render(), RenderedPrompt) == comes_back


def test_a_process_is_looked_for_again_when_it_ended(server: CountingServer) -> None:
    """Another one has another port; and another file is looked for when the name has one."""
    server.render()
    server.render()
    assert len(server.lookups) == 1
    assert isinstance(server.process, ModelProcess)
    server.process = replace(server.process, started_at=1.0)
    server.counter.loaded_model(
        server.ollama.url, "other"
    )  # is not installed, and nothing is kept of it
    server.now += KNOWN_SECONDS
    server.ollama.models = (replace(server.ollama.models[0], blob="f" * 64),)
    server.render()
    server.render()  # the one that was found does not run
    assert server.lookups == ["e" * 64, "f" * 64, "f" * 64]


@pytest.mark.parametrize(
    ("version", "lookups"),
    [("0.24.0", 0), ("0.9.3", 0), ("0.33.0", 1), (NOT_READ, 1), ("0.0.0", 1)],
)
def test_an_older_ollamas_processes_are_not_looked_for(
    server: CountingServer, version: str | Unavailable, lookups: int
) -> None:
    """It has none that count."""
    server.target = replace(server.target, version=version)
    server.render()
    assert len(server.lookups) == lookups


def test_what_hides_all_processes_is_taken_to_last_for_a_while(server: CountingServer) -> None:
    """That takes some hundredths of a second; whether a model is loaded, or its process listens, changes any moment."""
    for reason, lookups in ((NO_PROCESS, 2), (STARTING, 4), (Unavailable("in a container"), 5)):
        server.process = reason
        for _ in range(2):
            assert server.render() == reason
        assert len(server.lookups) == lookups
    server.process = process_at(server.child.port)
    server.now += AGAIN_SECONDS
    assert server.render() == RenderedPrompt(TEXT, 4)


def test_texts_are_counted_once(server: CountingServer) -> None:
    """Without what is put before a prompt."""
    server.child.answers["/tokenize"] = Json({"tokens": [5, 6]})
    for texts, questions in ((("a", "b", "a"), 2), (("b", "c"), 3)):
        assert server.counter.count_texts(server.ollama.url, "exact", texts) == (2,) * len(texts)
        assert len(server.asked()) == questions
    assert {one.body["add_special"] for one in server.child.received if one.body} == {False}
    server.process = NOT_READ
    assert isinstance(
        server.counter.count_texts("http://192.0.2.1:1", "exact", ("a",)), Unavailable
    )


# The door's counter, which asks the server first.


@pytest.fixture
def counter(server: CountingServer, tmp_path: Path) -> Iterator[CounterProcess]:
    """A counter that asks this server."""
    counter = CounterProcess(
        vocabularies=str(tmp_path / "vocabularies"), wait_seconds=20, server=server.counter
    )
    with contextlib.closing(counter):
        counter.serve(server.settings)
        yield counter


def count(counter: CounterProcess, server: CountingServer) -> Count:
    """Count the prompt."""
    request = read("chat", BODY, server.settings, "")
    counted = asyncio.run(counter.count(request, server.target))
    assert isinstance(counted, Count)
    return counted


def test_the_servers_count_is_exact(counter: CounterProcess, server: CountingServer) -> None:
    """Also that of a text; and what was counted is known to fit from then on."""
    counted = count(counter, server)
    assert (counted, counted.counted_by) == (Count(4, exact=True), "server")
    texts = asyncio.run(counter.count_texts("exact", ("the system", "the log "), server.target))
    assert texts == (5, 5)


def test_a_rendered_text_is_counted_by_the_vocabulary(
    counter: CounterProcess, server: CountingServer
) -> None:
    """Where no process is there to count it."""
    server.process = Unavailable("in a container")
    server.target = replace(server.target, loaded_tokens=WINDOW)
    counted = count(counter, server)
    assert (counted, counted.counted_by) == (
        Count(len(tiny().encode(TEXT)), exact=True),
        "rendered",
    )
    server.ollama.answers["/api/chat"] = rendering("the log")
    assert count(counter, server) == Count(
        len(tiny().encode("the log")), exact=True, is_partial=True
    )


def test_where_nothing_can_be_asked_it_is_counted_here(
    counter: CounterProcess, server: CountingServer
) -> None:
    """By the model's template and vocabulary, as before; also where Ollama renders no more."""
    server.process = Unavailable("in a container")
    counted = count(counter, server)
    assert (counted.exact, counted.counted_by) == (True, "vocabulary")
    server.process = process_at(server.child.port)
    server.ollama.answers["/api/chat"] = Hang()
    assert count(counter, server) == counted


def test_the_end_may_come_in_the_middle_of_a_question(
    counter: CounterProcess, server: CountingServer
) -> None:
    """A question to a server, and one that a key at the prompt has begun, end in order."""
    counted = count(counter, server)
    server.counter.close()
    assert count(counter, server).counted_by == "vocabulary"
    counter.wake()
    assert counted.counted_by == "server"
