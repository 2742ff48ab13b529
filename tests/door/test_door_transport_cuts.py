"""Aider closes its connection at any moment of a request: the upstream's closes at once, and the exchange ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from door.plain_handler import PlainExchange, PlainHandler
from door.scripted import CAP_SECONDS, TOKEN, Connection, Scripted, door_to

from aider_guard.core.chat.types import Upstream
from aider_guard.door.interfaces import (
    Forward,
    IncomingRequest,
    Outcome,
    Pass,
    Reply,
    Retry,
    Trouble,
)


@dataclass
class Moments:
    """What happened, for the test's thread to wait for."""

    reached: threading.Event = field(default_factory=threading.Event)
    cleaned: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    outcomes: list[Outcome] = field(default_factory=list)

    def handler(self, kind: Callable[..., PlainExchange]) -> PlainHandler:
        """Return a handler whose exchanges record their ends here."""
        return PlainHandler(lambda incoming, _: kind(incoming, self._end))

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.ended.set()

    async def wait_for_ever(self) -> None:
        """Wait until the exchange is cancelled, then take a moment to clean up."""
        self.reached.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.cleaned.set()


@dataclass
class Slow(PlainExchange):
    """Waits for ever in the method ``where``."""

    moments: Moments = field(default_factory=Moments)
    where: str = ""

    async def begin(self) -> Forward | Reply:
        await self._at("begin")
        return await super().begin()

    async def on_trouble(self, trouble: Trouble) -> Reply | Retry:
        await self._at("on_trouble")
        return await super().on_trouble(trouble)

    async def on_refusal(
        self, status: int, content: bytes, location: str = ""
    ) -> Reply | Retry | Pass:
        await self._at("on_refusal")
        if self.where == "retry":
            self.moments.reached.set()
            return Retry(CAP_SECONDS * 10, b"wait")
        return await super().on_refusal(status, content, location)

    async def _at(self, where: str) -> None:
        if where == self.where:
            await self.moments.wait_for_ever()


@pytest.mark.parametrize("where", ["begin", "on_trouble", "on_refusal", "retry"])
def test_an_exchange_that_decides_is_cancelled_and_may_clean_up(where: str) -> None:
    """Each ``await`` of its cleaning up goes through: it is cancelled once, like any task."""
    moments = Moments()

    def script(connection: Connection) -> None:
        connection.request()
        if where != "on_trouble":
            connection.whole(b"busy", "503 Service Unavailable")
            connection.wait_closed()

    handler = moments.handler(lambda incoming, ended: Slow(incoming, ended, moments, where))
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        with door.post():
            assert moments.reached.wait(CAP_SECONDS)
        assert moments.ended.wait(CAP_SECONDS)
        assert where == "retry" or moments.cleaned.is_set()
    assert moments.outcomes == ["cancelled"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/pull"])
@pytest.mark.parametrize("chunks", [None, 0, 3])
def test_the_upstream_is_closed_while_it_thinks_and_while_it_answers(
    path: str, chunks: int | None
) -> None:
    """Ollama stops when its connection closes; until then it would go on in vain."""
    moments = Moments()

    def script(connection: Connection) -> None:
        connection.request()
        if chunks is not None:
            connection.head()
            for _ in range(chunks):
                connection.chunk(b"x" * 10)
        moments.reached.set()
        if connection.wait_closed():
            moments.closed.set()

    handler = moments.handler(PlainExchange)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        with door.post(path) as aider:
            assert moments.reached.wait(CAP_SECONDS)
            if chunks is not None:
                _read_until(aider.recv, chunks * b"a\r\nxxxxxxxxxx\r\n")
        assert moments.closed.wait(CAP_SECONDS)
        assert path == "/api/pull" or moments.ended.wait(CAP_SECONDS)
    assert moments.outcomes == (["cancelled"] if path == "/api/chat" else [])


def _read_until(receive: Callable[[int], bytes], last: bytes) -> None:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(last):
        piece = receive(65536)
        assert piece
        received += piece


def test_a_busy_upstream_is_closed_while_aider_does_not_read() -> None:
    """The door waits for Aider to read, and still sees it go."""
    moments = Moments()

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        moments.reached.set()
        try:
            while True:
                connection.chunk(b"x" * 65536)
        except OSError:
            moments.closed.set()

    handler = moments.handler(PlainExchange)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        with door.post():
            assert moments.reached.wait(CAP_SECONDS)
        assert moments.closed.wait(CAP_SECONDS)
        assert moments.ended.wait(CAP_SECONDS)
    assert moments.outcomes == ["cancelled"]


def test_half_a_request_opens_no_exchange() -> None:
    """Aider closed the connection while its request was read."""
    handler = PlainHandler()
    with door_to(handler, "http://127.0.0.1:9") as door:
        with door.connect() as half:
            half.sendall(_half("/api/chat"))
        with door.post("/api/chat", b"x") as whole:
            assert whole.recv(12) == b"HTTP/1.1 502"
    assert [incoming.body for incoming in handler.received] == [b"x"]


def _half(path: str) -> bytes:
    lines = (f"POST /{TOKEN}{path} HTTP/1.1", "Host: x", "Content-Length: 3000000", "", "")
    return "\r\n".join(lines).encode() + b"x" * 2_000_000


def test_an_upload_that_is_cut_is_cut_for_the_upstream_too() -> None:
    """The rest of a large body will not come."""
    moments = Moments()

    def script(connection: Connection) -> None:
        assert connection.receive()
        moments.reached.set()
        if connection.wait_closed():
            moments.closed.set()

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        with door.connect() as half:
            half.sendall(_half("/api/blobs/sha256:1"))
            assert moments.reached.wait(CAP_SECONDS)
        assert moments.closed.wait(CAP_SECONDS)


def test_the_body_is_not_in_the_repr() -> None:
    """Prompts are not printed."""
    incoming = IncomingRequest(1, Upstream("", "", "ollama"), "/api/chat", b"secret", 0.0)
    assert "secret" not in repr(incoming)
