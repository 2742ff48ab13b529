"""What is installed, as the door knows it: read in the background, and kept when the server falls silent."""

from __future__ import annotations

import threading
from contextlib import closing

from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama, Json

from aider_guard.core.traffic.kinds import DoorSettings
from aider_guard.sidecar.door.shelf import TagsShelf
from aider_guard.sidecar.ollama import OllamaClient

NO_SETTINGS = DoorSettings("", (), (), 0)
TAGS = {
    "models": [
        {"name": "here:latest", "size": 5, "details": {"format": "gguf"}},
        {"name": "mlx:latest", "size": 5, "details": {"format": "safetensors"}},
        {"name": "stub:latest", "size": 5, "remote_host": "https://ollama.com:443"},
    ]
}


def test_where_a_model_runs_and_what_is_like_it() -> None:
    """By any spelling of its name; of what is not installed nothing is known."""
    with FakeOllama() as ollama, closing(OllamaClient(ollama.url)) as client:
        ollama.answers["/api/tags"] = Json(TAGS)
        shelf = TagsShelf(client)
        shelf.read()
        assert shelf.remote_host("STUB") == "https://ollama.com:443"
        assert [shelf.remote_host(name) for name in ("here", "absent")] == ["", ""]
        assert shelf.alike("hare") == ("here:latest",)
        names = ("mlx", "here:latest", "absent")
        assert [shelf.never_truncates(name) for name in names] == [True, False, False]
        ollama.answers["/api/tags"] = Json({"error": "busy"}, 503)
        shelf.read()
        assert shelf.remote_host("stub")


def test_it_is_read_again_and_again_once_it_is_served() -> None:
    """Served twice it is still read by one thread only."""
    slept, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def sleep(_seconds: float) -> None:
        slept.release()
        go_on.acquire()

    fake = FakeOllama(models=(FakeModel("first:latest"),))
    with fake as ollama, closing(OllamaClient(ollama.url)) as client:
        shelf = TagsShelf(client, sleep=sleep)
        assert shelf.alike("first") == ()
        shelf.serve(NO_SETTINGS)
        shelf.serve(NO_SETTINGS)
        assert slept.acquire(timeout=10)
        assert shelf.alike("first") == ("first:latest",)
        ollama.models = (FakeModel("later:latest"),)
        go_on.release()
        assert slept.acquire(timeout=10)
        assert shelf.alike("later") == ("later:latest",)
        assert len([one for one in ollama.received if one.path == "/api/tags"]) == 2
