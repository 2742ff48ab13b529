"""What is installed, as the door knows it: read in the background, and asked for where a name is not known."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, closing
from dataclasses import replace

from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama, Json

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.model_info import NOT_READ, RETRY_SECONDS, InstalledModelsByServer, OllamaTags
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.installed import find_installed

CLOUD = "https://ollama.com:443"
HERE = FakeModel("here:latest")
STUB = FakeModel("stub:latest", remote_host=CLOUD)
TAGS = {
    "models": [
        {"name": "here:latest", "size": 5, "details": {"format": "gguf"}},
        {"name": "mlx:latest", "size": 5, "details": {"format": "safetensors"}},
        {"name": "stub:latest", "size": 5, "remote_host": CLOUD},
    ]
}


def where(shelf: OllamaTags, model: str) -> str | Unavailable | None:
    return asyncio.run(shelf.where(model))


def shows(ollama: FakeOllama) -> int:
    """How often it was asked about a model."""
    return len([one for one in ollama.received if one.path == "/api/show"])


def test_what_is_listed_is_known_at_once() -> None:
    """By any spelling of its name, and also when the server is busy later."""
    fake = FakeOllama(models=(HERE, STUB))
    with fake as ollama, closing(OllamaClient(ollama.url)) as client:
        shelf = OllamaTags(client)
        assert shelf.read()
        ollama.answers["/api/tags"] = Json({"error": "busy"}, 503)
        assert not shelf.read()
        assert where(shelf, "STUB") == CLOUD
        assert where(shelf, "library/here") == ""
        assert shows(ollama) == 0


def test_a_name_that_is_not_listed_is_asked_for() -> None:
    """Before the first list, and for an alias that is newer; once until the next list, if it is there at all."""
    with FakeOllama(models=(HERE, STUB)) as ollama, closing(OllamaClient(ollama.url)) as client:
        shelf = OllamaTags(client)
        assert [where(shelf, "stub") for _ in range(3)] == [CLOUD] * 3
        assert shows(ollama) == 1
        assert where(shelf, "alias") is None
        ollama.models = (HERE, STUB, replace(STUB, name="alias:latest"))
        assert where(shelf, "alias") == CLOUD
        assert shows(ollama) == 3
        assert shelf.read()
        ollama.models = (replace(HERE, name="alias:latest"),)
        assert where(shelf, "alias") == CLOUD  # as listed
        assert asyncio.run(shelf.look("alias")) == ""
        assert asyncio.run(shelf.look(" ")) is None


def test_where_the_server_does_not_say_it_is_not_known() -> None:
    """And no name of a cloud's is sent."""
    with FakeOllama() as ollama, closing(OllamaClient(ollama.url)) as client:
        ollama.answers["/api/show"] = Json({"error": "busy"}, 503)
        assert isinstance(where(OllamaTags(client), "absent"), Unavailable)
        before = shows(ollama)
        assert isinstance(where(OllamaTags(client), "x:cloud"), Unavailable)
        assert shows(ollama) == before
        ollama.stop()
        assert isinstance(where(OllamaTags(client), "absent"), Unavailable)


def test_it_is_read_again_and_again_once_it_is_begun() -> None:
    """Begun twice it is still read by one thread only; soon again where the server did not answer."""
    slept, go_on = threading.Semaphore(0), threading.Semaphore(0)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        slept.release()
        go_on.acquire()

    fake = FakeOllama(models=(FakeModel("first:latest"),))
    fake.script["/api/tags"] = [Json({"error": "starting"}, 503)]
    with fake as ollama, closing(OllamaClient(ollama.url)) as client:
        shelf = OllamaTags(client, read_seconds=30, sleep=sleep)
        shelf.begin()
        shelf.begin()
        assert slept.acquire(timeout=10)
        assert shelf.installed == NOT_READ
        for name in ("first:latest", "later:latest"):
            ollama.models = (FakeModel(name),)
            go_on.release()
            assert slept.acquire(timeout=10)
            found = find_installed(name, shelf.installed)
            assert found is not None
            assert found.name == name
        assert pauses == [RETRY_SECONDS, 30, 30]
        assert len([one for one in ollama.received if one.path == "/api/tags"]) == 3


class Parked:
    """Shelves that are read once; ``read`` is set after each reading."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.read = threading.Semaphore(0)

    def make(self, base: str) -> OllamaTags:
        client = self._stack.enter_context(closing(OllamaClient(base)))
        return OllamaTags(client, sleep=self._sleep)

    def _sleep(self, _seconds: float) -> None:
        self.read.release()
        threading.Event().wait()


def test_each_ollama_has_a_shelf_of_its_own() -> None:
    """The same name may run here on one and elsewhere on another. Of other servers nothing is known or asked."""
    first, second = FakeOllama(), FakeOllama(models=(replace(STUB, name="here:latest"),))
    with first, second, ExitStack() as stack:
        first.answers["/api/tags"] = Json(TAGS)
        one, other = (
            Upstream(path, fake.url, "ollama") for path, fake in (("", first), ("b", second))
        )
        third = Upstream("openai", f"{second.url}/v1", "openai")
        parked = Parked(stack)
        shelves = InstalledModelsByServer(parked.make)
        assert shelves.alike(one, "hare") == ()
        shelves.serve(DoorSettings("", (one, other, third), (), 0))
        assert all(parked.read.acquire(timeout=10) for _ in (one, other))
        found = [asyncio.run(shelves.where(each, "here")) for each in (one, other, third)]
        assert found == ["", CLOUD, ""]
        assert asyncio.run(shelves.look(other, "here")) == CLOUD
        assert asyncio.run(shelves.look(third, "here")) is None
        assert second.paths() == {"/api/tags", "/api/show"}
        assert shelves.alike(one, "hare") == ("here:latest",)
        assert shelves.alike(third, "hare") == ()
        names = ("mlx", "here:latest", "absent")
        truncating = [shelves.never_truncates(one, name) for name in names]
        assert truncating == [True, False, False]
