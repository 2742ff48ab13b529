"""One attended request's life: what its visit decides is done, until it is over."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import httpx
from anyio import CancelScope

from aider_guard.door.chat_handler import ChatExchange
from aider_guard.door.client import Client
from aider_guard.door.interfaces import Abort, Forward, Outcome, Pass, Reply, Retry, Trouble
from aider_guard.door.upstream import OutgoingRequest, Upstreams, to_aider, trouble_of

# The door's own answers of this layer, and what becomes of an upstream's answer as it comes.

FORBIDDEN: Final = Reply(b"", 403)
_PLAIN: Final = ("", "identity")
_KNOWN: Final = (*_PLAIN, "gzip", "x-gzip", "deflate")


def problem(words: str, status: int) -> Reply:
    """An answer in the protocol's form of an error (Ollama's api/types.go, StatusError)."""
    return Reply(json.dumps({"error": f"aider-guard: {words}"}).encode(), status)


BUG: Final = problem("the guard itself failed at this request", 500)


def unreachable(trouble: Trouble) -> Reply:
    """The upstream gave no answer."""
    return problem(f"the model server does not answer: {trouble.words}", 502)


def is_redirect(answer: httpx.Response) -> bool:
    """Whether an answer sends the asker elsewhere. 304 does not, and no other is of use here."""
    return 300 <= answer.status_code < 400 and answer.status_code != 304


def redirected(answer: httpx.Response) -> Reply:
    """The upstream wants the request elsewhere; where, may be anywhere, and is not told."""
    return problem(
        f"the model server redirects to another address ({answer.status_code}),"
        " which is not followed",
        502,
    )


def decoded(answer: httpx.Response) -> AsyncIterator[bytes] | Trouble:
    """The body of an answer, as it comes, with its coding undone: none was asked for, but some send one."""
    coding = answer.headers.get("content-encoding", "").strip().lower()
    if coding not in _KNOWN:
        return Trouble("broken", "the answer is in a coding that was not asked for")
    # Most of what decoding does is copying, when there is nothing to decode.
    return answer.aiter_raw() if coding in _PLAIN else answer.aiter_bytes()


def tell_bug(error: Exception) -> None:
    """Where the guard's own code failed, to stderr. Without the exception's words, which may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"door: {type(error).__name__} in\n{frames}", file=sys.stderr, flush=True)


MAX_REFUSAL_BYTES: Final = 1024 * 1024
Step = Reply | Retry | Outcome
Result = TypeVar("Result")


async def attend(
    caller: Client, upstreams: Upstreams, question: OutgoingRequest, visit: ChatExchange
) -> None:
    """See a request through. An exception of the visit's ends only this request."""
    outcome: Outcome = "cancelled"
    try:
        with caller.cancelled_when_gone():
            outcome = await _Exchange(caller, upstreams, question, visit).live()
    except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
        tell_bug(error)
        outcome = "broken"
        if not caller.started:
            await caller.reply(BUG)
    finally:
        await _end(visit, outcome)


async def _end(visit: ChatExchange, outcome: Outcome) -> None:
    try:
        await visit.end(outcome)
    except Exception as error:  # noqa: BLE001  # as above
        tell_bug(error)


@dataclass(frozen=True)
class _Exchange:
    caller: Client
    upstreams: Upstreams
    question: OutgoingRequest
    visit: ChatExchange

    async def live(self) -> Outcome:
        decision = await uninterrupted(self.visit.begin())
        match decision:
            case Reply() as reply:
                return await self._reply(reply)
            case Forward(body):
                return await self._forward(replace(self.question, body=body))

    async def _reply(self, reply: Reply) -> Outcome:
        await self.caller.reply(reply)
        return "replied"

    async def _forward(self, question: OutgoingRequest) -> Outcome:
        while True:
            match await self._attempt(question):
                case Retry() as retry:
                    await self._wait(retry)
                case Reply() as reply:
                    return await self._reply(reply)
                case outcome:
                    return outcome

    async def _wait(self, retry: Retry) -> None:
        if retry.meanwhile:
            if not self.caller.started:
                kind = retry.content_type.encode("latin-1")
                await self.caller.start(200, [(b"content-type", kind)])
            await self.caller.write(retry.meanwhile)
        await asyncio.sleep(retry.after_seconds)

    async def _attempt(self, question: OutgoingRequest) -> Step:
        answer = await self.upstreams.ask(question)
        if isinstance(answer, Trouble):
            return await uninterrupted(self.visit.failed(answer))
        async with aclosing(answer):
            pieces = decoded(answer)
            if isinstance(pieces, Trouble):
                return await uninterrupted(self.visit.failed(pieces))
            if answer.status_code == httpx.codes.OK:
                return await self._answer(answer, pieces)
            content = await _read(pieces)
        if isinstance(content, Trouble):
            return await uninterrupted(self.visit.failed(content))
        return await self._refused(answer, content)

    async def _refused(self, answer: httpx.Response, content: bytes) -> Step:
        step = await uninterrupted(self.visit.refused(answer.status_code, content))
        if not isinstance(step, Pass):
            return step
        if is_redirect(answer):
            return redirected(answer)
        if not self.caller.started:
            headers = to_aider(answer.headers.raw, remade=True)
            await self.caller.start(answer.status_code, headers)
        await self.caller.finish(content)
        return "answered"

    async def _answer(self, answer: httpx.Response, pieces: AsyncIterator[bytes]) -> Step:
        if not self.caller.started:
            await self.caller.start(200, to_aider(answer.headers.raw, remade=True))
        try:
            async for piece in pieces:
                passed = self.visit.passed(piece)
                if isinstance(passed, Reply):
                    return passed
                if passed:
                    await self.caller.write(passed)
        except httpx.HTTPError as error:
            broken = replace(trouble_of(error), kind="broken")
            match self.visit.broke(broken):
                case Reply() as reply:
                    return reply
                case Abort():
                    return "broken"
        await self.caller.finish(self.visit.rest())
        return "answered"


async def _read(pieces: AsyncIterator[bytes]) -> bytes | Trouble:
    content = bytearray()
    try:
        async for piece in pieces:
            content += piece
            if len(content) > MAX_REFUSAL_BYTES:
                return Trouble("broken", "the answer is an error of more than a megabyte")
    except httpx.HTTPError as error:
        return trouble_of(error)
    return bytes(content)


async def uninterrupted(work: Coroutine[Any, Any, Result]) -> Result:
    """Await a visit's decision. When Aider goes it is cancelled once, as any task, and may clean up after itself.

    A scope of anyio's would cancel each further ``await`` of that cleaning up, too.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with CancelScope(shield=True):
            await asyncio.wait([task])
        raise


# A request that is only passed on: its body and its answer go through piece by piece, at any size.


async def pass_on(caller: Client, upstreams: Upstreams, question: OutgoingRequest) -> None:
    """Answer with the upstream's own answer. Where that breaks off, the connection to Aider does, too."""
    with caller.cancelled_when_gone():
        answer = await upstreams.ask(question)
        caller.stop_reading()
        if isinstance(answer, Trouble):
            await caller.reply(unreachable(answer))
            return
        async with aclosing(answer):
            if is_redirect(answer):
                await caller.reply(redirected(answer))
            else:
                await hand_on(caller, answer)


async def hand_on(caller: Client, answer: httpx.Response) -> bool:
    """Send an answer as it comes; whether all of it came."""
    await caller.start(answer.status_code, to_aider(answer.headers.raw, remade=False))
    return await copy(caller, answer.aiter_raw())


async def copy(caller: Client, pieces: AsyncIterator[bytes]) -> bool:
    """Send the rest of an answer as it comes; whether all of it came."""
    try:
        async for piece in pieces:
            await caller.write(piece)
    except httpx.HTTPError:
        return False
    await caller.finish()
    return True
