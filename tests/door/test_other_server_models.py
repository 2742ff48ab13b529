"""Models of servers that load on request: loaded before their prompts are judged, visibly, and unloaded at the end."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest
from core.chat.aider_prompts import message
from door.handler_services import HandlerSetup
from door.scripted import OpenDoor, door_to
from fakes.model_servers import LlamaRouter, LlamaSwap, LMStudio, Model, ModelServer
from fakes.ollama_server import FakeModel, FakeOllama

from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.events import RequestFinished, RequestRefused
from aider_guard.core.chat.request import ChatRequest, read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import ModelLoading
from aider_guard.door.model_info import InstalledModelsByServer
from aider_guard.door.other_servers import OtherServerModels
from aider_guard.door.prompt_counter import CounterProcess

Kind = TypeVar("Kind")
SECONDS = 20.0
CHAT = [message("system", "Act as an expert software developer."), message("user", "one two three")]


def other_models() -> OtherServerModels:
    """With a clock by which a quarter of a second goes by between any two looks at it."""
    return OtherServerModels(answer_seconds=SECONDS, clock=itertools.count(0.0, 0.25).__next__)


@dataclass
class World:
    """One server with two models, and what the door knows of it."""

    server: ModelServer
    window_tokens: int = 0
    models: OtherServerModels = field(default_factory=other_models)

    @property
    def upstream(self) -> Upstream:
        return Upstream("openai", f"{self.server.url}/v1", "openai")

    @property
    def settings(self) -> DoorSettings:
        role = DoorRole("editor", "small", "openai", window_tokens=self.window_tokens)
        return DoorSettings("", (self.upstream,), (role,), 0)

    def request(self, model: str = "small") -> ChatRequest:
        return read("openai_chat", {"model": model, "messages": CHAT}, self.settings, "openai")

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def story() -> Any:
            self.models.serve(self.settings)
            return await asyncio.wait_for(work(), SECONDS * 3)

        return asyncio.run(story())

    async def prepared(self, number: int = 1, model: str = "small") -> list[Any]:
        """What a request is told until it may go on; the last is None, or why it cannot."""
        told: list[Any] = []
        while True:
            step = await self.models.prepare(number, self.request(model), self.upstream)
            if not told or step != told[-1]:
                told.append(step)
            if not isinstance(step, ModelLoading):
                return told
            self.server.may_load.set()
            await asyncio.sleep(0.01)


@pytest.fixture(params=[LlamaSwap, LlamaRouter, LMStudio])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each kind of server."""
    yield from made(request.param)


def made(kind: type[ModelServer], **more: Any) -> Iterator[World]:
    """A server of a kind that takes its time to load."""
    models = [Model("small", 6144), Model("large", 2048, loaded=True)]
    with kind(models, **more) as server:
        world = World(server)
        yield world
        world.models.close()


def test_a_request_waits_until_its_model_is_loaded(world: World) -> None:
    """It is told what for, and the window is known before the prompt is judged."""
    world.server.may_load.clear()
    first, last = world.run(world.prepared)
    assert isinstance(first, ModelLoading)
    assert first.words.endswith("is loading small")
    assert last is None
    window = world.models.window(world.request(), world.upstream)
    assert window == (8192 if isinstance(world.server, LMStudio) else 6144)


def test_the_next_request_waits_for_nothing(world: World) -> None:
    """A model that is loaded is not loaded again."""
    world.run(world.prepared)
    world.models.end(1)
    assert world.run(lambda: world.prepared(2)) == [None]


def test_a_model_that_was_swapped_out_is_loaded_again(world: World) -> None:
    """Another program has taken its place meanwhile."""
    world.run(world.prepared)
    world.models.end(1)
    world.server.models[0].loaded = False
    first, last = world.run(lambda: world.prepared(2))
    assert isinstance(first, ModelLoading)
    assert last is None


def test_a_load_that_fails_is_told_once(world: World) -> None:
    """The next message has it tried again."""
    world.server.models[0].broken = True
    told = world.run(world.prepared)
    assert isinstance(told[-1], Failure)
    assert told[-1].reason in ("crashed", "memory", "unsupported")
    world.server.models[0].broken = False
    assert world.run(lambda: world.prepared(2))[-1] is None


def test_a_name_that_the_server_does_not_have_is_left_to_it(world: World) -> None:
    """Its own error is the right one."""
    assert world.run(lambda: world.prepared(model="none")) == [None]
    assert isinstance(world.models.window(world.request("none"), world.upstream), Unavailable)


def test_a_server_that_tells_nothing_is_left_alone_for_a_while(world: World) -> None:
    """Its requests are not held up by questions."""
    world.run(lambda: world.prepared(model="none"))
    asked = len(world.server.received)
    for number in (2, 3):
        assert world.run(partial(world.prepared, number, "none")) == [None]
    assert len(world.server.received) == asked


def test_prompts_are_counted_where_the_server_does(world: World) -> None:
    """Exactly, once the model is loaded; not by LM Studio, which has no way to."""
    world.run(world.prepared)
    counted = world.models.count(world.request(), world.upstream)
    texts = world.models.count_texts(world.upstream, "small", ("a b", "c"))
    if isinstance(world.server, LMStudio):
        assert isinstance(counted, Unavailable)
        assert isinstance(texts, Unavailable)
    else:
        assert counted == 4 + 6 + 4 + 3
        assert texts == (2, 1)


@pytest.fixture
def studio() -> Iterator[World]:
    """LM Studio."""
    yield from made(LMStudio)


def test_lm_studio_loads_with_the_window_of_the_session(studio: World) -> None:
    """And unloads at the end only what it loaded for it."""
    studio.window_tokens = 5120
    studio.run(studio.prepared)
    assert studio.server.models[0].window_tokens == 5120
    studio.models.close()
    assert [model.loaded for model in studio.server.models] == [False, True]


def test_lm_studio_gets_one_request_at_a_time(studio: World) -> None:
    """The second waits for the end of the first, and says so."""

    async def story() -> None:
        assert (await studio.prepared(1))[-1] is None
        second = await studio.models.prepare(2, studio.request(), studio.upstream)
        assert isinstance(second, ModelLoading)
        assert second.words == "LM Studio answers one request at a time, and has another"
        studio.models.end(1)
        assert await studio.models.prepare(2, studio.request(), studio.upstream) is None

    studio.run(story)


def test_the_main_model_is_loaded_while_the_user_types(world: World) -> None:
    """From the session's start on."""
    main = DoorRole("main", "small", "openai", window_tokens=4096)

    async def story() -> None:
        world.models.serve(replace(world.settings, roles=(main,)))
        while not world.server.models[0].loaded:
            await asyncio.sleep(0.01)

    world.run(story)


def test_a_model_is_not_loaded_twice_at_the_same_time(studio: World) -> None:
    """The session's start and its first message may come together."""
    main = DoorRole("main", "small", "openai", window_tokens=4096)
    studio.server.may_load.clear()

    async def story() -> None:
        studio.models.serve(replace(studio.settings, roles=(main,)))
        await studio.prepared()

    studio.run(story)
    assert len(studio.server.asked("/api/v1/models/load")) == 1


# Through a door.


class ToldEvents(list[Any]):
    """Events that a test can wait for: the door reports a request once its answer is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def append(self, event: Any) -> None:
        self._queue.put(event)

    def wait_for(self, kind: type[Kind]) -> Kind:
        while not isinstance(event := self._queue.get(timeout=SECONDS * 3), kind):
            pass
        return event


@dataclass
class Session:
    """A door to one server, with its own ways to count."""

    server: ModelServer
    events: ToldEvents
    door: OpenDoor

    def ask(self, content: str = "one two three", model: str = "small") -> str:
        """Send a message as Aider does, and let its model be loaded; what comes back."""
        asked = {"model": model, "messages": [message("user", content)], "stream": True}
        url = f"{self.door.base}/openai/chat/completions"
        said = b""
        with httpx.stream("POST", url, json=asked, timeout=SECONDS * 3) as answer:
            for piece in answer.iter_raw():
                said += piece
                self.server.may_load.set()
        return said.decode()


def session_on(server: ModelServer, stack: ExitStack) -> Session:
    """A session on this server, whose model is not loaded yet."""
    others = other_models()
    stack.callback(others.close)
    counter = CounterProcess(others=others, wait_seconds=SECONDS, server_seconds=SECONDS)
    stack.callback(counter.close)
    real: dict[str, Any] = {"installed": InstalledModelsByServer(others=others)}
    events = ToldEvents()
    setup = HandlerSetup(**real, counter=counter, others=others, events=events)  # type: ignore[arg-type]
    role = DoorRole("main", "small", "openai", window_tokens=96)
    bases = ("http://127.0.0.1:9", f"{server.url}/v1")
    opened = door_to(setup.handler, *bases, paths=("", "openai"), roles=(role,))
    door = stack.enter_context(opened)
    setup.settings = door.settings[-1]
    return Session(server, events, door)


@pytest.fixture(params=[LlamaSwap, LMStudio])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session on each kind of server."""
    models = [Model("small", 96), Model("far", peer="cloudy")]
    with ExitStack() as stack:
        yield session_on(stack.enter_context(request.param(models)), stack)


def test_aider_shows_what_is_waited_for(session: Session) -> None:
    """As thoughts, before the answer; the request is counted by its server where it can."""
    session.server.may_load.clear()
    said = session.ask()
    name = "llama-swap" if isinstance(session.server, LlamaSwap) else "LM Studio"
    thoughts, is_there, rest = said.partition(f"aider-guard: waiting: {name} is loading small")
    assert is_there
    assert "reasoning_content" in thoughts
    assert "It is." in rest
    finished = session.events.wait_for(RequestFinished)
    assert (finished.outcome, finished.window_tokens) == ("answered", 96)
    counted = "server" if isinstance(session.server, LlamaSwap) else "estimate"
    assert finished.counted_by == counted


def test_a_prompt_that_is_too_large_is_refused_with_what_helps_there(session: Session) -> None:
    """Not with a setting of the guard's that changes nothing."""
    said = session.ask("word " * 300)
    refused = session.events.wait_for(RequestRefused)
    assert (refused.reason, refused.window_tokens) == ("overflow", 96)
    assert not session.server.asked("/v1/chat/completions")
    helps = "in the cmd of small" if isinstance(session.server, LlamaSwap) else "lms unload small"
    assert helps in said


def test_a_peers_model_is_refused() -> None:
    """Its requests would go to another server than the one that the user named."""
    with ExitStack() as stack:
        server = stack.enter_context(LlamaSwap([Model("small"), Model("far", peer="cloudy")]))
        session = session_on(server, stack)
        said = session.ask(model="far")
        assert session.events.wait_for(RequestRefused).reason == "cloud"
        assert not server.asked("/v1/chat/completions")
    assert "cloudy, a peer of llama-swap" in said


def test_the_first_prompt_for_ollamas_own_v1_is_judged() -> None:
    """By the window with which Ollama itself loads the model, which is not fixed there."""
    models = (FakeModel("small:latest"),)
    with ExitStack() as stack:
        ollama = stack.enter_context(FakeOllama("0.33.0", models))
        others, events = other_models(), ToldEvents()
        stack.callback(others.close)
        setup = HandlerSetup(others=others, events=events)  # type: ignore[arg-type]
        roles = (DoorRole("main", "small", "v1"),)
        door = stack.enter_context(door_to(setup.handler, ollama.url, roles=roles))
        setup.settings = door.settings[-1]
        asked = {"model": "small", "messages": [message("user", "word " * 60_000)], "stream": True}
        said = httpx.post(f"{door.base}/v1/chat/completions", json=asked, timeout=SECONDS * 3).text
        refused = events.wait_for(RequestRefused)
        assert ollama.loaded == ["small:latest"]
        paths = [one.path for one in ollama.received]
    assert "aider-guard: waiting: Ollama is loading small" in said
    assert "--model ollama_chat/small" in said
    assert (refused.reason, refused.window_tokens) == ("overflow", ollama.models[0].window_tokens)
    assert "/v1/chat/completions" not in paths
