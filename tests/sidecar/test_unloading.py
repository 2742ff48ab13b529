"""Unloading: what is gone, what came back, how long it took; a fake Ollama, a stepped clock."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fakes.ollama_server import GIB, FakeModel, FakeOllama, Hang, Json

from aider_guard.core.actions import UnloadModels
from aider_guard.core.events import ModelsUnloaded
from aider_guard.core.readings import Gpu, MemoryReading, RamReading, Unavailable
from aider_guard.ollama.client import OllamaClient
from aider_guard.sidecar.unloading import STEADY_SECONDS, Unloader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ON_GPU = FakeModel("qwen3:8b", size_bytes=6 * GIB, vram_bytes=6 * GIB)
ON_CPU = FakeModel("small:latest", size_bytes=1 * GIB, vram_bytes=0)
NO_GPU = Unavailable("no GPU")


class Clock:
    """Time that passes only in sleeps."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def on_gpu(*used_bytes: int | Unavailable) -> Callable[[], MemoryReading]:
    """A memory whose GPU shows these numbers one after the other, the last for ever."""
    ram = RamReading(64 * GIB, 32 * GIB, 1 * GIB)
    cards = [Gpu(0, "card", 24 * GIB, used, ()) for used in used_bytes]
    return _in_turn(MemoryReading((card,), ram, 0.0) for card in cards)


def on_cpu(*ollama_bytes: int | Unavailable) -> Callable[[], MemoryReading]:
    """A memory without a GPU in which Ollama's processes hold these numbers, likewise."""
    rams = [RamReading(64 * GIB, 32 * GIB, held) for held in ollama_bytes]
    return _in_turn(MemoryReading(NO_GPU, ram, 0.0) for ram in rams)


def _in_turn(given: Iterable[MemoryReading]) -> Callable[[], MemoryReading]:
    readings = deque(given)
    return lambda: readings.popleft() if len(readings) > 1 else readings[0]


@contextmanager
def unloader(
    ollama: FakeOllama, memory: Callable[[], MemoryReading] | None
) -> Iterator[Callable[..., ModelsUnloaded]]:
    """What unloads models of a running fake Ollama by name."""
    with ollama:
        client = OllamaClient(ollama.url)
        clock = Clock()
        worker = Unloader(client, memory, clock, clock.sleep)
        yield lambda *names, wait_seconds=6.0: worker.unload(UnloadModels(names, wait_seconds))
        client.close()


def loaded(*models: FakeModel, **more: object) -> FakeOllama:
    """An Ollama that has these models loaded."""
    names = [model.name for model in models]
    return FakeOllama(models=models, loaded=names, **more)  # type: ignore[arg-type]  # test shorthand


def test_frees_the_gpu() -> None:
    """Freed is the difference of the card's used memory, and the wait ends when it is back."""
    memory = on_gpu(8 * GIB, 8 * GIB, 8 * GIB, 3 * GIB)
    with unloader(loaded(ON_GPU), memory) as unload:
        assert unload("qwen3:8b") == ModelsUnloaded(("qwen3:8b",), 5 * GIB, seconds=0.5)


def test_another_spelling_of_the_listed_name_is_the_model() -> None:
    """Ollama lists ``small:latest``; the session asked for it with its namespace and in other case."""
    ollama = loaded(ON_GPU, ON_CPU)
    with unloader(ollama, on_cpu(2 * GIB, 1 * GIB)) as unload:
        result = unload("library/Small")
    assert (result.names, result.problem) == (("library/Small",), "")
    assert ollama.loaded == [ON_GPU.name]


def test_less_than_estimated_is_enough_when_it_stays() -> None:
    """Ollama's estimates are too high at times: memory that stays the same for a second is back."""
    memory = on_gpu(8 * GIB, 8 * GIB, 6 * GIB)
    with unloader(loaded(ON_GPU), memory) as unload:
        result = unload("qwen3:8b")
    assert result.freed_bytes == 2 * GIB
    assert STEADY_SECONDS <= result.seconds < 2


def test_waits_no_longer_than_asked() -> None:
    """Memory that is not freed is reported as 0, after the time of the request."""
    with unloader(loaded(ON_GPU), on_gpu(8 * GIB)) as unload:
        result = unload("qwen3:8b", wait_seconds=3.0)
    assert result == ModelsUnloaded(("qwen3:8b",), 0, seconds=2.75)


def test_a_model_on_the_cpu_frees_ram() -> None:
    """Without a layer on the GPU it is Ollama's own processes that are measured."""
    memory = on_cpu(1100 * 2**20, 1100 * 2**20, 100 * 2**20)
    with unloader(loaded(ON_CPU), memory) as unload:
        result = unload("small")
    assert result == ModelsUnloaded(("small",), 1000 * 2**20, seconds=0.25)


@pytest.mark.parametrize(
    ("model", "memory", "reason"),
    [
        (ON_GPU, on_cpu(1), "no GPU"),
        (ON_GPU, on_gpu(Unavailable("not told")), "not told"),
        (ON_GPU, on_gpu(1 * GIB, Unavailable("not told")), "not told"),
        (ON_CPU, on_cpu(Unavailable("not seen")), "not seen"),
        (ON_CPU, on_cpu(1, Unavailable("not seen")), "not seen"),
        (ON_GPU, on_gpu(1 * GIB, 3 * GIB), "something else took memory meanwhile"),
        (ON_GPU, None, "Ollama runs on another machine"),
    ],
)
def test_what_was_not_measured_twice_is_unavailable(
    model: FakeModel, memory: Callable[[], MemoryReading] | None, reason: str
) -> None:
    """The model is gone all the same."""
    with unloader(loaded(model), memory) as unload:
        result = unload(model.name)
    assert result.names == (model.name,)
    assert result.freed_bytes == Unavailable(reason)
    assert result.problem == ""


def test_the_door_releases_the_models_first() -> None:
    """Before any call to Ollama, so that a load in progress cannot bring the model back."""
    with loaded(ON_GPU) as ollama:
        client = OllamaClient(ollama.url)
        calls: list[tuple[tuple[str, ...], int]] = []
        unloader = Unloader(
            client,
            on_gpu(8 * GIB, 2 * GIB),
            release=lambda names: calls.append((names, len(ollama.received))),
        )
        assert unloader.unload(UnloadModels(("qwen3:8b",))).names == ("qwen3:8b",)
        client.close()
    assert calls == [(("qwen3:8b",), 0)]


def test_at_the_end_the_models_are_unloaded_before_anything_else() -> None:
    """With no time to wait the listed models are unloaded at once, and no memory is read."""
    with loaded(ON_GPU, ON_CPU) as ollama:
        client = OllamaClient(ollama.url)
        client.loaded_models()
        request = UnloadModels((ON_GPU.name, "small"), 0.0)
        result = Unloader(client, _never).unload(request)
        client.close()
    paths = [request.path for request in ollama.received]
    assert paths == ["/api/ps", "/api/generate", "/api/generate", "/api/ps"]
    assert result.names == (ON_GPU.name, "small")
    assert result.freed_bytes == Unavailable("the memory was not measured")
    assert result.problem == ""


def _never() -> MemoryReading:
    raise AssertionError("the memory was read")


def test_a_slow_answer_for_one_model_does_not_keep_the_other() -> None:
    """Both calls are made at the same time."""
    with loaded(ON_GPU, ON_CPU) as ollama:
        ollama.script = {"/api/generate": [Hang(), None]}
        client = OllamaClient(ollama.url)
        client.loaded_models()
        result = Unloader(client, _never).unload(UnloadModels((ON_GPU.name, ON_CPU.name), 0.0))
        client.close()
    assert len(result.names) == 1
    assert len(ollama.loaded) == 1
    assert "did not answer" in result.problem


BLOB, OTHER_BLOB = "b1" * 32, "c1" * 32
USED = FakeModel("small:latest", blob=BLOB)
ALIAS = FakeModel("alias:latest", blob=BLOB)
ANOTHER = FakeModel("another:latest", blob=OTHER_BLOB)


@pytest.mark.parametrize("wait_seconds", [0.0, 6.0])
@pytest.mark.parametrize(
    ("listed", "names", "stays"),
    [
        ([ALIAS], ["small"], ["alias:latest"]),
        ([ALIAS, ANOTHER], ["small"], ["alias:latest", "another:latest"]),
        ([ALIAS, ANOTHER], ["small", "another"], ["alias:latest"]),
        ([ALIAS], ["small", "alias"], []),
        ([USED, ANOTHER], ["small"], ["another:latest"]),
        ([USED], ["small"], []),
    ],
)
def test_another_s_runner_of_the_same_file_stays(
    listed: list[FakeModel], names: list[str], stays: list[str], wait_seconds: float
) -> None:
    """Ollama keeps one for all names of a file, and lists it by the name that loaded it."""
    ollama = FakeOllama(models=(USED, ALIAS, ANOTHER), loaded=[model.name for model in listed])
    with unloader(ollama, on_gpu(8 * GIB, 1 * GIB)) as unload:
        result = unload(*names, wait_seconds=wait_seconds)
    assert ollama.loaded == stays
    kept = "small runs as alias:latest, which another program loaded"
    assert result.problem == (kept if "alias:latest" in stays else "")


def test_what_cannot_be_told_apart_from_another_s_stays() -> None:
    """No answer never causes an unload."""
    ollama = FakeOllama(models=(USED, ALIAS), loaded=[ALIAS.name])
    ollama.answers = {"/api/show": Json({"error": "server busy"}, 503)}
    with unloader(ollama, on_gpu(8 * GIB)) as unload:
        assert "server busy" in unload("small").problem
    assert ollama.loaded == [ALIAS.name]


def test_a_model_that_was_not_loaded_frees_nothing() -> None:
    """Ollama agrees at once (200), and nothing is waited for."""
    ollama = FakeOllama(models=(ON_GPU,))
    with unloader(ollama, on_gpu(8 * GIB)) as unload:
        assert unload("qwen3:8b") == ModelsUnloaded(("qwen3:8b",), 0, seconds=0.0)


def test_other_models_stay_out_of_it() -> None:
    """Another program's model that stays loaded is neither named nor waited for."""
    with unloader(loaded(ON_GPU, ON_CPU), on_cpu(2 * GIB, 1 * GIB)) as unload:
        assert unload("small:latest").names == ("small:latest",)


def test_a_busy_model_stays_listed() -> None:
    """Ollama agrees, and keeps the model until its running request ends: that is a problem."""
    with unloader(loaded(ON_GPU, keeps_loaded=True), on_gpu(8 * GIB)) as unload:
        result = unload("qwen3:8b", wait_seconds=1.0)
    assert result.names == ()
    assert result.problem == "Ollama still lists qwen3:8b"
    assert result.seconds <= 1.0


def test_problems_are_said_and_the_rest_is_done() -> None:
    """An unknown model and a cloud name do not keep the others from being unloaded."""
    ollama = loaded(ON_GPU)
    with unloader(ollama, on_gpu(8 * GIB, 1 * GIB)) as unload:
        result = unload("nope", "kimi-k2:cloud", "QWEN3:8B", "qwen3:8b")
    assert result.names == ("QWEN3:8B", "qwen3:8b")
    assert "model 'nope' not found" in result.problem
    assert "cloud" in result.problem
    assert not any(request.body == {"model": "kimi-k2:cloud"} for request in ollama.received)


def test_no_server() -> None:
    """A server that refuses everything is a problem in words."""
    ollama = loaded(ON_GPU)
    busy = Json({"error": "server busy"}, 503)
    ollama.answers = {"/api/ps": busy, "/api/generate": busy}
    with unloader(ollama, on_gpu(8 * GIB)) as unload:
        result = unload("qwen3:8b")
    assert result.names == ()
    assert isinstance(result.freed_bytes, Unavailable)
    assert "server busy" in result.problem


def test_a_hung_server_costs_about_the_time_that_was_given() -> None:
    """Each call gets what is left of the time."""
    ollama = loaded(ON_GPU)
    ollama.answers = {"/api/ps": Hang(), "/api/generate": Hang()}
    with ollama:
        client = OllamaClient(ollama.url)
        result = Unloader(client, on_gpu(8 * GIB)).unload(UnloadModels(("qwen3:8b",), 1.0))
        client.close()
    assert result.names == ()
    assert "did not answer" in result.problem
    assert 1.0 <= result.seconds < 5.0


def test_a_server_that_hangs_after_agreeing_proves_nothing() -> None:
    """Without a list there is no telling whether the model is gone."""
    ollama = loaded(ON_GPU)
    ollama.runners.on_unload = lambda _name: ollama.answers.update({"/api/ps": Json({}, 500)})
    with unloader(ollama, on_gpu(8 * GIB, 1 * GIB)) as unload:
        result = unload("qwen3:8b", wait_seconds=1.0)
    assert result.names == ()
    assert isinstance(result.freed_bytes, Unavailable)
    assert "status 500" in result.problem
