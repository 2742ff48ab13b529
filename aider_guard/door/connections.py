"""The connections to the door: what each may keep, and which is closed for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from aider_guard.door.interfaces import Reply, error_reply
from aider_guard.door.limits import DoorLimits

_FIELD_BYTES = 32
_UNREADABLE = error_reply("this is no request of HTTP that the door can read", 400)


class Connections:
    """Keeps the connections on which the token has not come yet, oldest first, to so many.

    uvicorn's ``limit_concurrency`` refuses the newest, and counts all.
    """

    def __init__(self, limits: DoorLimits, has_token: Callable[[bytes], bool]) -> None:
        self.limits = limits
        self.has_token = has_token
        self._without_token: dict[DoorConnection, None] = {}

    def add(self, connection: DoorConnection) -> None:
        """Take a new connection; the oldest without the token makes way."""
        self._without_token[connection] = None
        if len(self._without_token) > self.limits.connections_without_token:
            oldest = next(iter(self._without_token))
            self.remove(oldest)
            oldest.transport.abort()

    def remove(self, connection: DoorConnection) -> None:
        """Forget a connection that was closed, or on which the token came."""
        self._without_token.pop(connection, None)


class _RefusedError(Exception):
    """Raised to the parser, which then reads no more."""


class DoorConnection(HttpToolsProtocol):
    """uvicorn's side of one connection, with limits.

    uvicorn and httptools have none for a head or its time, nor for requests that wait on one connection: uvicorn's
    ``h11_max_incomplete_event_size`` is for its slower parser, and ``timeout_keep_alive`` for between requests.
    """

    def __init__(self, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._connections_open = connections
        self._limits = connections.limits
        self._is_in_head = False
        self._head_bytes = 0
        self._unread_bytes = 0
        """What was received since the last whole head or piece of a body."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal = _UNREADABLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin."""
        super().connection_made(transport)
        self._connections_open.add(self)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: let go of everything. uvicorn itself leaves its timer after a reset."""
        self._connections_open.remove(self)
        self._stop_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse, and see that what is not a whole head yet stays small and comes soon."""
        self._unread_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or not self._unread_bytes:
            self._stop_timer()
        elif self._unread_bytes > self._limits.head_bytes:
            self._refuse(self._too_large())
        elif self._head_timer is None:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's interface
        """Refuse what the parser, or a method below, did not take."""
        self._refuse(self._refusal)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head, self._head_bytes = True, 0
        self._unread_bytes = max(self._unread_bytes, 1)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field. One behind the body (a trailer) is left out: it would come after the request was judged."""
        self._count_head(len(name) + len(value) + _FIELD_BYTES)
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Have the request answered."""
        self._is_in_head = False
        self._unread_bytes = 0
        if len(self.pipeline) >= self._limits.pipelined_requests:
            self._refusal = error_reply("too many requests wait on this connection", 503)
            raise _RefusedError
        super().on_headers_complete()
        if self._connections_open.has_token(self.scope["raw_path"]):
            self._connections_open.remove(self)

    def on_chunk_header(self) -> None:
        """A piece of a chunked body begins."""
        self._unread_bytes = 0

    def on_chunk_complete(self) -> None:
        """A piece of a chunked body is there."""
        self._unread_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._unread_bytes = 0
        super().on_message_complete()

    def _count_head(self, more_bytes: int) -> None:
        self._head_bytes += more_bytes
        if self._head_bytes > self._limits.head_bytes:
            self._refusal = self._too_large()
            raise _RefusedError

    def _too_large(self) -> Reply:
        kib = self._limits.head_bytes // 1024
        return error_reply(f"a request whose head is larger than {kib} KiB is not read", 431)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._end_wait)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_wait(self) -> None:
        if self._unread_bytes:
            words = f"the head of a request takes longer than {self._limits.head_seconds:g} s"
            self._refuse(error_reply(words, 408))
        else:
            self.transport.close()

    def _refuse(self, reply: Reply) -> None:
        """Answer and close. In the middle of another answer there is no place for one."""
        cycle: RequestResponseCycle | None = self.cycle
        is_answering = cycle and cycle.response_started and not cycle.response_complete
        if self.pipeline or is_answering:
            self.transport.abort()
            return
        fields = (
            f"content-length: {len(reply.content)}\r\ncontent-type: {reply.content_type}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[reply.status] + fields.encode("ascii") + reply.content)
        self.transport.close()
