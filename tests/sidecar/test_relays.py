"""Relays to allowed places, with real sockets: bodies both ways, cuts by chance, refusals, and nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aider_guard.core.egress import Place
from aider_guard.sidecar.relays import MOST_AT_ONCE, AllowedRelay, serve_relays

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LARGE_BYTES = 8 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


class Ends:
    """A place, and the relay that leads to it."""

    def __init__(self, place: Place, port: int, passed: list[Place]) -> None:
        self.place = place
        self.port = port
        self.passed = passed

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def relayed(
    place: Place, *, connect_seconds: float = 10.0, passed: list[Place] | None = None
) -> AsyncIterator[Ends]:
    connections: list[Place] = [] if passed is None else passed
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    relay = AllowedRelay(listener.detach(), place)
    serving = asyncio.create_task(
        serve_relays([relay], connections.append, connect_seconds=connect_seconds)
    )
    try:
        yield Ends(place, port, connections)
        assert not serving.done()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def place(handler: Handler) -> AsyncIterator[Place]:
    """A server outside."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield Place("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run a story, within half a minute, after which no descriptor is left open."""
    before = open_files()
    asyncio.run(asyncio.wait_for(story, 30))
    assert open_files() == before


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def digest_of(reader: asyncio.StreamReader) -> str:
    digest = hashlib.sha256()
    while chunk := await reader.read(65536):
        digest.update(chunk)
    return digest.hexdigest()


def test_large_bodies_arrive_both_ways_at_once() -> None:
    """Each byte, in order, and the end of both streams."""

    async def story() -> None:
        body, answer = random.randbytes(LARGE_BYTES), random.randbytes(LARGE_BYTES)
        got: asyncio.Queue[str] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def send() -> None:
                writer.write(answer)
                await writer.drain()
                writer.write_eof()

            _, digest = await asyncio.gather(send(), digest_of(reader))
            got.put_nowait(digest)

        async with place(serve) as outside, relayed(outside) as ends:
            reader, writer = await ends.connect()
            writer.write(body)
            writer.write_eof()
            assert await digest_of(reader) == hashlib.sha256(answer).hexdigest()
            assert await got.get() == hashlib.sha256(body).hexdigest()
            assert ends.passed == [outside]
            writer.close()

    run(story())


def test_one_direction_may_end_before_the_other() -> None:
    """A client that has sent its end still gets the answer; also when the end comes before the place is reached."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(b"hello " + question)
        writer.write_eof()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        received.append(await reader.read())
        complete.set()

    received: list[bytes] = []
    complete = asyncio.Event()

    async def story() -> None:
        async with place(late) as outside, relayed(outside) as ends:
            reader, writer = await ends.connect()
            writer.write(b"world")
            writer.write_eof()
            assert await reader.read() == b"hello world"
            writer.close()
        async with place(early) as outside, relayed(outside) as ends:
            reader, writer = await ends.connect()
            assert await reader.read() == b""
            writer.write(b"still")
            writer.write_eof()
            await complete.wait()
            assert received == [b"still"]
            writer.close()

    run(story())


def test_a_slow_reader_is_waited_for() -> None:
    """The relay buffers a bounded part, and the place cannot send more."""

    async def story() -> None:
        sent = 0
        stuck = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            while True:
                writer.write(bytes(65536))
                try:
                    await asyncio.wait_for(writer.drain(), 0.5)
                except asyncio.TimeoutError:
                    stuck.set()
                    await writer.drain()
                sent += 65536

        async with place(serve) as outside, relayed(outside) as ends:
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            small.setblocking(False)
            with small:
                await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", ends.port))
                await stuck.wait()
                assert sent < 64 * 1024 * 1024
                before = sent
                for _ in range(400):
                    await asyncio.get_running_loop().sock_recv(small, 65536)
                    if sent > before:
                        break
                assert sent > before

    run(story())


async def end_of(reader: asyncio.StreamReader) -> str:
    try:
        return "ended" if await reader.read() == b"" else "answered"
    except ConnectionResetError:
        return "reset"


def reset(writer: asyncio.StreamWriter) -> None:
    channel = writer.get_extra_info("socket")
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_place_that_refuses_resets_the_connection() -> None:
    """About as without the relay; bytes sent before do not matter; the connection is counted."""

    async def story() -> None:
        refusing = Place("127.0.0.1", free_port())
        async with relayed(refusing) as ends:
            for pieces in (b"", b"x" * 100_000):
                reader, writer = await ends.connect()
                writer.write(pieces)
                assert await end_of(reader) == "reset"
                writer.close()
            assert ends.passed == [refusing, refusing]
        unknown = Place("no-such-name.invalid", 1)
        async with relayed(unknown) as ends:
            reader, writer = await ends.connect()
            assert await end_of(reader) == "reset"
            writer.close()

    run(story())


@contextmanager
def deaf_place() -> Iterator[tuple[Place, Callable[[], list[socket.socket]]]]:
    """A listener whose queue is full, so that it does not answer, and a function that accepts the waiting ones."""
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        deaf.setblocking(False)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())

        accepted: list[socket.socket] = []

        def accept_waiting() -> list[socket.socket]:
            with suppress(BlockingIOError):
                while True:
                    accepted.append(stack.enter_context(deaf.accept()[0]))
                    accepted[-1].setblocking(False)
            return accepted

        yield Place(*deaf.getsockname()), accept_waiting


def test_a_place_that_does_not_answer_has_its_time() -> None:
    """Then the connection is reset; one that is given up before leaves nothing, nor does one at the end."""

    async def story() -> None:
        with deaf_place() as (deaf, _):
            async with relayed(deaf, connect_seconds=0.2) as ends:
                reader, writer = await ends.connect()
                assert await end_of(reader) == "reset"
                writer.close()
            async with relayed(deaf, connect_seconds=60) as ends:
                await asyncio.sleep(0)
                before = open_files()
                _, writer = await ends.connect()
                while not ends.passed:
                    await asyncio.sleep(0.001)
                reset(writer)
                while open_files() != before:
                    await asyncio.sleep(0.01)
                _, writer = await ends.connect()
                while len(ends.passed) < 2:
                    await asyncio.sleep(0.001)
            writer.close()

    run(story())


@pytest.mark.parametrize("pieces", [[b"sent early"], []])
def test_bytes_sent_before_the_place_answers_are_kept(pieces: list[bytes]) -> None:
    """In order, and its end as well: the place takes the connection a second later."""

    async def story() -> None:
        with deaf_place() as (slow, accept_waiting):
            async with relayed(slow) as ends:
                _, writer = await ends.connect()
                writer.writelines(pieces)
                writer.write_eof()
                while not ends.passed:
                    await asyncio.sleep(0.001)
                received: list[bytes] = []
                while b"" not in received:
                    await asyncio.sleep(0.02)
                    for connection in accept_waiting():
                        with suppress(BlockingIOError):
                            received.append(connection.recv(100))
                assert received == [*pieces, b""]
                writer.close()

    run(story())


def test_a_reset_is_passed_on() -> None:
    """In both directions."""

    async def story() -> None:
        ends_seen: list[str] = []
        seen = asyncio.Event()

        async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            reset(writer)

        async def sees(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x")
            ends_seen.append(await end_of(reader))
            seen.set()

        async with place(breaks) as outside, relayed(outside) as ends:
            reader, writer = await ends.connect()
            writer.write(b"x")
            assert await end_of(reader) == "reset"
            writer.close()
        async with place(sees) as outside, relayed(outside) as ends:
            reader, writer = await ends.connect()
            await reader.readexactly(1)
            reset(writer)
            await seen.wait()
            assert ends_seen == ["reset"]

    run(story())


@pytest.mark.parametrize("seed", range(3))
def test_fifty_connections_with_cuts_by_chance(seed: int) -> None:
    """A connection that is not cut gets each byte; the relay goes on; no descriptor is left."""
    chance = random.Random(seed)

    async def transfer(ends: Ends, size: int, cut: int) -> bool:
        """Whether all came back, for a connection that is cut after so many bytes."""
        reader, writer = await ends.connect()
        body = chance.randbytes(size)

        async def send() -> None:
            at = 0
            while at < len(body):
                piece = body[at : at + chance.randrange(1, 50_000)]
                writer.write(piece)
                await writer.drain()
                at += len(piece)
                if at > cut:
                    writer.transport.abort()
                    return
            writer.write_eof()

        _, digest = await asyncio.gather(send(), digest_of(reader), return_exceptions=True)
        writer.close()
        return digest == hashlib.sha256(body).hexdigest()

    async def story() -> None:
        async with place(echo) as outside, relayed(outside) as ends:
            sizes = [chance.randrange(1, 300_000) for _ in range(50)]
            cuts = [chance.randrange(size) if chance.random() < 0.4 else size for size in sizes]
            whole = await asyncio.gather(*map(transfer, [ends] * 50, sizes, cuts))
            for size, cut, came in zip(sizes, cuts, whole, strict=True):
                assert came or cut < size
            assert sum(whole) >= 20
            assert await transfer(ends, 1000, 1000)
            assert len(ends.passed) == 51

    run(story())


def test_ending_cuts_everything() -> None:
    """Connections that stand, that are being made, and the listening socket."""

    async def story() -> None:
        async with place(echo) as outside:
            async with relayed(outside) as ends:
                joined = [await ends.connect() for _ in range(5)]
                for reader, writer in joined:
                    writer.write(b"x")
                    assert await reader.readexactly(1) == b"x"
                fresh = await ends.connect()
                stuck = await ends.connect()
                stuck[0]._transport.pause_reading()  # type: ignore[attr-defined]  # it reads no more
                with suppress(asyncio.TimeoutError):
                    while True:
                        stuck[1].write(bytes(65536))
                        await asyncio.wait_for(stuck[1].drain(), 0.3)
            stuck[1].transport.abort()
            for reader, writer in [*joined, fresh]:
                assert await end_of(reader) in {"ended", "reset"}
                writer.close()
            with pytest.raises(ConnectionRefusedError):
                await ends.connect()

    run(story())


def test_there_is_a_bound_on_connections_at_once() -> None:
    """A connection above it is reset at once; when others are closed there is room again."""

    async def story() -> None:
        async with place(echo) as outside, relayed(outside) as ends:
            crowd = []
            for _ in range(MOST_AT_ONCE):
                reader, writer = await ends.connect()
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                crowd.append((reader, writer))
            reader, over = await ends.connect()
            assert await end_of(reader) == "reset"
            over.close()
            for reader, writer in crowd:
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            reader, writer = await ends.connect()
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()

    run(story())


def test_small_pieces_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP_NODELAY is set on both ends of the relay: a reply of a byte does not wait for an acknowledgement."""
    set_on: list[str] = []
    real = socket.socket.setsockopt

    def watched(channel: socket.socket, *arguments: Any) -> None:
        if arguments[:2] == (socket.IPPROTO_TCP, socket.TCP_NODELAY) and arguments[2]:
            set_on.append("relay")
        real(channel, *arguments)

    async def story() -> None:
        async with place(echo) as outside, relayed(outside) as ends:
            monkeypatch.setattr(socket.socket, "setsockopt", watched)
            with socket.create_connection(("127.0.0.1", ends.port)) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, b"x")
                assert await loop.sock_recv(client, 1) == b"x"
        assert len(set_on) == 3  # both ends of the relay, and the place's own

    run(story())
