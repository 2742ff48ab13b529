"""Carries one request to its upstream and the answer back: as its exchange decides, or as it is."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import httpx
from anyio import CancelScope

from aider_guard.core.server_answers import shown_location
from aider_guard.door.chat_handler import ChatExchange
from aider_guard.door.client import Client
from aider_guard.door.interfaces import (
    Abort,
    Forward,
    Outcome,
    Pass,
    Reply,
    Retry,
    Trouble,
    error_reply,
)
from aider_guard.door.request_order import RequestOrder, RequestTurn
from aider_guard.door.upstream import OutgoingRequest, Upstreams, to_aider, trouble_of

FORBIDDEN: Final = Reply(b"", 403)
BUG: Final = error_reply("the guard itself failed at this request", 500)
MAX_REFUSAL_BYTES: Final = 1024 * 1024
_PLAIN: Final = ("", "identity")
_KNOWN: Final = (*_PLAIN, "gzip", "x-gzip", "deflate")

Step = Reply | Retry | Outcome
Result = TypeVar("Result")


def is_redirect(answer: httpx.Response) -> bool:
    """Return whether an answer sends the asker elsewhere. 304 does not, and no other is of use here."""
    return 300 <= answer.status_code < 400 and answer.status_code != 304


def redirected(answer: httpx.Response) -> Reply:
    """Return the error for a redirect. The new address may be anywhere: it is told, but not followed."""
    where = shown_location(answer.headers.get("location", "")) or "another address"
    words = f"the model server redirects to {where} ({answer.status_code}), which is not followed"
    return error_reply(words, 502)


def decoded(answer: httpx.Response) -> AsyncIterator[bytes] | Trouble:
    """Return the body of an answer, as it comes, with its coding undone: none was asked for, but some send one."""
    coding = answer.headers.get("content-encoding", "").strip().lower()
    if coding not in _KNOWN:
        return Trouble("broken", "the answer is in a coding that was not asked for")
    # Most of what decoding does is copying, when there is nothing to decode.
    return answer.aiter_raw() if coding in _PLAIN else answer.aiter_bytes()


def report_bug(error: Exception) -> None:
    """Print where the guard's own code failed to stderr, without the exception's words, which may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"door: {type(error).__name__} in\n{frames}", file=sys.stderr, flush=True)


async def run_exchange(
    client: Client,
    upstreams: Upstreams,
    outgoing: OutgoingRequest,
    exchange: ChatExchange,
    order: RequestOrder,
) -> None:
    """See a request for text through. An exception of the exchange's ends only this request."""
    outcome: Outcome = "cancelled"
    try:
        with client.cancelled_when_gone():
            outcome = await _Run(client, upstreams, outgoing, exchange, order).run()
    except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
        report_bug(error)
        outcome = "broken"
        if not client.started:
            await client.reply(BUG)
    finally:
        try:
            await exchange.end(outcome)
        except Exception as error:  # noqa: BLE001  # as above
            report_bug(error)


@dataclass(frozen=True)
class _Run:
    client: Client
    upstreams: Upstreams
    outgoing: OutgoingRequest
    exchange: ChatExchange
    order: RequestOrder

    async def run(self) -> Outcome:
        step: Step | Forward = await uninterrupted(self.exchange.begin())
        while isinstance(step, Retry):  # its model is being loaded
            await self._wait(step)
            step = await uninterrupted(self.exchange.begin())
        outgoing = self.outgoing
        if isinstance(step, Forward):
            outgoing = replace(outgoing, body=step.body)
            step = await self._attempt(outgoing)
        while isinstance(step, Retry):
            await self._wait(step)
            step = await self._attempt(outgoing)
        if isinstance(step, Reply):
            await self.client.reply(step)
            return "replied"
        return step

    async def _show(self, piece: Reply) -> None:
        """Send Aider a piece of an answer before there is one."""
        kind = piece.content_type.encode("latin-1")
        await self.client.start(piece.status, [(b"content-type", kind)])
        await self.client.write(piece.content)

    async def _wait(self, retry: Retry) -> None:
        if retry.meanwhile:
            await self._show(Reply(retry.meanwhile, content_type=retry.content_type))
        await asyncio.sleep(retry.after_seconds)

    async def _attempt(self, outgoing: OutgoingRequest) -> Step:
        """Ask when its turn has come; again, later, if it had to make way."""
        turn, step = self.exchange.turn, None
        if turn is None:
            return await self._ask(outgoing)
        while step is None:
            async with self.order.turn(turn):
                step = await self._ask_unless_cut(outgoing, turn)
        return step

    async def _ask_unless_cut(self, outgoing: OutgoingRequest, turn: RequestTurn) -> Step | None:
        """Ask, and return None if the request had to make way before its answer began."""
        if not turn.may_be_cut:
            return await self._ask(outgoing)
        step: Step | None = None
        with CancelScope() as scope:

            async def watch() -> None:
                await turn.cut.wait()
                if not self.client.started:
                    scope.cancel()

            watcher = asyncio.create_task(watch())
            try:
                step = await self._ask(outgoing)
            finally:
                watcher.cancel()
        return step

    async def _ask(self, outgoing: OutgoingRequest) -> Step:
        answer = await self._head(outgoing)
        if isinstance(answer, Trouble):
            return await uninterrupted(self.exchange.on_trouble(answer))
        async with aclosing(answer):
            pieces = decoded(answer)
            if isinstance(pieces, Trouble):
                return await uninterrupted(self.exchange.on_trouble(pieces))
            if answer.status_code == httpx.codes.OK:
                return await self._answer(answer, pieces)
            content = await _read(pieces)
        if isinstance(content, Trouble):
            return await uninterrupted(self.exchange.on_trouble(content))
        location = answer.headers.get("location", "")
        step = await uninterrupted(self.exchange.on_refusal(answer.status_code, content, location))
        if not isinstance(step, Pass):
            return step
        if is_redirect(answer):
            return redirected(answer)
        await self.client.start(answer.status_code, to_aider(answer.headers.raw, remade=True))
        await self.client.finish(content)
        return "answered"

    async def _head(self, outgoing: OutgoingRequest) -> httpx.Response | Trouble:
        """Wait for the head of the answer, which comes when the prompt is read, and tell how far that is."""
        reading = self.exchange.reading
        if reading is None or not reading.is_followed:
            return await self.upstreams.ask(outgoing)
        follower = asyncio.create_task(self._follow())
        try:
            return await self.upstreams.ask(outgoing)
        finally:
            follower.cancel()
            with CancelScope(shield=True):  # a piece of its own is sent as a whole
                await asyncio.wait([follower])

    async def _follow(self) -> None:
        try:
            await self.exchange.follow_reading(self._show)
        except Exception as error:  # noqa: BLE001  # a bug there costs the user no answer
            report_bug(error)

    async def _answer(self, answer: httpx.Response, pieces: AsyncIterator[bytes]) -> Step:
        await self.client.start(200, to_aider(answer.headers.raw, remade=True))
        try:
            async for piece in pieces:
                result = self.exchange.on_chunk(piece)
                if isinstance(result, Reply):
                    return result
                if result:
                    await self.client.write(result)
        except httpx.HTTPError as error:
            step = self.exchange.on_broken(replace(trouble_of(error), kind="broken"))
            return "broken" if isinstance(step, Abort) else step
        await self.client.finish(self.exchange.remainder())
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
    """Await a decision. When Aider goes, it is cancelled once, as any task, and may clean up after itself.

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


async def pass_on(client: Client, upstreams: Upstreams, outgoing: OutgoingRequest) -> None:
    """Answer with the upstream's own answer, piece by piece and at any size.

    Where the answer breaks off, the connection to Aider does, too.
    """
    with client.cancelled_when_gone():
        answer = await upstreams.ask(outgoing)
        client.stop_reading()
        if isinstance(answer, Trouble):
            words = f"the model server does not answer: {answer.words}"
            await client.reply(error_reply(words, 502))
            return
        async with aclosing(answer):
            if is_redirect(answer):
                await client.reply(redirected(answer))
                return
            await client.start(answer.status_code, to_aider(answer.headers.raw, remade=False))
            with suppress(httpx.HTTPError):
                async for piece in answer.aiter_raw():
                    await client.write(piece)
                await client.finish()
