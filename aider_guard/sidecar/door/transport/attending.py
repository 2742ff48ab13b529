"""One attended request's life: what its visit decides is done, until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import httpx
from anyio import CancelScope

from aider_guard.sidecar.door.seam import (
    Abort,
    Forward,
    Outcome,
    Pass,
    Reply,
    Retry,
    Trouble,
    Visit,
)
from aider_guard.sidecar.door.transport.answers import (
    BUG,
    decoded,
    is_redirect,
    redirected,
    tell_bug,
)
from aider_guard.sidecar.door.transport.caller import Caller
from aider_guard.sidecar.door.transport.headers import to_aider
from aider_guard.sidecar.door.transport.troubles import trouble_of
from aider_guard.sidecar.door.transport.upstream import Question, Upstreams

MAX_REFUSAL_BYTES: Final = 1024 * 1024
Step = Reply | Retry | Outcome
Result = TypeVar("Result")


async def attend(caller: Caller, upstreams: Upstreams, question: Question, visit: Visit) -> None:
    """See a request through. An exception of the visit's ends only this request."""
    outcome: Outcome = "cancelled"
    try:
        with caller.cancelled_when_gone():
            outcome = await _Attended(caller, upstreams, question, visit).live()
    except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
        tell_bug(error)
        outcome = "broken"
        if not caller.started:
            await caller.reply(BUG)
    finally:
        await _end(visit, outcome)


async def _end(visit: Visit, outcome: Outcome) -> None:
    try:
        await visit.end(outcome)
    except Exception as error:  # noqa: BLE001  # as above
        tell_bug(error)


@dataclass(frozen=True)
class _Attended:
    caller: Caller
    upstreams: Upstreams
    question: Question
    visit: Visit

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

    async def _forward(self, question: Question) -> Outcome:
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

    async def _attempt(self, question: Question) -> Step:
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
