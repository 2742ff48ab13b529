"""Many requests at once, cut at random on either side: nothing hangs, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpcore
import httpx
import psutil
import pytest
from door.plain_handler import PlainExchange, PlainHandler
from door.random_clients import RandomClients, grows_each_time, left, wait_until
from door.scripted import TOKEN, Connection, OpenDoor, Scripted, door_to

from aider_guard.door.client import Client
from aider_guard.door.interfaces import Forward, IncomingRequest, Outcome, Reply

REQUESTS = 500
PIECE = b"x" * 65536
PIECES = 20
"""More than all buffers between the two sides hold, so that a cut comes in the middle."""
LEFT_BEHIND = (
    *(Client, PlainExchange, IncomingRequest, asyncio.Task),
    *(httpx.Response, httpcore.AsyncHTTPConnection),
)
GROWN_BYTES = 16 * 1024 * 1024


@dataclass
class Slow(PlainExchange):
    """Takes a moment for each decision, so that cuts meet it there, too."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))

    async def begin(self) -> Forward | Reply:
        await asyncio.sleep(self.chance.random() / 100)
        return await super().begin()


class Storm(RandomClients):
    """Clients that cut some of their requests."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.whole = self.exchanges = 0
        self.handler = PlainHandler(self._exchange)
        self._lock = threading.Lock()

    def _exchange(
        self, incoming: IncomingRequest, ended: Callable[[Outcome], None]
    ) -> PlainExchange:
        self.exchanges += 1
        self.handler.received.clear()  # with their bodies
        return Slow(incoming, ended, self.chance)

    def script(self, connection: Connection) -> None:
        """An upstream that breaks one answer of ten, and keeps half of the connections."""
        while connection.request()[0]:
            breaks, keeps = self.chance.random() < 0.1, self.chance.random() < 0.5
            connection.head("200 OK", *(() if keeps else ("Connection: close",)))
            for number in range(PIECES):
                if breaks and number == PIECES // 2:
                    return
                connection.chunk(PIECE)
            connection.end()
            if not keeps:
                return

    def _request(self, connected: socket.socket, chance: random.Random) -> bool:
        """Send one request; return whether its connection can be used for another."""
        path = chance.choice(("api/chat", "api/pull"))
        lines = (f"POST /{TOKEN}/{path} HTTP/1.1", "Host: x", "Content-Length: 100000", "", "")
        request = "\r\n".join(lines).encode() + b"y" * 100_000
        fate = chance.random()
        if fate < 0.1:
            connected.sendall(request[: int(chance.random() * len(request))])
            return False
        connected.sendall(request)
        if fate < 0.2:
            return False
        stop_at = int(chance.random() * PIECES * len(PIECE)) if fate < 0.5 else None
        return self._read(connected, stop_at)

    def _read(self, connected: socket.socket, stop_at: int | None) -> bool:
        length, last = 0, b""
        while not last.endswith(b"\r\n0\r\n\r\n"):
            piece = connected.recv(65536)
            if not piece:
                return False
            length, last = length + len(piece), (last + piece)[-16:]
            if stop_at is not None and length > stop_at:
                return False
        assert length > PIECES * len(PIECE)
        with self._lock:
            self.whole += 1
        return True


def _descriptors(door: OpenDoor) -> int:
    """Open files, after a request: that lets go of kept connections which the upstream closed."""
    assert httpx.get(f"{door.base}/api/tags", trust_env=False, verify=False).status_code == 502
    return psutil.Process().num_fds()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_500_requests_by_50_connections_with_random_cuts_leave_nothing_behind() -> None:
    """Every whole answer is whole, every exchange ends once; then sockets, tasks and memory are as before."""
    storm = Storm(seed=4)
    process = psutil.Process()
    exchanges = storm.handler
    with Scripted(storm.script) as upstream, door_to(exchanges, upstream.base) as door:
        before, fds = left(LEFT_BEHIND), process.num_fds()
        storm.run(door, REQUESTS // 5)
        assert wait_until(lambda: len(exchanges.outcomes) == storm.exchanges)
        storm.whole = 0
        assert not grows_each_time(lambda: storm.run(door, REQUESTS), GROWN_BYTES)
        assert wait_until(lambda: len(exchanges.outcomes) == storm.exchanges)
        assert storm.whole > REQUESTS / 3
        assert {"answered", "cancelled", "broken"} == set(exchanges.outcomes)
        upstream.stop()
        assert wait_until(lambda: _descriptors(door) < fds), process.net_connections()
        assert wait_until(lambda: not left(LEFT_BEHIND) - before), left(LEFT_BEHIND) - before
