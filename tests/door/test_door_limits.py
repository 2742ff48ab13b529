"""What clients can take from the door: little memory, few connections, and nothing of the session's."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest
from door.plain_handler import PlainHandler
from door.random_clients import left, settled_bytes, wait_until
from door.scripted import TOKEN, Connection, OpenDoor, Scripted, door_to
from fakes.ollama_server import FakeOllama

from aider_guard.door.connections import DoorConnection
from aider_guard.door.limits import BodyMemory, DoorLimits, NoRoomError

KIB, MIB = 1024, 1024 * 1024
SERVED_SECONDS = 60.0
"""A request that waits longer than this is not served."""
LEFT_BYTES = 16 * MIB
"""What the memory of the process may grow by in an attack."""
IDLE = 1400
DESCRIPTORS = 600
"""Fewer than the idle connections, as in a shell whose limit is 1024."""
IDLE_CLIENT = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
port, count, again = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "again"
kept = []
def connect():
    connected = socket.socket()
    connected.setblocking(False)
    connected.connect_ex(("127.0.0.1", port))
    kept.append(connected)
for _ in range(count):
    connect()
print("connected", flush=True)
while again:
    kept.pop(0).close()
    connect()
sys.stdin.read()
"""


def _answer(connected: socket.socket) -> tuple[int, str]:
    """Return the status and the sentence of a refusal, after which the connection is closed; 0 without an answer."""
    connected.settimeout(SERVED_SECONDS)
    received = b""
    with suppress(ConnectionError):
        while piece := connected.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    if not head:
        return 0, ""
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def _asks(door: OpenDoor) -> int:
    url = f"{door.base}/api/version"
    return httpx.get(url, trust_env=False, verify=False, timeout=SERVED_SECONDS).status_code


def _asks_again(aider: http.client.HTTPConnection) -> int:
    aider.request("GET", f"/{TOKEN}/api/version")
    answer = aider.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"X: " + b"y" * 996 + b"\r\n", id="many fields"),
        pytest.param(b"a:\r\n" * 256, id="many empty fields"),
        pytest.param(b"y" * 1000, id="one field"),
    ],
)
@pytest.mark.parametrize("before", [b"GET / HTTP/1.1\r\nX: ", b"GET /"], ids=["fields", "path"])
def test_a_head_of_600_mb_is_stopped_at_32_kb(piece: bytes, before: bytes) -> None:
    """Whatever it is made of. What was sent beyond lies in the buffers of the kernel."""
    with door_to(PlainHandler(), "http://127.0.0.1:9") as door, door.connect() as client:
        kept_bytes, sent = settled_bytes(), 0
        with suppress(ConnectionError):
            client.sendall(before)
            while sent < 600 * MIB:
                client.sendall(piece * 64)
                sent += len(piece) * 64
                assert sent < 24 * MIB, "it reads on"
        assert settled_bytes() - kept_bytes < LEFT_BYTES


@pytest.mark.parametrize("path", ["/", f"/{TOKEN}/api/version"])
def test_a_head_that_is_a_little_too_large_is_answered(path: str) -> None:
    """431, with a sentence; one that is a little smaller is read."""
    with FakeOllama() as ollama, door_to(PlainHandler(), ollama.url) as door:
        begin = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ".encode()
        for more, status in ((33 * KIB, 431), (31 * KIB, 403 if path == "/" else 200)):
            with door.connect() as client:
                client.sendall(begin + b"y" * more + b"\r\n\r\n")
                client.settimeout(SERVED_SECONDS)
                assert client.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())
        with door.connect() as client:
            client.sendall(begin + b"y" * 33 * KIB)
            words = "aider-guard: a request whose head is larger than 32 KiB is not read"
            assert _answer(client) == (431, words)


def test_the_fields_behind_a_body_count_as_a_head_and_are_not_read() -> None:
    """Trailers; they would come after the request was judged."""
    heads = []

    def script(connection: Connection) -> None:
        while head := connection.request()[0]:
            heads.append(head)
            connection.whole(b"{}")

    def send(trailers: bytes) -> bytes:
        start = f"POST /{TOKEN}/api/show HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        with door.connect() as client:
            client.settimeout(SERVED_SECONDS)
            client.sendall(start.encode() + b"\r\n2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
            return client.recv(65536)

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        assert send(b"X-Late: 1\r\n").startswith(b"HTTP/1.1 200 ")
        assert send(b"X-Late: " + b"y" * 33 * KIB + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert len(heads) == 1
    assert b"late" not in heads[0].lower()


def test_a_slow_head_is_given_up() -> None:
    """408 for a head that has begun, however it trickles; an idle connection is closed without a word."""
    limits = DoorLimits(head_seconds=0.3)
    with door_to(PlainHandler(), "http://127.0.0.1:9", limits=limits) as door:
        with door.connect() as client:
            assert _answer(client) == (0, "")
        with door.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\n")
            words = "aider-guard: the head of a request takes longer than 0.3 s"
            assert _answer(client) == (408, words)
        with door.connect() as client:
            client.settimeout(0.05)
            for sent in range(1000):
                client.sendall(b"GET / HTTP/1.1\r\n" if sent == 0 else b"X")
                with suppress(TimeoutError):
                    assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
                    return
            pytest.fail("it is never given up")


def test_a_connection_with_the_token_may_be_idle_and_may_send_its_body_slowly() -> None:
    """Only heads have a time."""
    limits = DoorLimits(head_seconds=0.2)
    with FakeOllama() as ollama, door_to(PlainHandler(), ollama.url, limits=limits) as door:
        with httpx.Client(trust_env=False, verify=False, timeout=SERVED_SECONDS) as aider:
            for _ in range(2):
                assert aider.get(f"{door.base}/api/version").status_code == 200
                threading.Event().wait(0.5)
            (kept,) = aider._transport._pool.connections  # type: ignore[attr-defined]  # no other way
            assert kept._connection._request_count == 2  # as above

        def body() -> Iterator[bytes]:
            yield b'{"model":'
            threading.Event().wait(0.5)
            yield b'"qwen3:8b"}'

        url = f"{door.base}/api/show"
        answer = httpx.post(url, content=body(), trust_env=False, verify=False)
        assert answer.status_code == 200


@contextmanager
def _few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + DESCRIPTORS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _idle_clients(door: OpenDoor, *, again: bool) -> Iterator[None]:
    """Hold many connections open, in a process of its own; ``again``: also open new ones all the time."""
    words = [str(door.port), str(IDLE), "again" if again else "once"]
    with subprocess.Popen(
        [sys.executable, "-c", IDLE_CLIENT, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"connected\n"
            yield
        finally:
            client.kill()


@pytest.mark.parametrize("again", [False, True], ids=["idle", "new all the time"])
def test_1400_idle_connections_do_not_stop_the_sessions_own_requests(again: bool) -> None:
    """Those of the oldest connection, and those of new ones."""
    with (
        FakeOllama() as ollama,
        door_to(PlainHandler(), ollama.url) as door,
        httpx.Client(trust_env=False, verify=False, timeout=SERVED_SECONDS) as aider,
        _few_descriptors(),
    ):
        assert aider.get(f"{door.base}/api/version").status_code == 200
        with _idle_clients(door, again=again):
            for _ in range(20):
                assert aider.get(f"{door.base}/api/version").status_code == 200
            for _ in range(3):
                assert _asks(door) == 200


def test_the_oldest_connection_without_the_token_makes_way() -> None:
    """Not one on which the token came, however old it is."""
    limits = DoorLimits(connections_without_token=3)
    with (
        FakeOllama() as ollama,
        door_to(PlainHandler(), ollama.url, limits=limits) as door,
        ExitStack() as stack,
    ):
        aider = http.client.HTTPConnection("127.0.0.1", door.port, timeout=SERVED_SECONDS)
        stack.callback(aider.close)
        assert _asks_again(aider) == 200
        kept = aider.sock
        others = []
        for _ in range(4):
            other = stack.enter_context(door.connect())
            other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            other.settimeout(SERVED_SECONDS)
            assert other.recv(65536).startswith(b"HTTP/1.1 403 ")
            others.append(other)
        with suppress(ConnectionError):
            assert others[0].recv(1) == b""
        others[1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert others[1].recv(65536).startswith(b"HTTP/1.1 403 ")
        assert _asks_again(aider) == 200
        assert aider.sock is kept


def test_many_requests_at_once_on_a_connection_are_not_kept() -> None:
    """Each takes a few thousand bytes, and 18 to send."""
    with door_to(PlainHandler(), "http://127.0.0.1:9") as door, door.connect() as client:
        kept_bytes = settled_bytes()
        with suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100_000)
        client.settimeout(SERVED_SECONDS)
        with suppress(ConnectionError):
            while client.recv(1 << 20):
                pass
        assert settled_bytes() - kept_bytes < LEFT_BYTES


def test_nothing_is_kept_of_connections_that_were_reset() -> None:
    """uvicorn's timer for idle connections would keep each of them for three minutes."""
    with FakeOllama() as ollama, door_to(PlainHandler(), ollama.url) as door:
        for path in ("/", f"/{TOKEN}/api/version"):
            for _ in range(100):
                client = door.connect()
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                client.recv(65536)
                Connection(client).reset()
        assert wait_until(lambda: left((DoorConnection,))["DoorConnection"] < 10)


def test_twelve_bodies_of_60_mb_are_not_held_at_once() -> None:
    """503 with a sentence for those that find no room, before their bodies are read; small requests are served."""
    answering = threading.Event()
    held = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.upload()
        held.release()
        answering.wait(SERVED_SECONDS * 3)
        connection.whole(b"{}", "200 OK", "Connection: close")

    refused: list[bytes] = []
    served: list[bytes] = []
    piece = b" " * MIB

    def send() -> None:
        lines = (f"POST /{TOKEN}/api/chat HTTP/1.1", "Host: x", f"Content-Length: {60 * MIB}")
        with door.connect() as client:
            client.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode())
            with suppress(ConnectionError):
                for _ in range(60):
                    client.sendall(piece)
            received = client.recv(65536)
            (served if received.startswith(b"HTTP/1.1 200 ") else refused).append(received)

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        before = settled_bytes()
        clients = [threading.Thread(target=send) for _ in range(12)]
        for client in clients:
            client.start()
        for _ in range(2):
            assert held.acquire(timeout=SERVED_SECONDS * 3)
        assert wait_until(lambda: len(refused) == 10)
        grown = settled_bytes() - before
        with door.post("/api/chat", b"{}") as small:
            assert held.acquire(timeout=SERVED_SECONDS)
            answering.set()
            small.settimeout(SERVED_SECONDS)
            assert small.recv(65536).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.join()
    assert len(served) == 2
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
    assert b"aider-guard: requests that are not yet answered take all the memory" in refused[0]
    assert grown < 300 * MIB


def test_small_bodies_have_memory_that_large_ones_cannot_take() -> None:
    """And what a request took is there again after its end."""
    memory = BodyMemory(DoorLimits(bodies_bytes=100, small_body_bytes=10, reserved_bytes=20))
    with memory.share() as large, memory.share() as small, memory.share() as other:
        large.grow_to(60)
        large.grow_to(100)
        small.grow_to(10)
        with pytest.raises(NoRoomError):
            small.grow_to(11)
        other.grow_to(10)
        with memory.share() as another, pytest.raises(NoRoomError):
            another.grow_to(1)
    with memory.share() as again:
        again.grow_to(100)
