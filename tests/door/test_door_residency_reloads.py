"""Reloads: each way a model is lost between two requests is told with its cause, and nothing else is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from door.residing import EDITOR, MAIN, OTHER, House, house
from fakes.ollama_server import FakeModel, FakeOllama

from aider_guard.core.chat.events import ModelWarmed, ReloadSeen
from aider_guard.core.events import ModelsRead
from aider_guard.core.readings import ModelsReading
from aider_guard.door.loaded_models import LoadedModels
from aider_guard.door.reload_cause import OllamaProcesses, processes
from aider_guard.ollama.server_process import find_listener
from aider_guard.proc_net import PROC

TWIN = FakeModel("twin:latest", blob="b2" * 32)
MAIN_OF_TWO = FakeModel(MAIN.name, blob=TWIN.blob, kv_bytes_per_token=1024)
MODELS = (MAIN_OF_TWO, TWIN, EDITOR, OTHER)


async def _unloaded(home: House) -> None:
    home.client.unload(MAIN.name)
    await home.reads()


async def _expired(home: House) -> None:
    home.clock.added += 3600.0
    await _unloaded(home)


async def _widened(home: House) -> None:
    runner = home.ollama.runners.get(MAIN_OF_TWO)
    assert runner is not None
    runner.window_tokens, runner.options = 32768, {"num_ctx": 32768}
    await home.reads()


async def _pushed_out(home: House) -> None:
    await _unloaded(home)
    home.ollama.loaded.append(OTHER.name)
    await home.reads()


async def _pushed_out_by_the_editor(home: House) -> None:
    home.ollama.memory_bytes = 6 * 2**30
    await home.asks(model=EDITOR.name)
    await home.settled()
    await home.reads()
    home.processes.append(OllamaProcesses(10, frozenset({10, 22})))


async def _twin(home: House) -> None:
    await _unloaded(home)
    home.ollama.loaded.append(TWIN.name)
    await home.reads()


async def _crashed(home: House) -> None:
    await home.reads()
    runner = home.ollama.runners.get(MAIN_OF_TWO)
    assert runner is not None
    home.ollama.runners.unload(runner)  # after the list was read, which had it still


async def _server_restarted(home: House) -> None:
    await _crashed(home)
    home.processes.append(OllamaProcesses(11, frozenset({11, 21})))


@pytest.mark.parametrize(
    ("loses", "words"),
    [
        (_unloaded, "it was unloaded before its time"),
        (_expired, "it was not used for 60 minutes"),
        (_widened, "another program had asked for it with a window of 32,768 tokens"),
        (_pushed_out, "llama3:70b took its place, loaded by another program"),
        (_pushed_out_by_the_editor, "editor:latest, which this session uses as well"),
        (_twin, "twin:latest runs from the same file"),
        (_crashed, "its process had ended at Ollama"),
        (_server_restarted, "Ollama itself was started again"),
    ],
)
@pytest.mark.parametrize("version", ["0.9.3", "0.15.5", "0.30.11"])
def test_each_loss_is_told_with_its_cause(
    loses: Callable[[House], object], words: str, version: str
) -> None:
    """Once, with what it cost; the request after it tells nothing."""

    async def story() -> None:
        async with house(FakeOllama(version, MODELS)) as home:
            home.processes.append(OllamaProcesses(10, frozenset({10, 20})))
            await home.asks()
            await home.settled()
            await home.reads()
            home.processes.append(OllamaProcesses(10, frozenset({10, 21})))
            await loses(home)  # type: ignore[misc]  # a coroutine
            assert await home.asks() == 1.5
            seen = await home.wait_for(ReloadSeen)
            assert (seen.model, seen.load_seconds) == (MAIN.name, 1.5)
            expected = words
            if version == "0.9.3" and loses is _widened:
                expected = "another program had asked for it with another window"  # by its size
            assert seen.cause.startswith(expected), seen.cause
            await home.asks()
            await home.settled()
            assert len(home.all(ReloadSeen)) == 1

    asyncio.run(story())


def test_a_quick_first_load_is_noted_as_well() -> None:
    """A small model from a warm disk: what its processes were is known when they are others."""

    async def story() -> None:
        async with house(FakeOllama("0.15.5", MODELS)) as home:
            slow = home.ollama.talking.speed
            home.ollama.talking.speed = replace(slow, load_seconds=0.2)
            home.processes.append(OllamaProcesses(10, frozenset({10, 20})))
            await home.asks()
            await home.settled()
            home.ollama.talking.speed = slow
            await _server_restarted(home)
            await home.asks()
            seen = await home.wait_for(ReloadSeen)
            assert seen.cause.startswith("Ollama itself was started again")

    asyncio.run(story())


def test_our_own_change_is_told_as_ours() -> None:
    """A bug in somebody's settings is not blamed on another program."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await home.asks(num_gpu=7)
            seen = await home.wait_for(ReloadSeen)
            assert (
                seen.cause
                == "this session asked for it with another num_gpu than before (none, now 7)"
            )

    asyncio.run(story())


def test_first_loads_and_those_after_our_own_unload_are_none() -> None:
    """Two requests that wait for one first load, and one after the session itself unloaded it."""

    async def story() -> None:
        async with house() as home:
            await asyncio.gather(home.asks(), home.asks())
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            assert await home.asks() == 1.5
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            await home.asks()
            await home.settled()
            assert not home.all(ReloadSeen)

    asyncio.run(story())


def test_a_request_that_waited_for_another_s_load_is_none() -> None:
    """Ollama counts it as load time; but no process was started for it."""

    async def story() -> None:
        async with house() as home:
            home.processes.append(OllamaProcesses(10, frozenset({10, 20})))
            await home.asks()
            await home.settled()
            asked = home.asked()
            await home.residency.begins(asked, home.upstream)
            home.residency.ended(asked, home.upstream, 3.0)
            await home.settled()
            assert not home.all(ReloadSeen)

    asyncio.run(story())


def test_a_request_that_ends_after_its_model_was_released_keeps_nothing() -> None:
    """The next load is no reload: the session itself had it unloaded meanwhile."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            asked = home.asked()
            await home.residency.begins(asked, home.upstream)
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.residency.ended(asked, home.upstream, 0.02)
            home.client.unload(MAIN.name)
            assert await home.asks() == 1.5
            await home.settled()
            assert not home.all(ReloadSeen)

    asyncio.run(story())


def test_lists_are_kept_as_long_as_they_differ() -> None:
    """A minute of the same list does not push out the one before it."""
    residents = LoadedModels()
    for at in range(100):
        residents.take(ModelsReading((), float(at)))
    assert residents.readings == (ModelsReading((), 99.0),)


def test_this_machine_s_processes_are_looked_at(tmp_path: Path) -> None:
    """An address on another machine has none here; a bad one has none either."""
    assert processes("http://192.0.2.1:11434") == OllamaProcesses()
    assert processes("http://127.0.0.1") == OllamaProcesses()
    (tmp_path / "net").symlink_to(PROC / "self" / "net")
    (tmp_path / str(os.getpid())).symlink_to(PROC / "self")
    # The search ends after a moment, and a busy machine with many processes takes longer: here it has this one's only.
    find = partial(find_listener, proc=tmp_path, clock=lambda: 0.0)
    with FakeOllama() as ollama:
        assert processes(ollama.url, find).server_pid == os.getpid()


def test_other_events_are_ignored() -> None:
    """The sidecar hands over whatever it reads."""

    async def story() -> None:
        async with house() as home:
            before = home.residency.version
            home.residency.observe("something else")
            home.residency.observe(ModelsRead(ModelsReading((), 0.0)))
            await asyncio.sleep(0)
            assert home.residency.version == before == "0.15.5"

    asyncio.run(story())
