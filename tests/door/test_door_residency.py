"""The residency: models loaded ahead, kept while nobody types, and never at another's cost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from door.residing import (
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
    house,
    until,
)
from fakes.answering import Hang, Json
from fakes.ollama_server import FakeOllama

from aider_guard.core.chat.events import ModelWarmed, ReloadSeen
from aider_guard.core.chat.types import DoorRole, RunnerOption, Upstream
from aider_guard.core.events import ModelsRead
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.door.residency import AWAY_SECONDS, RENEW_SECONDS


def test_the_first_request_finds_its_model_loaded() -> None:
    """An empty request with the pin loads it; the list of before is told first; the request loads nothing."""

    async def story() -> None:
        async with house() as home:
            home.residency.warm()
            warmed = await home.wait_for(ModelWarmed)
            assert (warmed.model, warmed.kind, warmed.problem) == (MAIN.name, "load", "")
            assert warmed.seconds > 0
            before = home.seen[0]
            assert isinstance(before, ModelsRead)
            assert isinstance(before.reading, ModelsReading)
            assert before.reading.models == ()
            await until(lambda: len(home.loads()) == 2)
            first, second = home.loads()
            assert first["options"] == second["options"] == {"num_ctx": WINDOW_TOKENS}
            assert (first["keep_alive"], second["keep_alive"]) == ("2m", "30m")
            assert await home.asks() < 0.1
            await home.reads()
            assert home.residency.loaded_window(MAIN.name) == WINDOW_TOKENS
            assert not home.all(ReloadSeen)

    asyncio.run(story())


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
    """Others' models stay, and what runs elsewhere is not asked for; the reason is told."""

    async def story() -> None:
        ollama = FakeOllama(models=MODELS, loaded=loaded, memory_bytes=6 * 2**30)
        async with house(ollama, roles=[("main", main)]) as home:
            home.residency.warm()
            warmed = await home.wait_for(ModelWarmed)
            assert reason in warmed.problem
            assert home.loads() == []
            assert home.ollama.sent_out == []
            assert home.ollama.loaded == loaded

    asyncio.run(story())


def test_a_model_that_is_there_with_our_window_is_not_loaded() -> None:
    """Whoever loaded it: there is nothing to do."""

    async def story() -> None:
        model = type(MAIN)(MAIN.name, window_tokens=WINDOW_TOKENS)
        ollama = FakeOllama(models=(model,), loaded=[MAIN.name])
        async with house(ollama) as home:
            home.residency.warm()
            assert await home.wait_for(ModelWarmed) == ModelWarmed(MAIN.name, "load")
            assert home.loads() == []

    asyncio.run(story())


def test_a_server_that_does_not_answer_is_a_problem_in_words() -> None:
    """Nothing is loaded blindly."""

    async def story() -> None:
        async with house() as home:
            home.ollama.answers["/api/ps"] = Json({"error": "server busy"}, 503)
            home.residency.warm()
            assert "server busy" in (await home.wait_for(ModelWarmed)).problem
            home.ollama.answers = {"/api/generate": Json({"error": "no memory"}, 500)}
            home.residency.warm()
            assert "no memory" in (await home.wait_for(ModelWarmed, 2)).problem

    asyncio.run(story())


def test_other_models_of_the_session_are_no_obstacle() -> None:
    """What it loaded itself is its own."""

    async def story() -> None:
        async with house() as home:
            await home.asks(QUESTION, model=EDITOR.name)
            home.residency.warm()
            assert (await home.wait_for(ModelWarmed)).problem == ""
            assert home.ollama.loaded == [EDITOR.name, MAIN.name]

    asyncio.run(story())


def test_what_a_sidecar_of_before_has_loaded_is_no_obstacle() -> None:
    """The guard remembers it."""

    async def story() -> None:
        async with house(FakeOllama(models=MODELS, loaded=[EDITOR.name])) as home:
            home.residency.warm()
            assert "by another program" in (await home.wait_for(ModelWarmed)).problem
            home.residency.warm(("editor",))
            assert (await home.wait_for(ModelWarmed, 2)).problem == ""
            assert home.ollama.loaded == [EDITOR.name, MAIN.name]

    asyncio.run(story())


def test_options_of_the_runner_are_those_of_the_last_request() -> None:
    """Any other option would have the model loaded again."""

    async def story() -> None:
        async with house() as home:
            await home.asks(num_gpu=20, temperature=1)
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            assert home.loads()[-1]["options"] == {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
            assert await home.asks(num_gpu=20) < 0.1
            assert not home.all(ReloadSeen)

    asyncio.run(story())


def test_the_users_own_options_are_those_of_the_first_load() -> None:
    """Or the first request would have the model loaded a second time."""

    async def story() -> None:
        async with house() as home:
            (main, *others) = home.settings.roles
            main = replace(main, runner_options=(RunnerOption("num_gpu", 20),))
            home.residency.serve(replace(home.settings, roles=(main, *others)))
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            assert home.loads()[0]["options"] == {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
            assert await home.asks(num_gpu=20) < 0.1

    asyncio.run(story())


def test_the_head_is_evaluated_ahead_after_an_unload() -> None:
    """In pieces, each with the beginning of the last request's text; then the real one has little to read."""

    async def story() -> None:
        async with house() as home:
            await home.asks(SYSTEM, *MAP, QUESTION)
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            head = await home.wait_for(ModelWarmed, 2)
            assert (head.kind, head.problem) == ("head", "")
            assert head.tokens > 500
            whole, *pieces = [body for body in home.ollama.chats if "messages" in body]
            assert all(piece["options"]["num_predict"] == 1 for piece in pieces)
            lengths = [_length(piece) for piece in pieces]
            assert lengths == sorted(set(lengths))
            fixed = _length(whole) - len(QUESTION[1])
            assert lengths[-1] == fixed
            assert [one["content"] for one in pieces[-1]["messages"]] == [
                one["content"] for one in whole["messages"][:-1]
            ]

    asyncio.run(story())


def _length(body: dict[str, Any]) -> int:
    return sum(len(one["content"]) for one in body["messages"] if one["content"] != ".")


def test_the_head_is_sent_with_the_pin_of_the_next_launch() -> None:
    """A window that changed with the restart loads the model once, not twice."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.residency.serve(replace(home.settings, window_tokens=4096))
            home.residency.warm()
            assert (await home.wait_for(ModelWarmed, 2)).problem == ""
            sent = [*home.loads(), *home.ollama.chats[1:]]
            assert {body["options"]["num_ctx"] for body in sent} == {4096}

    asyncio.run(story())


def test_the_head_of_another_model_is_not_evaluated() -> None:
    """It would be loaded by the way."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            roles = (DoorRole("main", EDITOR.name),)
            home.residency.serve(replace(home.settings, roles=roles))
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            await home.settled()
            assert len(home.ollama.chats) == 1
            assert home.ollama.loaded == [EDITOR.name]

    asyncio.run(story())


def test_nothing_is_evaluated_where_it_is_still_in_the_cache() -> None:
    """A shorter prompt would cut back what the last request left."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await home.reads()
            home.residency.warm()
            assert await home.wait_for(ModelWarmed) == ModelWarmed(MAIN.name, "load")
            await home.settled()
            await home.asks()
            assert len(home.ollama.chats) == 2

    asyncio.run(story())


def test_a_real_request_ends_the_evaluation() -> None:
    """Its connection is closed before the request may go on, which is not waited for as long as it hangs."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.ollama.answers["/api/chat"] = Hang()
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            await until(lambda: len(home.ollama.chats) == 2)
            asked = home.asked()
            began = time.monotonic()
            await home.residency.begins(asked, home.upstream)
            assert (
                time.monotonic() - began < 20
            )  # milliseconds here; for ever, if it was waited for
            head = home.all(ModelWarmed)[1]
            assert (head.kind, bool(head.problem)) == ("head", True)
            await until(lambda: len(home.ollama.cancelled) == 1)
            home.residency.ended(asked, home.upstream, 0.02)
            del home.ollama.answers["/api/chat"]
            assert len(home.ollama.chats) == 2

    asyncio.run(story())


def test_a_request_for_the_model_that_is_being_loaded_joins_the_load() -> None:
    """Ollama would begin anew if whoever asked first went away; no head is evaluated then."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            home.client.unload(MAIN.name)
            home.ollama.talking.speed = type(home.ollama.talking.speed)(share=0.2)
            home.residency.warm()
            await until(home.loads)
            await home.asks()
            assert (await home.wait_for(ModelWarmed)).problem == ""
            assert home.ollama.cancelled == []
            await home.settled()
            assert len(home.ollama.chats) == 2
            assert not home.all(ReloadSeen)

    asyncio.run(story())


def test_a_request_that_joins_the_load_of_a_lost_model_tells_nothing() -> None:
    """Its waiting was begun by us."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            home.client.unload(MAIN.name)
            home.ollama.talking.speed = type(home.ollama.talking.speed)(share=0.2)
            home.residency.warm()
            await until(home.loads)
            asked = home.asked()
            await home.residency.begins(asked, home.upstream)
            home.residency.ended(asked, home.upstream, 0.9)  # what was left of the load
            await home.settled()
            assert not home.all(ReloadSeen)

    asyncio.run(story())


@pytest.mark.parametrize("change", [{"model": EDITOR.name}, {"num_gpu": 3}])
def test_a_request_for_something_else_ends_the_load(change: dict[str, Any]) -> None:
    """What nobody waits for is in nobody's way."""

    async def story() -> None:
        async with house() as home:
            home.ollama.answers["/api/generate"] = Hang()
            home.residency.warm()
            await until(home.loads)
            await home.asks(QUESTION, **change)
            assert (await home.wait_for(ModelWarmed)).problem
            assert len(home.ollama.cancelled) == 1

    asyncio.run(story())


def test_a_request_that_is_given_up_while_it_waits_is_forgotten() -> None:
    """It neither runs nor keeps the next warming away."""

    async def story() -> None:
        async with house() as home:
            home.ollama.answers["/api/generate"] = Hang()
            home.residency.warm()
            await until(home.loads)
            waiting = asyncio.ensure_future(
                home.residency.begins(home.asked(model=EDITOR.name), home.upstream)
            )
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            home.ollama.answers.clear()
            await until(lambda: home.all(ModelWarmed))
            home.residency.warm()
            assert (await home.wait_for(ModelWarmed, 2)).problem == ""

    asyncio.run(story())


def test_nothing_is_warmed_while_a_request_runs() -> None:
    """It has loaded what it needs."""

    async def story() -> None:
        async with house() as home:
            asked = home.asked()
            await home.residency.begins(asked, home.upstream)
            home.residency.warm()
            assert (await home.wait_for(ModelWarmed)).problem
            home.residency.ended(asked, home.upstream, Unavailable("cancelled"))
            home.residency.warm()
            assert (await home.wait_for(ModelWarmed, 2)).problem == ""

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_other_servers_are_left_alone(kind: Any) -> None:
    """Only the session's Ollama is told to load and keep anything; not for a model of that name on another one."""

    async def story() -> None:
        async with house(roles=[("editor", EDITOR.name)]) as home:
            other = Upstream("other", "http://127.0.0.1:1", kind)
            home.residency.serve(
                replace(
                    home.settings,
                    upstreams=(home.upstream, other),
                    roles=(DoorRole("main", MAIN.name, other.path),),
                )
            )
            asked = home.asked()
            await home.residency.begins(asked, other)
            home.residency.ended(asked, other, 9.0)
            await _idle(home, RENEW_SECONDS + 1)
            home.residency.warm()
            assert not home.residency._errands.busy
            assert home.seen == []
            assert home.loads() == []

    asyncio.run(story())


async def _idle(home: Any, seconds: float) -> None:
    home.clock.added += seconds
    await home.reads()
    await home.settled()


def test_a_loaded_model_is_kept_while_nobody_types() -> None:
    """An empty request with the same options every ten minutes; none before; none over night."""

    async def story() -> None:
        async with house() as home:
            await home.asks(num_gpu=20)
            await home.reads()
            await _idle(home, RENEW_SECONDS - 10)
            assert home.loads() == []
            await _idle(home, 11)
            await until(home.loads)
            wanted = {"num_gpu": 20, "num_ctx": WINDOW_TOKENS}
            assert home.loads()[0]["options"] == wanted
            assert home.loads()[0]["keep_alive"] == "30m"
            await _idle(home, RENEW_SECONDS)
            await until(lambda: len(home.loads()) == 2)
            await _idle(home, AWAY_SECONDS)
            assert len(home.loads()) == 2

    asyncio.run(story())


def test_nothing_is_renewed_while_a_request_runs() -> None:
    """It renews the stay itself, and is in nobody's way."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            await home.reads()
            asked = home.asked()
            await home.residency.begins(asked, home.upstream)
            await _idle(home, RENEW_SECONDS + 1)
            assert home.loads() == []
            home.residency.ended(asked, home.upstream, Unavailable("cancelled"))
            await _idle(home, 1)
            await until(home.loads)

    asyncio.run(story())


def test_how_a_model_is_listed_is_learned_from_lists_after_its_load() -> None:
    """An older list may have the window of before, and a new pin has a window of its own."""

    async def story() -> None:
        async with house() as home:
            await home.asks()
            older = LoadedModel(MAIN.name, "", 1, 1, 32768)
            home.residency.observe(ModelsRead(ModelsReading((older,), taken_at=0.0)))
            await home.reads()
            await _idle(home, RENEW_SECONDS + 1)
            assert len(home.loads()) == 1
            home.settings = replace(home.settings, window_tokens=4096)
            home.residency.serve(home.settings)
            await home.asks()
            await home.reads()
            await _idle(home, RENEW_SECONDS + 1)
            assert len(home.loads()) == 2

    asyncio.run(story())


@pytest.mark.parametrize("why", ["gone", "another window", "unloaded by us", "user's own"])
def test_only_what_is_still_ours_is_kept(why: str) -> None:
    """Keeping never loads anything."""

    async def story() -> None:
        async with house(user_keep_alive=why == "user's own") as home:
            await home.asks()
            await home.reads()
            if why == "gone":
                home.client.unload(MAIN.name)
            elif why == "unloaded by us":
                await asyncio.to_thread(home.residency.release, (MAIN.name,))
            elif why == "another window":
                runner = home.ollama.runners.get(MAIN)
                assert runner is not None
                runner.window_tokens = 4096
            await _idle(home, RENEW_SECONDS + 1)
            assert home.loads() == []

    asyncio.run(story())


def test_unloading_ends_what_is_loaded_ahead() -> None:
    """From the thread that unloads; afterwards nothing is under way."""

    async def story() -> None:
        async with house() as home:
            home.ollama.answers["/api/generate"] = Hang()
            home.residency.warm()
            await until(home.loads)
            await asyncio.to_thread(home.residency.release, (MAIN.name,))
            assert home.all(ModelWarmed)[0].problem
            await until(lambda: len(home.ollama.cancelled) == 1)

    asyncio.run(story())


def test_the_user_s_own_keep_alive_is_left_alone() -> None:
    """The model is loaded ahead without a word about how long."""

    async def story() -> None:
        async with house(user_keep_alive=True) as home:
            home.residency.warm()
            await home.wait_for(ModelWarmed)
            (body,) = home.loads()
            assert "keep_alive" not in body

    asyncio.run(story())
