"""Reloads: each way a model is lost between two requests is reported with its cause, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from door.residency_setup import EDITOR, MAIN, OTHER, ResidencySetup, in_residency, residency_setup
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


async def _unloaded(setup: ResidencySetup) -> None:
    setup.client.unload(MAIN.name)
    await setup.poll()


async def _expired(setup: ResidencySetup) -> None:
    setup.clock.added += 3600.0
    await _unloaded(setup)


async def _widened(setup: ResidencySetup) -> None:
    runner = setup.ollama.runners.get(MAIN_OF_TWO)
    assert runner is not None
    runner.window_tokens, runner.options = 32768, {"num_ctx": 32768}
    await setup.poll()


async def _pushed_out(setup: ResidencySetup) -> None:
    await _unloaded(setup)
    setup.ollama.loaded.append(OTHER.name)
    await setup.poll()


async def _pushed_out_by_the_editor(setup: ResidencySetup) -> None:
    setup.ollama.memory_bytes = 6 * 2**30
    await setup.send(model=EDITOR.name)
    await setup.settled()
    await setup.poll()
    setup.processes.append(OllamaProcesses(10, frozenset({10, 22})))


async def _twin(setup: ResidencySetup) -> None:
    await _unloaded(setup)
    setup.ollama.loaded.append(TWIN.name)
    await setup.poll()


async def _crashed(setup: ResidencySetup) -> None:
    await setup.poll()
    runner = setup.ollama.runners.get(MAIN_OF_TWO)
    assert runner is not None
    setup.ollama.runners.unload(runner)  # after the list was read, which had it still


async def _server_restarted(setup: ResidencySetup) -> None:
    await _crashed(setup)
    setup.processes.append(OllamaProcesses(11, frozenset({11, 21})))


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
def test_each_loss_is_reported_with_its_cause(
    loses: Callable[[ResidencySetup], object], words: str, version: str
) -> None:
    """Once, with its load time; the next request reports nothing."""

    async def story() -> None:
        async with residency_setup(FakeOllama(version, MODELS)) as setup:
            setup.processes.append(OllamaProcesses(10, frozenset({10, 20})))
            await setup.send()
            await setup.settled()
            await setup.poll()
            setup.processes.append(OllamaProcesses(10, frozenset({10, 21})))
            await loses(setup)  # type: ignore[misc]  # a coroutine
            assert await setup.send() == 1.5
            seen = await setup.wait_for(ReloadSeen)
            assert (seen.model, seen.load_seconds) == (MAIN.name, 1.5)
            expected = words
            if version == "0.9.3" and loses is _widened:
                expected = "another program had asked for it with another window"  # by its size
            assert seen.cause.startswith(expected), seen.cause
            await setup.send()
            await setup.settled()
            assert len(setup.all(ReloadSeen)) == 1

    asyncio.run(story())


def test_a_quick_first_load_is_noted_as_well() -> None:
    """A small model from a warm disk: what its processes were is known when they are others."""

    async def story() -> None:
        async with residency_setup(FakeOllama("0.15.5", MODELS)) as setup:
            slow = setup.ollama.talking.speed
            setup.ollama.talking.speed = replace(slow, load_seconds=0.2)
            setup.processes.append(OllamaProcesses(10, frozenset({10, 20})))
            await setup.send()
            await setup.settled()
            setup.ollama.talking.speed = slow
            await _server_restarted(setup)
            await setup.send()
            seen = await setup.wait_for(ReloadSeen)
            assert seen.cause.startswith("Ollama itself was started again")

    asyncio.run(story())


@in_residency
async def test_the_sessions_own_change_is_named_as_such(setup: ResidencySetup) -> None:
    """A change of the session's own settings is not blamed on another program."""
    await setup.send()
    await setup.send(num_gpu=7)
    seen = await setup.wait_for(ReloadSeen)
    assert seen.cause == "this session asked for it with another num_gpu than before (none, now 7)"


@in_residency
async def test_first_loads_and_those_after_our_own_unload_are_none(setup: ResidencySetup) -> None:
    """Two requests that wait for one first load, and one after the session itself unloaded it."""
    await asyncio.gather(setup.send(), setup.send())
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    assert await setup.send() == 1.5
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    await setup.send()
    await setup.settled()
    assert not setup.all(ReloadSeen)


@in_residency
async def test_a_request_that_waited_for_another_s_load_is_none(setup: ResidencySetup) -> None:
    """Ollama counts it as load time; but no process was started for it."""
    setup.processes.append(OllamaProcesses(10, frozenset({10, 20})))
    await setup.send()
    await setup.settled()
    request = setup.request()
    await setup.residency.on_request_start(request, setup.upstream)
    setup.residency.on_request_end(request, setup.upstream, 3.0)
    await setup.settled()
    assert not setup.all(ReloadSeen)


@in_residency
async def test_a_request_that_ends_after_its_model_was_released_keeps_nothing(
    setup: ResidencySetup,
) -> None:
    """The next load is no reload: the session itself had it unloaded meanwhile."""
    await setup.send()
    request = setup.request()
    await setup.residency.on_request_start(request, setup.upstream)
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.residency.on_request_end(request, setup.upstream, 0.02)
    setup.client.unload(MAIN.name)
    assert await setup.send() == 1.5
    await setup.settled()
    assert not setup.all(ReloadSeen)


def test_lists_are_kept_as_long_as_they_differ() -> None:
    """A minute of the same list does not push out the one before it."""
    loaded_models = LoadedModels()
    for at in range(100):
        loaded_models.update(ModelsReading((), float(at)))
    assert loaded_models.readings == (ModelsReading((), 99.0),)


def test_this_machine_s_processes_are_found(tmp_path: Path) -> None:
    """An address on another machine has none here; a bad one has none either."""
    assert processes("http://192.0.2.1:11434") == OllamaProcesses()
    assert processes("http://127.0.0.1") == OllamaProcesses()
    (tmp_path / "net").symlink_to(PROC / "self" / "net")
    (tmp_path / str(os.getpid())).symlink_to(PROC / "self")
    # The search ends after a moment, and a busy machine with many processes takes longer: here it has this one's only.
    find = partial(find_listener, proc=tmp_path, clock=lambda: 0.0)
    with FakeOllama() as ollama:
        assert processes(ollama.url, find).server_pid == os.getpid()


@in_residency
async def test_other_events_are_ignored(setup: ResidencySetup) -> None:
    """The sidecar passes on every event."""
    before = setup.residency.version
    setup.residency.observe("something else")
    setup.residency.observe(ModelsRead(ModelsReading((), 0.0)))
    await asyncio.sleep(0)
    assert setup.residency.version == before == "0.15.5"
