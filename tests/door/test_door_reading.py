"""The door tells how far a long prompt is read, what its server knew of it, and why it read much again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import LOCAL, OLLAMA, body, listing, message, settings
from door.handler_services import HandlerSetup, run

from aider_guard.core.chat.events import (
    ModelWarmed,
    PromptReadAhead,
    PromptReread,
    ReadingEstimated,
    ReadingFinished,
    RequestFinished,
)
from aider_guard.core.chat.pace import ReadingSample
from aider_guard.core.chat.types import Count, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import Forward, Reply
from aider_guard.door.server_counter import LOADING
from aider_guard.door.slots import IDLE, Slot, working_slot

MODEL = "qwen3:8b"
OK = message("assistant", "Ok.")


def chat(text: str = "fix it", files: str = "x = 1\n", said: str = "", form: Any = "chat") -> bytes:
    """A message of the user's, with a file in the chat."""
    before = [message("user", said), message("assistant", "done")] if said else []
    listed = message("user", listing(prompts.CHAT_FILES, {"a.py": files}))
    system = message("system", prompts.DIFF)
    return body(form, [system, *before, listed, OK, message("user", text)])


def answer(prompt: int, seconds: float, cached: int | None = None, load: float = 0.0) -> bytes:
    """The end of an answer, as Ollama reports it; ``cached`` as 0.33.3 and later do."""
    told = {} if cached is None else {"prompt_eval_cached_count": cached}
    piece = {
        "model": MODEL,
        "created_at": "x",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "load_duration": int(load * 1e9),
        "prompt_eval_count": prompt,
        "prompt_eval_duration": int(seconds * 1e9),
        "eval_count": 7,
        **told,
    }
    return json.dumps(piece).encode() + b"\n"


def setup_of(tokens: int = 3_000, version: str = "0.35.0", **more: Any) -> HandlerSetup:
    """A door that tells of long prompts, whose prompts have so many tokens."""
    setup = HandlerSetup(replace(settings(8192, shows_progress=True), **more))
    setup.residency.version = version
    setup.residency.windows[MODEL] = 8192
    setup.counter.result = Count(tokens, exact=True)
    return setup


def read(
    setup: HandlerSetup,
    looks: Sequence[Slot | Unavailable],
    content: bytes = b"",
    ends: bytes = b"",
    upstream: Upstream = OLLAMA,
) -> list[str]:
    """Have one prompt read, as the process shows it look for look (the first after a second); what Aider showed."""
    shown: list[str] = []
    setup.slots, setup.passes, setup.most_passes = [*looks], 0, len(looks)

    async def show(reply: Reply) -> None:
        piece = json.loads(reply.content.removeprefix(b"data: "))
        choices = piece.get("choices") or [{"delta": {}}]
        shown.append(piece.get("message", choices[0]["delta"]).popitem()[1])

    async def story() -> None:
        path = "/api/chat" if upstream == OLLAMA else "/v1/chat/completions"
        exchange = setup.exchange(content or chat(), path, upstream)
        assert isinstance(await exchange.begin(), Forward)
        following = asyncio.create_task(exchange.follow_reading(show))
        while setup.passes <= setup.most_passes and not following.done():
            await asyncio.sleep(0)
        exchange.on_chunk(ends or answer(3_000, 20.0, 1_000))
        following.cancel()
        await asyncio.wait([following])
        await exchange.end("answered")

    run(story())
    return shown


def events(setup: HandlerSetup, kind: type[Any]) -> list[Any]:
    return [event for event in setup.events if isinstance(event, kind)]


def test_a_long_prompt_is_told_as_soon_as_its_time_is_known() -> None:
    """500 of 2,000 tokens took 4.75 s, as they ended between two looks: 14 s are left. What was told is compared."""
    setup = setup_of()
    waits, reads = [Slot(5, 1_000, 0, False)] * 8, [Slot(5, 1_000, 500, False)] * 5
    shown = read(setup, [*waits, *reads])
    first, *_ = told = events(setup, ReadingEstimated)
    (finished,) = events(setup, ReadingFinished)
    assert first == ReadingEstimated(1, MODEL, 3_000, 1_000, 526, 14.0, "slots")
    assert [event.seconds_left for event in told] == [14.0, 12.0]
    assert finished.estimated_seconds == 19.0
    assert shown == [
        "aider-guard: the model reads 2,000 tokens (1,000 more are known): about 14 s  \n"
    ]


@pytest.mark.parametrize(("read_tokens", "left"), [(512, 66.25), (3_584, 5.64)])
def test_of_several_pieces_between_two_looks_the_last_ended_lately(
    read_tokens: int, left: float
) -> None:
    """One ended 0.25 s before, as far as is known; of seven the last, 0.04 s before."""
    setup = setup_of(7_680)
    read(setup, [*[Slot(5, 0, 0, False)] * 8, *[Slot(5, 0, read_tokens, False)] * 2])
    assert events(setup, ReadingEstimated)[0].seconds_left == pytest.approx(left, abs=0.06)


def test_it_is_shown_again_while_it_goes_on() -> None:
    """Every 15 s, by what share is read."""
    setup = setup_of(5_000)
    reads = [Slot(5, 0, 500 * (1 + look // 8), False) for look in range(40)]
    shown = read(setup, [*[Slot(5, 0, 0, False)] * 8, *reads])
    assert len(shown) == 2
    assert re.search(r" 4\d % read, about 2[05] s  \n$", shown[1])


@pytest.mark.parametrize(
    "looks",
    [
        [Slot(5, 2_800, 0, False), Slot(5, 2_800, 100, False)],
        [Slot(5, 0, 0, False)] * 6,
        [Slot(5, 0, 2_900, answers=True)] * 6,
        [IDLE] * 40,
        [LOADING] * 40,
    ],
    ids=["soon read", "nothing known", "answered", "waits", "loads"],
)
def test_nothing_is_told_where_nothing_is_known_or_little_is_left(looks: list[Any]) -> None:
    setup = setup_of()
    assert read(setup, looks) == []
    assert not events(setup, ReadingEstimated)
    assert not events(setup, ReadingFinished)


def test_loading_is_no_reading() -> None:
    """The time counts from when the process is seen to read."""
    setup = setup_of()
    looks = [LOADING] * 20, [Slot(0, 0, 0, False)] * 9, [Slot(0, 0, 1_000, False)]
    read(setup, [look for each in looks for look in each])
    (told,) = events(setup, ReadingEstimated)
    assert told.seconds_left == pytest.approx(10.0, rel=0.1)  # of 1,000 tokens in 5 s


def test_another_programs_prompt_before_this_one_is_not_taken_for_it() -> None:
    """The next task is this one, and begins when it is seen."""
    setup = setup_of()
    others, own = [Slot(4, 0, 100, False)] * 3, [Slot(6, 1_000, 0, False)] * 9
    read(setup, [*others, *own, Slot(6, 1_000, 500, False)])
    assert events(setup, ReadingEstimated)[-1].cached_tokens == 1_000


def test_a_prompt_that_was_counted_while_its_model_loaded_is_counted_again() -> None:
    """Then its server can be asked: the first prompt of a session takes longest."""
    setup = setup_of()
    setup.counter.result = Unavailable("the model is being loaded")
    setup.counter.later = Count(3_000, exact=True)
    read(setup, [LOADING, *[Slot(0, 0, 0, False)] * 9, Slot(0, 0, 1_000, False)])
    assert events(setup, ReadingEstimated)[0].prompt_tokens == 3_000


@pytest.mark.parametrize("version", ["0.9.3", "0.24.0"])
def test_where_the_process_is_not_seen_earlier_prompts_tell(version: str) -> None:
    """What the next has in common with the last is taken as known."""
    setup = setup_of(2_000, version)
    read(setup, [IDLE] * 3, chat(files="y" * 9_000), answer(2_000, 20.0))
    assert not events(setup, ReadingEstimated)
    setup.counter.result = Count(4_000, exact=True)
    read(setup, [IDLE] * 3, chat(files="y" * 9_000 + "z" * 9_000), answer(4_000, 20.0))
    first = events(setup, ReadingEstimated)[0]
    assert first.known_by == "pace"
    assert first.cached_tokens == pytest.approx(2_000, rel=0.1)
    assert first.seconds_left == pytest.approx(19.0, rel=0.1)


def test_what_was_read_ahead_is_known_where_the_process_is_not_seen() -> None:
    """Without it an edit, behind which most of a prompt is new, had the user told of a reading that was done."""
    setup = setup_of(2_000)
    read(setup, [IDLE] * 3, chat(), answer(2_000, 20.0, 0))
    setup.readings.read_ahead = lambda request, _upstream: len(request.messages) * 600
    setup.counter.result = Count(4_000, exact=True)
    unseen = [Unavailable("it is not seen")] * 3
    read(setup, unseen, chat(files="y" * 9_000), answer(4_000, 10.0, 2_400))
    first = events(setup, ReadingEstimated)[0]
    assert (first.known_by, first.cached_tokens) == ("pace", 2_400)
    setup.readings.read_ahead = lambda _request, _upstream: 9_000
    read(setup, unseen, chat(files="z" * 9_000), answer(4_000, 1.0, 4_000))
    assert len(events(setup, ReadingFinished)) == 1


@pytest.mark.parametrize(("version", "told"), [("0.24.0", 0), ("0.9.3", 1)])
def test_a_model_that_may_be_loading_is_not_judged_by_its_pace(version: str, told: int) -> None:
    """An older Ollama does not show whether it reads yet; before 0.10 it lists no window of any model."""
    setup = setup_of(2_000, version)
    setup.residency.windows.clear()
    read(setup, [IDLE], chat(), answer(2_000, 20.0))
    read(setup, [IDLE] * 3, chat(files="y" * 9_000), answer(2_000, 20.0))
    assert len(events(setup, ReadingEstimated)) == told


def test_another_server_is_judged_by_its_pace() -> None:
    """It has its model loaded, and tells in its answer what it had in its cache."""
    setup = setup_of(2_000)
    setup.residency.windows.clear()
    timings = {"prompt_n": 2_000, "cache_n": 0, "prompt_ms": 20_000, "predicted_n": 3}
    choice = {"delta": {}, "finish_reason": "stop", "index": 0}
    ends = f"data: {json.dumps({'choices': [choice], 'timings': timings})}\n\n".encode()
    first, second = (chat(files="y" * size, form="openai_chat") for size in (3_000, 9_000))
    read(setup, [IDLE] * 3, first, ends, LOCAL)
    shown = read(setup, [IDLE] * 3, second, ends, LOCAL)
    assert events(setup, RequestFinished)[0].cached_tokens == 0
    assert events(setup, ReadingEstimated)[0].known_by == "pace"
    assert len(shown) == 1


@pytest.mark.parametrize("more", [{"shows_progress": False}, {}], ids=["off", "summary"])
def test_nothing_is_told_where_it_is_turned_off(more: dict[str, Any]) -> None:
    """One setting turns it off; a summary is made in the background."""
    setup = setup_of(**more)
    summary = [message("system", prompts.SUMMARY), message("user", "# USER\nhello\n")]
    content = chat() if more else body("chat", summary, stream=False)

    async def story() -> bool:
        exchange = setup.exchange(content)
        await exchange.begin()
        assert exchange.reading is not None
        return exchange.reading.is_followed

    assert run(story()) is False


def test_what_the_answer_says_was_known_is_reported() -> None:
    """From 0.33.3 on the last piece has it."""
    setup = setup_of()
    _, finished = setup.answer(chat(), answer(3_000, 2.0, 2_600))
    assert (finished.cached_tokens, finished.read_tokens) == (2_600, 400)


def test_where_the_answer_does_not_say_it_the_process_is_looked_at_while_it_answers() -> None:
    setup = setup_of(version="0.33.0")
    setup.slots = [Slot(5, 2_600, 400, answers=True)]
    _, finished = setup.answer(chat(), answer(3_000, 2.0))
    assert finished.cached_tokens == 2_600


@pytest.mark.parametrize("slot", [Slot(5, 9_000, 1, True), Slot(5, 2_600, 0, False), IDLE])
def test_what_cannot_be_of_this_prompt_is_not_reported(slot: Slot | Unavailable) -> None:
    setup = setup_of(version="0.33.0")
    setup.slots = [slot]
    _, finished = setup.answer(chat(), answer(3_000, 2.0))
    assert isinstance(finished.cached_tokens, Unavailable)


def test_much_that_was_read_again_is_reported_with_its_cause() -> None:
    """To the token, where both prompts' tokens are known."""
    setup = setup_of()
    setup.counter.result = Count(6_000, exact=True, token_ids=tuple(range(6_000)))
    setup.answer(chat(), answer(6_000, 30.0, 0))
    assert not events(setup, PromptReread)
    ids = (*range(2_000), *range(9_000, 13_000))
    setup.counter.result = Count(6_000, exact=True, token_ids=ids)
    setup.answer(chat("and that", said="fix it"), answer(6_000, 20.0, 2_000))
    (event,) = events(setup, PromptReread)
    assert event == PromptReread(2, MODEL, "history_grew", 6_000, 4_000, 2_000, True, 20.0)


CAUSES: list[tuple[str | None, dict[str, Any]]] = [
    ("other_program", {}),
    ("no_checkpoint", {"sliding": True}),
    ("own_request", {"commit": True}),
    (None, {"warmed": True}),
    (None, {"load": 3.0}),
    (None, {"cancelled": True}),
]


@pytest.mark.parametrize(("cause", "what"), CAUSES, ids=str)
def test_what_the_server_had_forgotten_has_a_cause(cause: str | None, what: dict[str, Any]) -> None:
    """All but the message was the same, and all of it was read."""
    setup = setup_of(6_000)
    setup.model_info.sliding = {MODEL} if "sliding" in what else set()
    files = "y" * 20_000
    setup.answer(chat(files=files), answer(6_000, 30.0, 0))
    if "commit" in what:
        diffs = [message("system", prompts.COMMIT), message("user", "# Diffs:\n+a")]
        setup.answer(body("chat", diffs, stream=False), answer(900, 3.0, 0))
    if "warmed" in what:
        setup.readings.observe(ModelWarmed(MODEL, "head", tokens=500))
    if "cancelled" in what:
        run(cancelled(setup))
    setup.answer(chat("and that", files), answer(6_000, 30.0, 0, what.get("load", 0.0)))
    assert [event.cause for event in events(setup, PromptReread)] == ([cause] if cause else [])


async def cancelled(setup: HandlerSetup) -> None:
    """A message that the user stopped."""
    exchange = setup.exchange(chat("stop"))
    await exchange.begin()
    await exchange.end("cancelled")


def test_the_pace_is_kept_for_the_next_session(tmp_path: Path) -> None:
    """Numbers by the model's name, readable by its owner only; a file of garbage is as none."""
    kept = tmp_path / "tokens" / "reading.json"
    first = setup_of(learned_dir=str(kept.parent))
    first.answer(chat(), answer(3_000, 30.0, 0))
    assert json.loads(kept.read_text()) == {MODEL: [[0, 3_000, 30.0]]}
    assert kept.parent.stat().st_mode & 0o77 == 0
    second = setup_of(learned_dir=str(kept.parent))
    read(second, [Slot(5, 1_000, 0, False)] * 3)
    assert events(second, ReadingEstimated)[0].seconds_left == pytest.approx(19.0, rel=0.01)
    kept.write_text("[")
    assert read(setup_of(learned_dir=str(kept.parent)), [Slot(5, 0, 0, False)] * 3) == []


AHEAD: list[tuple[list[Any], float, list[ReadingSample]]] = [
    ([], 0.0, [ReadingSample(0, 3_000, 0.3)]),
    ([PromptReadAhead(MODEL, 2_900, 29.0)], 0.0, []),
    ([PromptReadAhead(MODEL, problem="busy")], 0.0, [ReadingSample(0, 3_000, 0.3)]),
    ([ModelWarmed(MODEL, "head", 20.0, 2_000)], 0.0, []),
    ([ModelWarmed(MODEL, "load")], 0.0, []),
    ([ModelWarmed(MODEL, "load", 2.0)], 0.0, [ReadingSample(0, 3_000, 0.3)]),
    ([ModelWarmed(MODEL, "load", 2.0), PromptReadAhead(MODEL, 900, 9.0)], 0.0, []),
    ([PromptReadAhead(MODEL, 2_900, 29.0)], 3.0, [ReadingSample(0, 3_000, 0.3)]),
]


@pytest.mark.parametrize(("before", "load", "learned"), AHEAD, ids=str)
def test_where_the_server_does_not_tell_what_it_knew_no_pace_comes_from_what_was_read_ahead(
    before: list[Any], load: float, learned: list[ReadingSample]
) -> None:
    """3,000 tokens in 0.3 s would be a pace: but most were read before, or a session before this one asked them."""
    setup = setup_of(version="0.9.3")
    for event in before:
        setup.readings.observe(event)
    setup.answer(chat(), answer(3_000, 0.3, load=load))
    assert [*setup.readings.paces.of(MODEL).samples] == learned


def test_a_model_loaded_anew_knows_nothing_of_the_last_prompt() -> None:
    """What is left of it after a commit message, and of one that the user stopped, is not known."""
    setup = setup_of(version="0.9.3")
    setup.answer(chat(files="y" * 9_000), answer(3_000, 30.0))
    setup.readings.observe(ModelWarmed(MODEL, "load", 2.0))
    setup.answer(chat(files="y" * 9_000), answer(3_000, 30.0))
    setup.answer(body("chat", [message("system", prompts.COMMIT)], stream=False), answer(50, 1.0))
    setup.answer(chat("and that", files="z" * 9_000), answer(3_000, 30.0))
    run(cancelled(setup))
    setup.answer(chat("and that", files="z" * 9_000), answer(3_000, 0.3))
    assert [*setup.readings.paces.of(MODEL).samples] == [ReadingSample(0, 3_000, 30.0)] * 2


def test_the_working_slot_is_the_one_of_the_newest_task() -> None:
    """As llama.cpp shows them, a list where the next token stands in earlier versions as an object."""
    shown = {"is_processing": True, "n_prompt_tokens_cache": 7, "n_prompt_tokens_processed": 512}
    idle = {"id": 0, "is_processing": False}
    first = shown | {"id_task": 3, "next_token": {"n_decoded": 0}}
    second = shown | {"id_task": 9, "next_token": [{"n_decoded": 2}]}
    assert working_slot([idle, second, first]) == Slot(9, 7, 512, answers=True)
    assert working_slot([first]) == Slot(3, 7, 512, answers=False)
    assert working_slot([idle]) == IDLE
    assert isinstance(working_slot({"error": "not supported"}), Unavailable)
    assert working_slot([3, {"is_processing": True}, shown | {"id_task": "x"}]) == IDLE
