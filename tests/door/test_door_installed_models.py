"""The installed models as the door knows them: read in the background, and asked for where a name is unknown."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, closing
from dataclasses import replace

from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama, Json

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import find_installed
from aider_guard.door.model_info import NOT_READ, RETRY_SECONDS, InstalledModelsByServer, OllamaTags
from aider_guard.ollama.client import OllamaClient

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


def host_of(installed: OllamaTags, model: str) -> str | Unavailable | None:
    return asyncio.run(installed.host_of(model))


def show_requests(ollama: FakeOllama) -> int:
    """Return how many requests asked about a model."""
    return len([one for one in ollama.received if one.path == "/api/show"])


def test_what_is_listed_is_known_at_once() -> None:
    """By any spelling of its name, and also when the server is busy later."""
    fake = FakeOllama(models=(HERE, STUB))
    with fake as ollama, closing(OllamaClient(ollama.url)) as client:
        installed = OllamaTags(client)
        assert installed.read()
        ollama.answers["/api/tags"] = Json({"error": "busy"}, 503)
        assert not installed.read()
        assert host_of(installed, "STUB") == CLOUD
        assert host_of(installed, "library/here") == ""
        assert show_requests(ollama) == 0


def test_a_name_that_is_not_listed_is_asked_for() -> None:
    """Before the first list, and for an alias that is newer; once until the next list, if it is there at all."""
    with FakeOllama(models=(HERE, STUB)) as ollama, closing(OllamaClient(ollama.url)) as client:
        installed = OllamaTags(client)
        assert [host_of(installed, "stub") for _ in range(3)] == [CLOUD] * 3
        assert show_requests(ollama) == 1
        assert host_of(installed, "alias") is None
        ollama.models = (HERE, STUB, replace(STUB, name="alias:latest"))
        assert host_of(installed, "alias") == CLOUD
        assert show_requests(ollama) == 3
        assert installed.read()
        ollama.models = (replace(HERE, name="alias:latest"),)
        assert host_of(installed, "alias") == CLOUD  # as listed
        assert asyncio.run(installed.host_now("alias")) == ""
        assert asyncio.run(installed.host_now(" ")) is None


def test_where_the_server_does_not_say_it_is_not_known() -> None:
    """And no name of a cloud's is sent."""
    with FakeOllama() as ollama, closing(OllamaClient(ollama.url)) as client:
        ollama.answers["/api/show"] = Json({"error": "busy"}, 503)
        assert isinstance(host_of(OllamaTags(client), "absent"), Unavailable)
        before = show_requests(ollama)
        assert isinstance(host_of(OllamaTags(client), "x:cloud"), Unavailable)
        assert show_requests(ollama) == before
        ollama.stop()
        assert isinstance(host_of(OllamaTags(client), "absent"), Unavailable)


def test_it_is_read_again_and_again_once_it_is_begun() -> None:
    """Started twice, it is still read by one thread only, and soon again where the server did not answer."""
    slept, go_on = threading.Semaphore(0), threading.Semaphore(0)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        slept.release()
        go_on.acquire()

    fake = FakeOllama(models=(FakeModel("first:latest"),))
    fake.script["/api/tags"] = [Json({"error": "starting"}, 503)]
    with fake as ollama, closing(OllamaClient(ollama.url)) as client:
        installed = OllamaTags(client, read_seconds=30, sleep=sleep)
        installed.start()
        installed.start()
        assert slept.acquire(timeout=10)
        assert installed.installed == NOT_READ
        for name in ("first:latest", "later:latest"):
            ollama.models = (FakeModel(name),)
            go_on.release()
            assert slept.acquire(timeout=10)
            listed = find_installed(name, installed.installed)
            assert listed is not None
            assert listed.name == name
        assert pauses == [RETRY_SECONDS, 30, 30]
        assert len([one for one in ollama.received if one.path == "/api/tags"]) == 3


class Parked:
    """Makes lists that are read once; ``read`` is released after each reading."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.read = threading.Semaphore(0)

    def make(self, upstream: Upstream) -> OllamaTags:
        client = self._stack.enter_context(closing(OllamaClient(upstream.base)))
        return OllamaTags(client, sleep=self._sleep)

    def _sleep(self, _seconds: float) -> None:
        self.read.release()
        threading.Event().wait()


def test_each_ollama_has_a_list_of_its_own() -> None:
    """The same name may run here on one Ollama and remotely on another. Servers of another kind are not asked."""
    first, second = FakeOllama(), FakeOllama(models=(replace(STUB, name="here:latest"),))
    with first, second, ExitStack() as stack:
        first.answers["/api/tags"] = Json(TAGS)
        one, other = (
            Upstream(path, fake.url, "ollama") for path, fake in (("", first), ("b", second))
        )
        third = Upstream("openai", f"{second.url}/v1", "openai")
        parked = Parked(stack)
        installed_models = InstalledModelsByServer(parked.make)
        assert installed_models.similar_names(one, "hare") == ()
        installed_models.serve(DoorSettings("", (one, other, third), (), 0))
        assert all(parked.read.acquire(timeout=10) for _ in (one, other))
        listed = [
            asyncio.run(installed_models.host_of(each, "here")) for each in (one, other, third)
        ]
        assert listed == ["", CLOUD, ""]
        assert asyncio.run(installed_models.host_now(other, "here")) == CLOUD
        assert asyncio.run(installed_models.host_now(third, "here")) is None
        assert second.paths() == {"/api/tags", "/api/show"}
        assert installed_models.similar_names(one, "hare") == ("here:latest",)
        assert installed_models.similar_names(third, "hare") == ()
        names = ("mlx", "here:latest", "absent")
        truncating = [installed_models.never_truncates(one, name) for name in names]
        assert truncating == [True, False, False]
