"""The user's messages go first: side work waits for them, is cut off by them, and is asked for again afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import httpx
import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import LOCAL, OLLAMA, body, message, request_of
from door.plain_handler import PlainExchange, PlainHandler
from door.scripted import CAP_SECONDS, Connection, Scripted, door_to

from aider_guard.door.interfaces import Forward
from aider_guard.door.request_order import RequestOrder, RequestTurn, turn_of

PLACE = ("http://127.0.0.1:11434", "qwen3:8b")
OTHER_PLACE = (PLACE[0], "tiny:1b")


def users(place: tuple[str, str] = PLACE) -> RequestTurn:
    return RequestTurn(place, is_users=True)


def side(place: tuple[str, str] = PLACE) -> RequestTurn:
    return RequestTurn(place, is_side_work=True)


@dataclass
class Asked:
    """Requests in the order in which they were sent, each until it is told to end or has to make way."""

    order: RequestOrder = field(default_factory=RequestOrder)
    sent: list[RequestTurn] = field(default_factory=list)
    ends: dict[RequestTurn, asyncio.Event] = field(default_factory=dict)

    def start(self, turn: RequestTurn) -> asyncio.Task[None]:
        self.ends[turn] = asyncio.Event()
        return asyncio.create_task(self._send(turn))

    async def _send(self, turn: RequestTurn) -> None:
        while not self.ends[turn].is_set():
            async with self.order.turn(turn):
                self.sent.append(turn)
                waits = [asyncio.create_task(one.wait()) for one in (self.ends[turn], turn.cut)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()


async def settled() -> None:
    """Let every task go on until it waits for another."""
    for _ in range(20):
        await asyncio.sleep(0)


def in_order(story: Callable[[Asked], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(Asked())

    asyncio.run(run())


def test_side_work_waits_for_the_users_message() -> None:
    """And goes when its answer has ended."""

    async def story(asked: Asked) -> None:
        mine, commit = users(), side()
        running = [asked.start(mine), asked.start(commit)]
        await settled()
        assert asked.sent == [mine]
        asked.ends[mine].set()
        await settled()
        assert asked.sent == [mine, commit]
        asked.ends[commit].set()
        await asyncio.gather(*running)

    in_order(story)


def test_the_users_message_cuts_side_work_off_which_is_sent_again() -> None:
    """The message is sent once the slot is free, the side work when the message was answered."""

    async def story(asked: Asked) -> None:
        mine, summary = users(), side()
        running = [asked.start(summary)]
        await settled()
        running.append(asked.start(mine))
        await settled()
        assert asked.sent == [summary, mine]
        asked.ends[mine].set()
        await settled()
        assert asked.sent == [summary, mine, summary]
        asked.ends[summary].set()
        await asyncio.gather(*running)

    in_order(story)


def test_side_work_is_not_cut_off_for_ever() -> None:
    """What it had read is lost each time: after three times it goes on beside the message."""

    async def story(asked: Asked) -> None:
        summary = side()
        running = [asked.start(summary)]
        for _ in range(4):
            await settled()
            mine = users()
            running.append(asked.start(mine))
            await settled()
            assert asked.sent[-1] is mine
            asked.ends[mine].set()
        assert asked.sent.count(summary) == 4
        asked.ends[summary].set()
        await asyncio.gather(*running)

    in_order(story)


def test_only_requests_to_one_model_wait_for_each_other() -> None:
    """And what another program asks is held up by nothing."""

    async def story(asked: Asked) -> None:
        turns = [users(), users(), side(OTHER_PLACE), RequestTurn(PLACE)]
        running = [asked.start(turn) for turn in turns]
        await settled()
        assert asked.sent == turns
        for turn in turns:
            asked.ends[turn].set()
        await asyncio.gather(*running)

    in_order(story)


def test_two_of_the_side_go_one_after_the_other() -> None:
    async def story(asked: Asked) -> None:
        first, second = side(), side()
        running = [asked.start(first), asked.start(second)]
        await settled()
        assert asked.sent == [first]
        asked.ends[first].set()
        await settled()
        assert asked.sent == [first, second]
        asked.ends[second].set()
        await asyncio.gather(*running)

    in_order(story)


def test_a_request_given_up_while_it_waits_holds_up_no_other() -> None:
    """Aider stopped the message while it waited for side work to end, and side work that waited."""

    async def story(asked: Asked) -> None:
        stubborn = replace(side(), cuts=3)
        running = [asked.start(stubborn)]
        await settled()
        waiting = asked.start(side())
        await settled()
        waiting.cancel()
        last = side()
        running.append(asked.start(last))
        asked.ends[stubborn].set()
        await settled()
        assert asked.sent == [stubborn, last]
        asked.ends[last].set()
        await asyncio.gather(*running)

    in_order(story)


def test_whose_turn_a_request_is() -> None:
    """Only what is answered as a whole can be cut off; another server has one model under any name."""
    commit = [message("system", prompts.COMMIT), message("user", "# Diffs:\n+a")]
    mine = [message("system", prompts.DIFF), message("user", "fix it")]
    asked = [
        turn_of(request_of("chat", body("chat", messages, stream=stream)), upstream)
        for messages, stream, upstream in (
            (commit, False, OLLAMA),
            (mine, True, OLLAMA),
            (mine, False, LOCAL),
            ([message("user", "hello")], True, OLLAMA),
        )
    ]
    assert [(turn.is_side_work, turn.is_users) for turn in asked] == [
        (True, False),
        (False, True),
        (False, True),
        (False, False),
    ]
    assert asked[0].place == asked[1].place == (OLLAMA.base, "qwen3:8b")
    assert asked[2].place == (LOCAL.base, "")


class InTurn(PlainExchange):
    """Says by its body whose turn it is."""

    async def begin(self) -> Forward:
        self.turn = side() if self.incoming.body == b"side" else users()
        return Forward(self.incoming.body)


@pytest.mark.parametrize("status", [200, 500])
def test_aider_does_not_notice_that_side_work_was_cut_off(status: int) -> None:
    """Its connection to the server closes at once; what is asked again is answered as if nothing had been."""
    reached, closed = threading.Event(), threading.Event()
    bodies: list[bytes] = []

    def serve(connection: Connection) -> None:
        _, content = connection.request()
        bodies.append(content)
        if bodies == [b"side"]:
            reached.set()
            assert connection.wait_closed()
            closed.set()
            return
        if content == b"mine":
            assert closed.wait(CAP_SECONDS)
        connection.whole(content.upper(), f"{status} X", "Connection: close")

    answers: dict[str, httpx.Response] = {}

    def ask(base: str, what: str) -> None:
        answers[what] = httpx.post(
            f"{base}/api/chat", content=what, trust_env=False, verify=False, timeout=CAP_SECONDS
        )

    handler = PlainHandler(InTurn)
    with Scripted(serve) as upstream, door_to(handler, upstream.base) as door:
        threads = [threading.Thread(target=ask, args=(door.base, "side"))]
        threads[0].start()
        assert reached.wait(CAP_SECONDS)
        threads.append(threading.Thread(target=ask, args=(door.base, "mine")))
        threads[1].start()
        for thread in threads:
            thread.join(CAP_SECONDS)
    assert bodies == [b"side", b"mine", b"side"]
    assert {what: (it.status_code, it.content) for what, it in answers.items()} == {
        "side": (status, b"SIDE"),
        "mine": (status, b"MINE"),
    }
