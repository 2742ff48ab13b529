"""The residency: models are loaded ahead and kept between requests, and never push out another program's."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from door.residency_setup import (
    CLOUD,
    EDITOR,
    MAIN,
    MAP,
    MODELS,
    OTHER,
    QUESTION,
    STUB,
    SYSTEM,
    WINDOW_TOKENS,
    ResidencySetup,
    in_residency,
    residency_setup,
    until,
)
from fakes.answering import Hang, Json
from fakes.ollama_server import FakeOllama

from aider_guard.core.chat.events import ModelWarmed, ReloadSeen
from aider_guard.core.chat.types import DoorRole, RunnerOption, Upstream
from aider_guard.core.events import ModelsRead
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.door.residency import AWAY_SECONDS, RENEW_SECONDS


@in_residency
async def test_the_first_request_finds_its_model_loaded(setup: ResidencySetup) -> None:
    """An empty request with the pin loads it; the list from before is reported first; the request loads nothing."""
    setup.residency.warm()
    warmed = await setup.wait_for(ModelWarmed)
    assert (warmed.model, warmed.kind, warmed.problem) == (MAIN.name, "load", "")
    assert warmed.seconds > 0
    before = setup.seen[0]
    assert isinstance(before, ModelsRead)
    assert isinstance(before.reading, ModelsReading)
    assert before.reading.models == ()
    await until(lambda: len(setup.loads()) == 2)
    first, second = setup.loads()
    assert first["options"] == second["options"] == {"num_ctx": WINDOW_TOKENS}
    assert (first["keep_alive"], second["keep_alive"]) == ("2m", "30m")
    assert await setup.send() < 0.1
    await setup.poll()
    assert setup.residency.loaded_window(MAIN.name) == WINDOW_TOKENS
    assert not setup.all(ReloadSeen)


@pytest.mark.parametrize(
    ("loaded", "main", "reason"),
    [
        ([OTHER.name], MAIN.name, "llama3:70b is loaded already, by another program"),
        ([MAIN.name], MAIN.name, "with a window of its own"),
        ([], CLOUD.name, "is a cloud model"),
        ([], STUB.name, "runs on https://ollama.com:443, not here"),
        ([], "nope", "nope is not installed"),
    ],
)
def test_nothing_is_loaded_where_it_must_not(loaded: list[str], main: str, reason: str) -> None:
    """Other programs' models stay, and remote models are not loaded; the reason is reported."""

    async def story() -> None:
        ollama = FakeOllama(models=MODELS, loaded=loaded, memory_bytes=6 * 2**30)
        async with residency_setup(ollama, roles=[("main", main)]) as setup:
            setup.residency.warm()
            warmed = await setup.wait_for(ModelWarmed)
            assert reason in warmed.problem
            assert setup.loads() == []
            assert setup.ollama.sent_out == []
            assert setup.ollama.loaded == loaded

    asyncio.run(story())


def test_a_model_whose_window_is_not_told_is_left_alone() -> None:
    """Before 0.10 nothing says that it is another than ours; it is not said either."""

    async def story() -> None:
        ollama = FakeOllama("0.9.3", models=MODELS, loaded=[MAIN.name])
        async with residency_setup(ollama) as setup:
            setup.residency.warm()
            warmed = await setup.wait_for(ModelWarmed)
            assert warmed.problem == (
                "qwen3:8b is loaded already, and Ollama does not tell with which window"
            )
            assert setup.loads() == []

    asyncio.run(story())


def test_a_model_that_is_there_with_our_window_is_not_loaded() -> None:
    """It does not matter which program loaded it."""

    async def story() -> None:
        model = type(MAIN)(MAIN.name, window_tokens=WINDOW_TOKENS)
        ollama = FakeOllama(models=(model,), loaded=[MAIN.name])
        async with residency_setup(ollama) as setup:
            setup.residency.warm()
            assert await setup.wait_for(ModelWarmed) == ModelWarmed(MAIN.name, "load")
            assert setup.loads() == []

    asyncio.run(story())


@in_residency
async def test_a_server_that_does_not_answer_is_a_problem_in_words(setup: ResidencySetup) -> None:
    """Nothing is loaded blindly."""
    setup.ollama.answers["/api/ps"] = Json({"error": "server busy"}, 503)
    setup.residency.warm()
    assert "server busy" in (await setup.wait_for(ModelWarmed)).problem
    setup.ollama.answers = {"/api/generate": Json({"error": "no memory"}, 500)}
    setup.residency.warm()
    assert "no memory" in (await setup.wait_for(ModelWarmed, 2)).problem


@in_residency
async def test_other_models_of_the_session_are_no_obstacle(setup: ResidencySetup) -> None:
    """The session loaded them itself."""
    await setup.send(QUESTION, model=EDITOR.name)
    setup.residency.warm()
    assert (await setup.wait_for(ModelWarmed)).problem == ""
    assert setup.ollama.loaded == [EDITOR.name, MAIN.name]


def test_a_model_that_an_earlier_sidecar_loaded_is_no_obstacle() -> None:
    """The guard remembers it."""

    async def story() -> None:
        async with residency_setup(FakeOllama(models=MODELS, loaded=[EDITOR.name])) as setup:
            setup.residency.warm()
            assert "by another program" in (await setup.wait_for(ModelWarmed)).problem
            setup.residency.warm(("editor",))
            assert (await setup.wait_for(ModelWarmed, 2)).problem == ""
            assert setup.ollama.loaded == [EDITOR.name, MAIN.name]

    asyncio.run(story())


@in_residency
async def test_options_of_the_runner_are_those_of_the_last_request(setup: ResidencySetup) -> None:
    """Any other option would have the model loaded again."""
    await setup.send(num_gpu=20, temperature=1)
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    assert setup.loads()[-1]["options"] == {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
    assert await setup.send(num_gpu=20) < 0.1
    assert not setup.all(ReloadSeen)


@in_residency
async def test_the_users_own_options_are_those_of_the_first_load(setup: ResidencySetup) -> None:
    """Or the first request would have the model loaded a second time."""
    (main, *others) = setup.settings.roles
    main = replace(main, runner_options=(RunnerOption("num_gpu", 20),))
    setup.residency.serve(replace(setup.settings, roles=(main, *others)))
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    assert setup.loads()[0]["options"] == {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
    assert await setup.send(num_gpu=20) < 0.1


@in_residency
async def test_the_head_is_evaluated_ahead_after_an_unload(setup: ResidencySetup) -> None:
    """In pieces, each with the beginning of the last request's text; then the real one has little to read."""
    await setup.send(SYSTEM, *MAP, QUESTION)
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    head = await setup.wait_for(ModelWarmed, 2)
    assert (head.kind, head.problem) == ("head", "")
    assert head.tokens > 500
    whole, *pieces = [body for body in setup.ollama.chats if "messages" in body]
    assert all(piece["options"]["num_predict"] == 1 for piece in pieces)
    lengths = [_length(piece) for piece in pieces]
    assert lengths == sorted(set(lengths))
    fixed = _length(whole) - len(QUESTION[1])
    assert lengths[-1] == fixed
    assert [one["content"] for one in pieces[-1]["messages"]] == [
        *(one["content"] for one in whole["messages"][:-1]),
        ".",
    ]


def _length(body: dict[str, Any]) -> int:
    return sum(len(one["content"]) for one in body["messages"] if one["content"] != ".")


@in_residency
async def test_the_head_is_sent_with_the_pin_of_the_next_launch(setup: ResidencySetup) -> None:
    """A window that changed with the restart loads the model once, not twice."""
    await setup.send()
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.residency.serve(replace(setup.settings, window_tokens=4096))
    setup.residency.warm()
    assert (await setup.wait_for(ModelWarmed, 2)).problem == ""
    sent = [*setup.loads(), *setup.ollama.chats[1:]]
    assert {body["options"]["num_ctx"] for body in sent} == {4096}


@in_residency
async def test_the_head_of_another_model_is_not_evaluated(setup: ResidencySetup) -> None:
    """It would be loaded by the way."""
    await setup.send()
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    roles = (DoorRole("main", EDITOR.name),)
    setup.residency.serve(replace(setup.settings, roles=roles))
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    await setup.settled()
    assert len(setup.ollama.chats) == 1
    assert setup.ollama.loaded == [EDITOR.name]


@in_residency
async def test_nothing_is_evaluated_where_it_is_still_in_the_cache(setup: ResidencySetup) -> None:
    """A shorter prompt would cut back what the last request left."""
    await setup.send()
    await setup.poll()
    setup.residency.warm()
    assert await setup.wait_for(ModelWarmed) == ModelWarmed(MAIN.name, "load")
    await setup.settled()
    await setup.send()
    assert len(setup.ollama.chats) == 2


@in_residency
async def test_a_real_request_ends_the_evaluation(setup: ResidencySetup) -> None:
    """Its connection is closed before the request may go on, which is not waited for as long as it hangs."""
    await setup.send()
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.ollama.answers["/api/chat"] = Hang()
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)
    await until(lambda: len(setup.ollama.chats) == 2)
    request = setup.request()
    began = time.monotonic()
    await setup.residency.on_request_start(request, setup.upstream)
    assert time.monotonic() - began < 20  # milliseconds here; for ever, if it was waited for
    head = setup.all(ModelWarmed)[1]
    assert (head.kind, bool(head.problem)) == ("head", True)
    await until(lambda: len(setup.ollama.cancelled) == 1)
    setup.residency.on_request_end(request, setup.upstream, 0.02)
    del setup.ollama.answers["/api/chat"]
    assert len(setup.ollama.chats) == 2


@in_residency
async def test_a_request_for_the_model_that_is_being_loaded_joins_the_load(
    setup: ResidencySetup,
) -> None:
    """Ollama would begin anew if the first client closed its connection; no head is evaluated then."""
    await setup.send()
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.ollama.talking.speed = type(setup.ollama.talking.speed)(share=0.2)
    setup.residency.warm()
    await until(setup.loads)
    await setup.send()
    assert (await setup.wait_for(ModelWarmed)).problem == ""
    assert setup.ollama.cancelled == []
    await setup.settled()
    assert len(setup.ollama.chats) == 2
    assert not setup.all(ReloadSeen)


@in_residency
async def test_a_prompt_waits_for_the_load_of_its_model(setup: ResidencySetup) -> None:
    """Before it is a request; for no other load, and no head is evaluated after it."""
    await setup.send()
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    setup.client.unload(MAIN.name)
    setup.ollama.talking.speed = type(setup.ollama.talking.speed)(share=0.2)
    setup.residency.warm()
    await until(setup.loads)
    wait, request = setup.residency.wait_for_load, setup.request()
    assert not await wait(setup.request(model=EDITOR.name), setup.upstream)
    assert not await wait(setup.request(num_gpu=3), setup.upstream)
    assert not await wait(request, replace(setup.upstream, path="other"))
    assert await wait(request, setup.upstream)
    assert (await setup.wait_for(ModelWarmed)).problem == ""
    assert not await wait(request, setup.upstream)
    await setup.settled()
    assert len(setup.ollama.chats) == 1


@in_residency
async def test_a_request_that_joins_the_load_of_a_lost_model_is_no_reload(
    setup: ResidencySetup,
) -> None:
    """This session started the load that the request waits for."""
    await setup.send()
    setup.client.unload(MAIN.name)
    setup.ollama.talking.speed = type(setup.ollama.talking.speed)(share=0.2)
    setup.residency.warm()
    await until(setup.loads)
    request = setup.request()
    await setup.residency.on_request_start(request, setup.upstream)
    setup.residency.on_request_end(request, setup.upstream, 0.9)  # what was left of the load
    await setup.settled()
    assert not setup.all(ReloadSeen)


@pytest.mark.parametrize("change", [{"model": EDITOR.name}, {"num_gpu": 3}])
@in_residency
async def test_a_request_for_something_else_ends_the_load(
    setup: ResidencySetup, change: dict[str, Any]
) -> None:
    """Background work makes way for requests."""
    setup.ollama.answers["/api/generate"] = Hang()
    setup.residency.warm()
    await until(setup.loads)
    await setup.send(QUESTION, **change)
    assert (await setup.wait_for(ModelWarmed)).problem
    assert len(setup.ollama.cancelled) == 1


@in_residency
async def test_a_request_that_is_given_up_while_it_waits_is_forgotten(
    setup: ResidencySetup,
) -> None:
    """It neither runs nor keeps the next warming away."""
    setup.ollama.answers["/api/generate"] = Hang()
    setup.residency.warm()
    await until(setup.loads)
    waiting = asyncio.ensure_future(
        setup.residency.on_request_start(setup.request(model=EDITOR.name), setup.upstream)
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    setup.ollama.answers.clear()
    await until(lambda: setup.all(ModelWarmed))
    setup.residency.warm()
    assert (await setup.wait_for(ModelWarmed, 2)).problem == ""


@in_residency
async def test_nothing_is_warmed_while_a_request_runs(setup: ResidencySetup) -> None:
    """Its model is loaded."""
    request = setup.request()
    await setup.residency.on_request_start(request, setup.upstream)
    setup.residency.warm()
    assert (await setup.wait_for(ModelWarmed)).problem
    setup.residency.on_request_end(request, setup.upstream, Unavailable("cancelled"))
    setup.residency.warm()
    assert (await setup.wait_for(ModelWarmed, 2)).problem == ""


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_other_servers_are_left_alone(kind: Any) -> None:
    """Only the session's Ollama loads and keeps models; not for a model of that name on another server."""

    async def story() -> None:
        async with residency_setup(roles=[("editor", EDITOR.name)]) as setup:
            other = Upstream("other", "http://127.0.0.1:1", kind)
            setup.residency.serve(
                replace(
                    setup.settings,
                    upstreams=(setup.upstream, other),
                    roles=(DoorRole("main", MAIN.name, other.path),),
                )
            )
            request = setup.request()
            await setup.residency.on_request_start(request, other)
            setup.residency.on_request_end(request, other, 9.0)
            await _idle(setup, RENEW_SECONDS + 1)
            setup.residency.warm()
            assert not setup.residency._tasks.busy
            assert setup.seen == []
            assert setup.loads() == []

    asyncio.run(story())


async def _idle(setup: Any, seconds: float) -> None:
    setup.clock.added += seconds
    await setup.poll()
    await setup.settled()


@in_residency
async def test_a_loaded_model_is_kept_between_requests(setup: ResidencySetup) -> None:
    """An empty request with the same options every ten minutes; none before; none over night."""
    await setup.send(num_gpu=20)
    await setup.poll()
    await _idle(setup, RENEW_SECONDS - 10)
    assert setup.loads() == []
    await _idle(setup, 11)
    await until(setup.loads)
    expected = {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
    assert setup.loads()[0]["options"] == expected
    assert setup.loads()[0]["keep_alive"] == "30m"
    await _idle(setup, RENEW_SECONDS)
    await until(lambda: len(setup.loads()) == 2)
    await _idle(setup, AWAY_SECONDS)
    assert len(setup.loads()) == 2


@in_residency
async def test_nothing_is_renewed_while_a_request_runs(setup: ResidencySetup) -> None:
    """It renews the stay itself, and is not delayed."""
    await setup.send()
    await setup.poll()
    request = setup.request()
    await setup.residency.on_request_start(request, setup.upstream)
    await _idle(setup, RENEW_SECONDS + 1)
    assert setup.loads() == []
    setup.residency.on_request_end(request, setup.upstream, Unavailable("cancelled"))
    await _idle(setup, 1)
    await until(setup.loads)


@in_residency
async def test_how_a_model_is_listed_is_learned_from_lists_after_its_load(
    setup: ResidencySetup,
) -> None:
    """An older list may have the window of before, and a new pin has a window of its own."""
    await setup.send()
    older = LoadedModel(MAIN.name, "", 1, 1, 32768)
    setup.residency.observe(ModelsRead(ModelsReading((older,), taken_at=0.0)))
    await setup.poll()
    await _idle(setup, RENEW_SECONDS + 1)
    assert len(setup.loads()) == 1
    setup.settings = replace(setup.settings, window_tokens=4096)
    setup.residency.serve(setup.settings)
    await setup.send()
    await setup.poll()
    await _idle(setup, RENEW_SECONDS + 1)
    assert len(setup.loads()) == 2


@pytest.mark.parametrize("why", ["gone", "another window", "unloaded by us", "user's own"])
def test_only_what_is_still_ours_is_kept(why: str) -> None:
    """Keeping never loads anything."""

    async def story() -> None:
        async with residency_setup(user_keep_alive=why == "user's own") as setup:
            await setup.send()
            await setup.poll()
            if why == "gone":
                setup.client.unload(MAIN.name)
            elif why == "unloaded by us":
                await asyncio.to_thread(setup.residency.release, (MAIN.name,))
            elif why == "another window":
                runner = setup.ollama.runners.get(MAIN)
                assert runner is not None
                runner.window_tokens = 4096
            await _idle(setup, RENEW_SECONDS + 1)
            assert setup.loads() == []

    asyncio.run(story())


@in_residency
async def test_unloading_ends_what_is_loaded_ahead(setup: ResidencySetup) -> None:
    """From the thread that unloads; afterwards nothing is under way."""
    setup.ollama.answers["/api/generate"] = Hang()
    setup.residency.warm()
    await until(setup.loads)
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    assert setup.all(ModelWarmed)[0].problem
    await until(lambda: len(setup.ollama.cancelled) == 1)


def test_the_user_s_own_keep_alive_is_left_alone() -> None:
    """The model is loaded ahead without a word about how long."""

    async def story() -> None:
        async with residency_setup(user_keep_alive=True) as setup:
            setup.residency.warm()
            await setup.wait_for(ModelWarmed)
            (body,) = setup.loads()
            assert "keep_alive" not in body

    asyncio.run(story())
