"""Evaluating a head ahead: pieces of a second or two, on fast and slow servers, until it is done or in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from aider_guard.core.chat.body import PromptHead
from aider_guard.core.readings import Unavailable
from aider_guard.door.prewarm import (
    FULL_TOKENS,
    NO_ROOM,
    NOT_KEPT,
    PIECE_SECONDS,
    SLOW_PIECE_SECONDS,
    HeadEvaluation,
)

HEAD = PromptHead("/api/chat", {"model": "m"}, ({"role": "system", "content": "x" * 20_000},), "")


class Server:
    """Evaluates so many characters a second; ``seconds`` of each piece are kept."""

    def __init__(self, speed: float, *, keeps: bool = True, noise: float = 1.0) -> None:
        self.speed, self.keeps, self.noise = speed, keeps, noise
        self.now, self.known = 0.0, 0
        self.seconds: list[float] = []
        self.ends: list[int] = []

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unavailable:
        assert path == HEAD.path
        end = len(body["messages"][0]["content"])
        slower = self.noise if len(self.ends) % 2 else 1.0
        self.seconds.append((end - (self.known if self.keeps else 0)) / self.speed * slower + 0.01)
        self.now += self.seconds[-1]
        self.known = end
        self.ends.append(end)
        return {"prompt_eval_count": end // 3}

    def clock(self) -> float:
        return self.now


def run(post: Callable[..., Any], clock: Callable[[], float]) -> tuple[int, str]:
    """Evaluate the head; return the tokens and the problem."""
    evaluation = HeadEvaluation(HEAD, clock)
    asyncio.run(evaluation.run(post))
    return evaluation.tokens, evaluation.problem


@pytest.mark.parametrize("speed", [300.0, 3_000.0, 30_000.0, 3_000_000.0])
@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_pieces_take_a_second_or_two(speed: float, noise: float) -> None:
    """At any speed none takes much longer; a fast server gets few, and all is evaluated."""
    server = Server(speed, noise=noise)
    assert run(server.post, server.clock) == (HEAD.characters // 3, "")
    shall = PIECE_SECONDS if speed > 3 * FULL_TOKENS else SLOW_PIECE_SECONDS
    assert max(server.seconds) < 1.5 * shall * noise
    if speed >= 30_000 and noise == 1.0:
        assert len(server.ends) < 8


@pytest.mark.parametrize("speed", [300.0, 3_000.0])
def test_a_cache_that_keeps_nothing_is_noticed(speed: float) -> None:
    """Before it has cost much more than the head is worth."""
    server = Server(speed, keeps=False)
    assert run(server.post, server.clock)[1] == NOT_KEPT
    assert server.now < 1.5 * HEAD.characters / speed


def test_a_busy_machine_is_not_taken_for_a_cache_that_keeps_nothing() -> None:
    """It became forty times slower, and the evaluation goes on."""
    server = Server(3_000.0)

    async def post(path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unavailable:
        server.speed = 3_000.0 if len(server.ends) < 5 else 75.0
        return await server.post(path, body)

    assert run(post, server.clock) == (HEAD.characters // 3, "")


def test_pieces_stay_large_where_each_costs_time_beside_its_evaluation() -> None:
    """Sized by all that a piece takes, they would be the smallest there are: 157 of them."""
    server = Server(3_000.0)

    async def post(path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unavailable:
        answer = await server.post(path, body)
        server.now += 0.6
        assert isinstance(answer, dict)
        return {**answer, "prompt_eval_duration": int(server.seconds[-1] * 1e9)}

    assert run(post, server.clock) == (HEAD.characters // 3, "")
    assert len(server.ends) < 25


def test_what_is_known_to_be_cached_is_sent_at_once() -> None:
    """A shorter beginning would have the cache cut back to it."""
    server = Server(3_000.0)
    server.known = 12_000
    evaluation = HeadEvaluation(HEAD, server.clock, done=12_000)
    asyncio.run(evaluation.run(server.post))
    assert server.ends[0] == 12_000
    assert (evaluation.done, evaluation.problem) == (HEAD.characters, "")


def test_no_more_is_evaluated_than_may_be() -> None:
    """Some versions cut what does not fit, and evaluate the rest."""
    server = Server(3_000.0)
    evaluation = HeadEvaluation(HEAD, server.clock, most_tokens=3_000)
    asyncio.run(evaluation.run(server.post))
    assert evaluation.problem == NO_ROOM
    assert 2_000 < evaluation.tokens <= 3_000


def test_a_refusal_ends_it() -> None:
    """The tokens that were evaluated until then are kept."""

    async def refuses(_path: str, _body: Mapping[str, Any]) -> Unavailable:
        return Unavailable("no")

    assert run(refuses, lambda: 0.0) == (0, "no")


def test_strange_numbers_count_nothing() -> None:
    """An answer may hold anything."""

    async def lies(_path: str, _body: Mapping[str, Any]) -> dict[str, Any]:
        return {"prompt_eval_count": "many"}

    assert run(lies, lambda: 0.0) == (0, "")
