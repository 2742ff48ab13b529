"""Reading the next prompt ahead: when, how far, for which model, and what is told of it. With a fake Ollama's cache."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest
from door.residency_setup import (
    MAIN,
    MAP,
    QUESTION,
    SYSTEM,
    ResidencySetup,
    in_residency,
    until,
)
from fakes.answering import Hang

from aider_guard.core.chat.events import (
    ModelWarmed,
    NextPromptCompared,
    NextPromptUnknown,
    PromptReadAhead,
)
from aider_guard.core.chat.next_prompt import NextPrompt
from aider_guard.core.readings import Unavailable
from aider_guard.door import read_ahead
from aider_guard.door.prewarm import CANCELLED, NO_ROOM, NOT_KEPT, HeadEvaluation
from aider_guard.door.read_ahead import NOT_KEPT_SECONDS

HEAD = (SYSTEM, *MAP)
FILES = (
    ("user", "I have *added these files to the chat*.\n" + "a = 1\n" * 300),
    ("assistant", "Ok."),
)
COMMIT = (
    (
        "system",
        "You are an expert software engineer that generates concise, one-line Git commit messages.",
    ),
    ("user", "# Diffs:\n- a"),
)


def told(*messages: tuple[str, str], model: str = MAIN.name) -> NextPrompt:
    """What Aider tells."""
    listed = tuple({"role": role, "content": content} for role, content in messages or HEAD)
    return NextPrompt("/api/chat", model, listed)


async def opened(
    setup: ResidencySetup, read_ahead: Literal["auto", "on", "off"] = "on", **changes: Any
) -> None:
    """Serve with this setting, and load the model."""
    setup.residency.serve(replace(setup.settings, read_ahead=read_ahead, **changes))
    setup.residency.warm()
    await setup.wait_for(ModelWarmed)


def pieces(setup: ResidencySetup) -> list[dict[str, Any]]:
    """What was evaluated ahead."""
    return [body for body in setup.ollama.chats if body["options"].get("num_predict") == 1]


def length(body: dict[str, Any]) -> int:
    """Of the messages, without the question that stands for the next one."""
    return sum(len(one["content"]) for one in body["messages"] if one["content"] != ".")


@in_residency
async def test_the_next_prompt_is_read_in_pieces(setup: ResidencySetup) -> None:
    """Then the real one has its message to read, and it is told that it began with what was read."""
    await opened(setup)
    setup.residency.expect(told())
    read = await setup.wait_for(PromptReadAhead)
    assert (read.problem, read.tokens > 500) == ("", True)
    lengths = [length(piece) for piece in pieces(setup)]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == sum(len(text) for _, text in HEAD)
    await setup.send(*HEAD, QUESTION)
    assert setup.all(NextPromptCompared) == [NextPromptCompared(MAIN.name, read.tokens, 100)]


@in_residency
async def test_what_is_told_while_the_model_is_loaded_is_read_after_it(
    setup: ResidencySetup,
) -> None:
    """Reading must not wait for a second prompt: the first turn is the longest."""
    setup.residency.serve(replace(setup.settings, read_ahead="on"))
    setup.residency.warm()
    setup.residency.expect(told())
    assert (await setup.wait_for(PromptReadAhead)).problem == ""


@in_residency
async def test_the_same_prompt_is_read_once(setup: ResidencySetup) -> None:
    """A hidden command makes a new prompt of Aider's, which tells the same."""
    await opened(setup)
    for _ in range(2):
        setup.residency.expect(told())
        await setup.wait_for(PromptReadAhead)
        await setup.settled()
    assert len(setup.all(PromptReadAhead)) == 1


@in_residency
async def test_a_request_stops_it_and_a_commit_message_only_interrupts_it(
    setup: ResidencySetup,
) -> None:
    """Neither waits for more than the piece that is being read."""
    await opened(setup)
    setup.ollama.answers["/api/chat"] = Hang()
    setup.residency.expect(told())
    await until(lambda: setup.ollama.chats)
    commit = setup.request(*COMMIT)
    assert commit.purpose == "commit"
    await setup.residency.on_request_start(commit, setup.upstream)
    assert (await setup.wait_for(PromptReadAhead)).problem == CANCELLED
    del setup.ollama.answers["/api/chat"]
    setup.residency.on_request_end(commit, setup.upstream, 0.0)
    assert (await setup.wait_for(PromptReadAhead, 2)).problem == ""
    assert setup.all(NextPromptCompared) == []
    await setup.send(*HEAD, QUESTION)
    assert setup.all(NextPromptCompared)[0].matched_percent == 100


@in_residency
async def test_a_running_request_begins_with_what_was_read_ahead_for_it(
    setup: ResidencySetup,
) -> None:
    """As far as the two are the same; nothing is known of a request that was not expected."""
    await opened(setup)
    setup.residency.expect(told())
    read = await setup.wait_for(PromptReadAhead)
    whole, half = setup.request(*HEAD, QUESTION), setup.request(SYSTEM, QUESTION)
    assert setup.residency.read_ahead_tokens(whole, setup.upstream) == 0
    await setup.residency.on_request_start(whole, setup.upstream)
    assert setup.residency.read_ahead_tokens(whole, setup.upstream) == read.tokens
    assert 0 < setup.residency.read_ahead_tokens(half, setup.upstream) < read.tokens
    setup.residency.on_request_end(whole, setup.upstream, 0.0)
    assert setup.residency.read_ahead_tokens(whole, setup.upstream) == 0


@in_residency
async def test_nothing_is_read_while_a_request_runs(setup: ResidencySetup) -> None:
    """It is read when the request is over, which was none of the user's."""
    await opened(setup)
    summary = setup.request(*COMMIT)
    await setup.residency.on_request_start(summary, setup.upstream)
    setup.residency.expect(told())
    await setup.settled()
    assert not setup.ollama.chats
    setup.residency.on_request_end(summary, setup.upstream, 0.0)
    assert (await setup.wait_for(PromptReadAhead)).problem == ""


@in_residency
async def test_what_is_in_the_cache_is_not_read_again(setup: ResidencySetup) -> None:
    """The first piece is as long as what is there, or the cache would be cut back to it."""
    await opened(setup)
    await setup.send(*HEAD, QUESTION)
    answer = ("assistant", "It is well.")
    setup.residency.expect(told(*HEAD, QUESTION, answer))
    assert "cache already" in (await setup.wait_for(PromptReadAhead)).problem
    assert not pieces(setup)
    setup.residency.expect(told(*HEAD, QUESTION, answer, *FILES))
    assert (await setup.wait_for(PromptReadAhead, 2)).problem == ""
    assert setup.all(PromptReadAhead)[1].cached_tokens > 500
    assert length(pieces(setup)[0]) == sum(len(text) for _, text in (*HEAD, QUESTION, answer))


@in_residency
async def test_no_model_is_loaded_for_it(setup: ResidencySetup) -> None:
    """Unloading a model keeps the memory free, and a model of another program stays."""
    setup.residency.serve(replace(setup.settings, read_ahead="on"))
    setup.residency.expect(told())
    assert (await setup.wait_for(PromptReadAhead)).problem == "the model is not loaded"
    await setup.settled()
    assert not setup.ollama.chats
    assert not setup.loads()


@in_residency
async def test_it_ends_when_the_model_is_pushed_out(setup: ResidencySetup) -> None:
    """The next piece would load it again, in place of what another program has loaded."""
    await opened(setup)
    seen: list[int] = []

    def gone(_body: Any) -> str:
        seen.append(1)
        setup.ollama.loaded.clear()  # at once: one that is busy is unloaded when its answer has been sent
        return "x"

    setup.ollama.talking.says = gone
    setup.residency.expect(told())
    assert (await setup.wait_for(PromptReadAhead)).problem == "the model is not loaded"
    assert len(seen) == 1
    assert not setup.ollama.loaded


@pytest.mark.parametrize(("setting", "reads"), [("auto", False), ("on", True), ("off", False)])
@in_residency
async def test_auto_rests_while_the_machine_should(
    setup: ResidencySetup, setting: Literal["auto", "on", "off"], reads: bool
) -> None:
    """Why is written once, and looked at again later."""
    ahead = setup.residency._read_ahead
    ahead.why_rest = lambda: "the machine runs on its battery"
    await opened(setup, setting)
    setup.residency.expect(told())
    await until(lambda: setting == "off" or setup.all(PromptReadAhead))
    await setup.settled()
    assert bool(pieces(setup)) is reads
    if setting == "auto":
        ahead.start()
        await setup.settled()
        assert [event.problem for event in setup.all(PromptReadAhead)] == [ahead.why_rest()]
        ahead.why_rest = lambda: ""
        ahead.start()
        assert (await setup.wait_for(PromptReadAhead, 2)).problem == ""


@in_residency
async def test_auto_rests_after_two_useless_readings_until_one_is_right(
    setup: ResidencySetup,
) -> None:
    """What is expected is compared all the same."""
    await opened(setup, "auto")
    ahead = setup.residency._read_ahead
    other = ("system", "Act as an expert in other things.")
    for turn in range(4):
        setup.residency.expect(told(("system", f"{SYSTEM[1]} {turn}"), *MAP))
        await setup.wait_for(PromptReadAhead, min(turn + 1, 3))
        await until(lambda: ahead._expected is not None and ahead._expected.head is not None)
        await setup.settled()
        right = ("system", f"{SYSTEM[1]} {turn}") if turn == 3 else other
        await setup.send(right, *MAP, QUESTION)
    problems = [event.problem for event in setup.all(PromptReadAhead)]
    assert problems[:2] == ["", ""]
    assert "did not begin with" in problems[2]
    assert len(problems) == 3
    assert [event.matched_percent for event in setup.all(NextPromptCompared)][-1] == 100
    setup.residency.expect(told(*HEAD, *FILES))
    assert (await setup.wait_for(PromptReadAhead, 4)).problem == ""


@pytest.mark.parametrize(("setting", "tries"), [("auto", 2), ("on", 3)])
@in_residency
async def test_auto_rests_where_the_server_keeps_nothing(
    setup: ResidencySetup, setting: Literal["auto", "on"], tries: int, monkeypatch: Any
) -> None:
    """Finding it out takes seconds, in which a message may come; it is tried again some minutes later."""
    tried: list[HeadEvaluation] = []

    class InVain(HeadEvaluation):
        async def run(self, _post: object) -> None:
            tried.append(self)
            self.problem = NOT_KEPT

    monkeypatch.setattr(read_ahead, "HeadEvaluation", InVain)
    await opened(setup, setting)
    for turn in range(3):
        setup.residency.expect(told(("system", f"{SYSTEM[1]} {turn}"), *MAP))
        await setup.wait_for(PromptReadAhead, turn + 1)
        await setup.settled()
        setup.clock.added += NOT_KEPT_SECONDS / 1.9
    assert len(tried) == tries


@in_residency
async def test_no_more_is_read_than_the_window_holds(setup: ResidencySetup) -> None:
    """Some versions cut the rest off, and say nothing."""
    await opened(setup, window_tokens=600)
    setup.residency.expect(told(*HEAD, *FILES))
    read = await setup.wait_for(PromptReadAhead)
    assert read.problem == NO_ROOM or "exceeds the context length" in read.problem
    assert 20 < read.tokens <= 600


@in_residency
async def test_an_aider_that_cannot_tell_is_told_once(setup: ResidencySetup) -> None:
    """The head of the last prompt is evaluated then, as before."""
    await opened(setup)
    for _ in range(2):
        setup.residency.expect(Unavailable("it is another"))
    await setup.wait_for(NextPromptUnknown)
    await setup.settled()
    assert setup.all(NextPromptUnknown) == [NextPromptUnknown("it is another")]
    await setup.send(*HEAD, QUESTION)
    assert not setup.all(NextPromptCompared)


@in_residency
async def test_loading_goes_before_reading(setup: ResidencySetup) -> None:
    """What is being read is begun again after the load."""
    await opened(setup)
    setup.ollama.answers["/api/chat"] = Hang()
    setup.residency.expect(told())
    await until(lambda: setup.ollama.chats)
    del setup.ollama.answers["/api/chat"]
    setup.residency.warm()
    await setup.wait_for(ModelWarmed, 2)
    assert (await setup.wait_for(PromptReadAhead, 2)).problem == ""


@in_residency
async def test_what_was_expected_of_an_unloaded_model_is_forgotten(setup: ResidencySetup) -> None:
    """The next Aider has another history, and tells its own."""
    await opened(setup)
    setup.residency.expect(told())
    await setup.wait_for(PromptReadAhead)
    await asyncio.to_thread(setup.residency.release, (MAIN.name,))
    await setup.send(*HEAD, QUESTION)
    assert not setup.all(NextPromptCompared)
