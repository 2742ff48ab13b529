"""The facts that the door asks Ollama for before it judges a prompt: once, and in bounded time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama, Json

from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.model_info import AGAIN_SECONDS, OllamaModelInfo
from aider_guard.ollama.client import ModelTraits, OllamaClient

SMALL = FakeModel("small:latest", trained_tokens=8192)
OTHER = FakeModel("other:latest", trained_tokens=2048)


def shows(ollama: FakeOllama) -> int:
    return sum(request.path == "/api/show" for request in ollama.received)


def test_a_model_is_asked_about_once() -> None:
    """By any spelling of its name; one that is not there yet is asked about again, after a while."""
    now = [100.0]

    async def story(ollama: FakeOllama, model_info: OllamaModelInfo) -> None:
        for name in ("small", "small:latest", "SMALL"):
            await model_info.learn(name, version=False)
            assert model_info.trained(name) == 8192
        assert shows(ollama) == 1
        await model_info.learn("other", version=False)
        assert isinstance(model_info.trained("other"), Unavailable)
        ollama.models = (SMALL, OTHER)
        await model_info.learn("other", version=False)
        assert shows(ollama) == 2
        now[0] += AGAIN_SECONDS
        await model_info.learn("other", version=True)
        assert model_info.trained("other") == 2048
        assert model_info.version == "0.24.0"
        asked = len(ollama.received)
        await model_info.learn("other", version=True)
        assert len(ollama.received) == asked

    with FakeOllama(version="0.24.0", models=(SMALL,)) as fake, closing(client(fake)) as asked:
        asyncio.run(story(fake, OllamaModelInfo(asked, clock=lambda: now[0])))


def test_which_models_can_think_is_known() -> None:
    """By their capabilities; of a model that was not asked about nothing is known."""
    thinker = FakeModel("thinker:latest", thinks=True)

    async def story(model_info: OllamaModelInfo) -> None:
        assert not model_info.thinks("thinker")
        for name in ("thinker", "small"):
            await model_info.learn(name, version=False)
        assert (model_info.thinks("Thinker:latest"), model_info.thinks("small")) == (True, False)

    with FakeOllama(models=(SMALL, thinker)) as fake, closing(client(fake)) as asked:
        asyncio.run(story(OllamaModelInfo(asked)))


def test_the_sessions_models_are_known_before_the_first_prompt() -> None:
    """Models of other servers are not asked about; served again, all others are asked about again."""

    async def story(ollama: FakeOllama, model_info: OllamaModelInfo) -> None:
        here, there = Upstream("", ollama.url, "ollama"), Upstream("v", "http://[::1]:9", "openai")
        roles = (DoorRole("main", "small"), DoorRole("weak", "elsewhere", "v"))
        settings = DoorSettings("t", (here, there), roles, 32_768)
        model_info.serve(settings)
        await model_info.learn("small", version=False)
        assert (model_info.trained("small"), shows(ollama)) == (8192, 1)
        ollama.models = (FakeModel("small:latest", trained_tokens=4096),)
        model_info.serve(settings)
        while model_info.trained("small") == 8192:
            await asyncio.sleep(0)
        assert (model_info.trained("small"), shows(ollama)) == (4096, 2)

    with FakeOllama(models=(SMALL,)) as fake, closing(client(fake)) as asked:
        asyncio.run(story(fake, OllamaModelInfo(asked)))


def test_a_server_that_hangs_holds_up_no_prompt() -> None:
    """Its late answer is known to the next request."""
    go_on = threading.Event()

    class Slow(OllamaClient):
        def traits(self, name: str, timeout_seconds: float | None = None) -> ModelTraits:
            del name, timeout_seconds
            assert go_on.wait(20)
            return ModelTraits(4096)

    async def story(model_info: OllamaModelInfo) -> None:
        await model_info.learn("small", version=False)
        assert isinstance(model_info.trained("small"), Unavailable)
        go_on.set()
        while isinstance(model_info.trained("small"), Unavailable):
            await model_info.learn("small", version=False)
        assert model_info.trained("small") == 4096

    with closing(Slow("http://127.0.0.1:9")) as asked:
        asyncio.run(story(OllamaModelInfo(asked, learn_seconds=0.01)))


def test_a_cloud_models_name_is_not_sent() -> None:
    """Not even in a question."""
    with FakeOllama() as fake, closing(client(fake)) as asked:
        fake.answers["/api/show"] = Json({})
        asyncio.run(OllamaModelInfo(asked).learn("big:cloud", version=False))
        assert shows(fake) == 0


def client(fake: FakeOllama) -> OllamaClient:
    return OllamaClient(fake.url)
