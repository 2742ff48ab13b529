"""Aider's side of one request: reads its body, sends its answer, and notices when Aider goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyio import CancelScope

from aider_guard.door.interfaces import Reply
from aider_guard.door.limits import BodyShare
from aider_guard.door.upstream import RawHeaders, body_length

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope


class GoneError(Exception):
    """Aider closed the connection while its request was read."""


class Client:
    """One HTTP request over ASGI (asgi.readthedocs.io). Only the request's own task may use it."""

    def __init__(
        self,
        scope: HTTPScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        memory: BodyShare,
    ) -> None:
        self.method = scope["method"]
        self.query = scope["query_string"].decode("ascii", "replace")
        self.headers: RawHeaders = list(scope["headers"])
        self.received_at = time.monotonic()
        self.started = False
        self._memory = memory
        self._receive = receive
        self._send = send
        self._body_over = asyncio.Event()

    async def body(self, limit_bytes: int) -> tuple[bytes, bool]:
        """Return the body, and True; or the beginning of one that is longer than ``limit_bytes``, and False.

        Raises ``GoneError`` when Aider goes, and ``NoRoomError``, before a body is read if it says how long it is.
        """
        read = bytearray()
        self._memory.grow_to(min(body_length(self.headers) or 0, limit_bytes))
        while not self._body_over.is_set() and len(read) <= limit_bytes:
            read += await self._piece()
            self._memory.grow_to(len(read))
        return bytes(read), len(read) <= limit_bytes

    async def pieces(self, before: bytes) -> AsyncIterator[bytes]:
        """Yield what was read already, then the rest of the body as it comes. Raises ``GoneError`` when Aider goes."""
        if before:
            yield before
        while not self._body_over.is_set():
            if piece := await self._piece():
                yield piece

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self._body_over.set()
            raise GoneError
        if not message.get("more_body", False):
            self._body_over.set()
        return message.get("body", b"")

    def stop_reading(self) -> None:
        """Ignore the rest of the body."""
        self._body_over.set()

    @contextmanager
    def cancelled_when_gone(self) -> Iterator[CancelScope]:
        """Cancel what runs inside when Aider closes the connection.

        A scope of anyio's and not a plain ``Task.cancel``: httpcore protects what must not be interrupted (giving a
        connection back) with shields that only such a scope respects.
        """
        with CancelScope() as scope:

            async def watch() -> None:
                await self._body_over.wait()
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                scope.cancel()

            watcher = asyncio.create_task(watch())
            try:
                yield scope
            finally:
                watcher.cancel()

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Begin the answer, unless it has begun."""
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, content: bytes) -> None:
        """Send a piece of the answer; waits while Aider does not read."""
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def finish(self, content: bytes = b"") -> None:
        """Send the last piece of the answer."""
        await self._send({"type": "http.response.body", "body": content, "more_body": False})

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer; one that has begun already ends with the content."""
        headers = [(b"content-length", str(len(reply.content)).encode())]
        if reply.content:
            headers.append((b"content-type", reply.content_type.encode("latin-1")))
        await self.start(reply.status, headers)
        await self.finish(reply.content)
