"""The proxy that refuses: its parser on tables and random input, the proxy with real clients, silent ones, floods."""

from __future__ import annotations

import gc
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.proxy import (
    CLIENT_SECONDS,
    HEAD_BYTES,
    MOST_CLIENTS,
    RefusingProxy,
    refusal,
    requested_place,
)
from aider_guard.core.egress import Attempt, Place
from aider_guard.loop import READ, Loop

LINES = [
    (b"CONNECT api.example.org:443 HTTP/1.1\r", Place("api.example.org", 443)),
    (b"CONNECT api.example.org:443 HTTP/1.0", Place("api.example.org", 443)),
    (b"CONNECT API.Example.ORG.:8443 HTTP/1.1\r", Place("api.example.org", 8443)),
    (b"CONNECT [2001:db8::1]:443 HTTP/1.1\r", Place("2001:db8::1", 443)),
    (b"CONNECT 192.0.2.10:22 HTTP/1.1\r", Place("192.0.2.10", 22)),
    (b"GET http://example.org/a?b=c HTTP/1.1\r", Place("example.org", 80)),
    (b"GET http://example.org HTTP/1.1\r", Place("example.org", 80)),
    (b"GET http://example.org? HTTP/1.1\r", Place("example.org", 80)),
    (b"POST HTTP://example.org:8080/x HTTP/1.1\r", Place("example.org", 8080)),
    (b"GET http://example.org:/x HTTP/1.1\r", Place("example.org", 80)),
    (b"GET https://example.org/x HTTP/1.1\r", Place("example.org", 443)),
    (b"GET ftp://example.org/x HTTP/1.1\r", Place("example.org", 21)),
    (b"GET http://me:word@example.org/x HTTP/1.1\r", Place("example.org", 80)),
    (b"GET http://[2001:db8::1]:81/x HTTP/1.1\r", Place("2001:db8::1", 81)),
    (b"GET http://a.example/@b.example:5/ HTTP/1.1\r", Place("a.example", 80)),
    (b"GET /x HTTP/1.1\r", None),
    (b"GET gopher://example.org/x HTTP/1.1\r", None),
    (b"CONNECT example.org HTTP/1.1\r", None),
    (b"CONNECT example.org:0 HTTP/1.1\r", None),
    (b"CONNECT example.org:65536 HTTP/1.1\r", None),
    (b"CONNECT http://example.org:443 HTTP/1.1\r", None),
    (b"CONNECT example.org:443", None),
    (b"CONNECT  example.org:443 HTTP/1.1\r", None),
    (b"CONNECT ex\x1b[31mample.org:443 HTTP/1.1\r", None),
    (b"CONNECT [fe80::1%\x1b[31m]:443 HTTP/1.1\r", None),
    (b"CONNECT ex\xc3\xa4mple.org:443 HTTP/1.1\r", None),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", None),
    (b"", None),
]
ASKED = b"CONNECT api.example.org:443 HTTP/1.1\r\nHost: api.example.org:443\r\n\r\n"
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,8}){1,3}", fullmatch=True)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
PLACES = st.builds(Place, HOSTS, st.integers(1, 65535))


@pytest.mark.parametrize(("line", "place"), LINES)
def test_what_is_asked_for_is_in_the_first_line(line: bytes, place: Place | None) -> None:
    """Of a tunnel, of a plain request, and of what is neither."""
    assert requested_place(line) == place


@given(PLACES, st.sampled_from(["CONNECT {}", "GET http://{}/x", "PUT https://u@{}?q=http://y/"]))
def test_every_place_is_recognised(place: Place, form: str) -> None:
    """However it is asked for."""
    assert requested_place(f"{form.format(place)} HTTP/1.1\r".encode()) == place


@given(st.binary() | st.builds(lambda x: b"CONNECT " + x + b":1 HTTP/1.1", st.binary()))
def test_garbage_is_no_place_that_cannot_be_shown(line: bytes) -> None:
    """Nothing is raised, and what is reported is printable ASCII: it is shown on the user's terminal."""
    place = requested_place(line)
    assert place is None or (str(place).isascii() and str(place).isprintable())


@given(PLACES | st.none())
def test_the_answer_is_whole(place: Place | None) -> None:
    """Its length is right, its body is one line, and it names what was refused."""
    head, _, body = refusal(place).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden" if place else b"HTTP/1.1 400 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.count(b"\n") == 1
    assert place is None or str(place).encode() in body


class Proxy:
    """One in its loop, with a clock that is moved by hand."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 100.0
        self.reported: list[Attempt] = []
        self.asked_programs: list[tuple[int, int]] = []
        self.loop = stack.enter_context(Loop(lambda: self.now))
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.port: int = self.listener.getsockname()[1]
        self.proxy = RefusingProxy(
            self.listener,
            self.loop,
            self.reported.append,
            program=self._program,
            clock=lambda: self.now,
        )
        stack.callback(self.proxy.close)
        self._stack = stack

    def _program(self, port: int, server_port: int) -> str:
        self.asked_programs.append((port, server_port))
        return "curl"

    def client(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return self._stack.enter_context(client)

    def turn(self, rounds: int = 4) -> None:
        """Do what can be done now."""
        for _ in range(rounds):
            self.loop.run_once(0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its loop turns in a thread, for clients that wait for their answer."""
        ours, theirs = socket.socketpair()
        ended: list[int] = []
        with ours, theirs:
            self.loop.watch(ours.fileno(), READ, ended.append)
            turning = threading.Thread(target=lambda: self.loop.run(lambda: bool(ended)))
            turning.start()
            yield
            theirs.send(b"x")
            turning.join(20)
            self.loop.forget(ours.fileno())
        assert not turning.is_alive()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = open_files()
    with ExitStack() as stack:
        yield Proxy(stack)
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def answer(client: socket.socket) -> bytes:
    """All that comes until the end."""
    return client.makefile("rb").read()


def test_a_request_is_refused_and_reported(proxy: Proxy) -> None:
    """With the host, the port and the program behind the connection."""
    client = proxy.client()
    client.sendall(ASKED)
    proxy.turn()
    assert answer(client) == refusal(Place("api.example.org", 443))
    assert proxy.reported == [Attempt("api.example.org", 443, "tcp", "curl")]
    assert proxy.asked_programs == [(client.getsockname()[1], proxy.port)]


def test_the_line_may_come_letter_by_letter(proxy: Proxy) -> None:
    """It is answered when it is whole, not before, and once."""
    client = proxy.client()
    for letter in ASKED[:38]:
        assert not proxy.reported
        client.sendall(bytes([letter]))
        proxy.turn()
    client.sendall(ASKED[38:])
    proxy.turn()
    assert len(proxy.reported) == 1
    assert answer(client).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * HEAD_BYTES])
def test_what_is_no_request_to_a_proxy_is_answered_and_not_reported(
    proxy: Proxy, sent: bytes
) -> None:
    """Garbage, a request to a server, a line without an end."""
    client = proxy.client()
    client.sendall(sent)
    proxy.turn()
    assert answer(client) == refusal(None)
    assert not proxy.reported


def test_a_body_that_still_comes_does_not_cost_the_answer(proxy: Proxy) -> None:
    """It is read and forgotten, so that the connection is not reset; one without an end is cut off."""
    client = proxy.client()
    client.sendall(b"POST http://example.org/ HTTP/1.1\r\nContent-Length: 99999\r\n\r\n")
    proxy.turn()
    client.sendall(b"x" * 99999)
    proxy.turn(64)
    assert answer(client) == refusal(Place("example.org", 80))
    client.setblocking(False)
    cut = False
    for _ in range(1000):
        try:
            client.send(b"x" * 65536)
        except BlockingIOError:
            pass
        except OSError:
            cut = True
            break
        proxy.turn(1)
    assert cut


@pytest.mark.parametrize("sent", [b"", b"CONNECT a.exam"])
def test_a_peer_that_goes_away_is_forgotten(proxy: Proxy, sent: bytes) -> None:
    """After nothing or half a request; by an orderly end or a reset."""
    for reset in (False, True):
        client = proxy.client()
        client.sendall(sent)
        proxy.turn()
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        before = open_files()
        client.close()
        proxy.turn()
        assert open_files() == before - 2
    assert not proxy.reported


def test_a_silent_peer_has_its_time(proxy: Proxy) -> None:
    """It is dropped when that is over, each at its own instant, also one that does not take its answer."""
    early = proxy.client()
    proxy.turn()
    proxy.now += CLIENT_SECONDS / 2
    late, answered = proxy.client(), proxy.client()
    answered.sendall(ASKED)
    proxy.turn()
    proxy.now += CLIENT_SECONDS / 2
    proxy.turn()
    assert early.recv(1) == b""
    late.setblocking(False)
    with pytest.raises(BlockingIOError):
        late.recv(1)
    proxy.now += CLIENT_SECONDS / 2
    before = open_files()
    proxy.turn()
    assert open_files() == before - 2
    assert not proxy.loop.deadlines


def test_a_thousand_connections_leave_room_for_the_next(proxy: Proxy) -> None:
    """The oldest are dropped; a request is answered; few descriptors are used."""
    with ExitStack() as stack:
        for _ in range(1000):
            crowd = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 5))
            proxy.turn(1)
            crowd.close()
        silent = [proxy.client() for _ in range(MOST_CLIENTS * 3)]
        proxy.turn(40)
        before = open_files()
        client = proxy.client()
        client.sendall(ASKED)
        proxy.turn()
        assert answer(client).startswith(b"HTTP/1.1 403 ")
        assert open_files() <= before + 2
        assert silent[0].recv(1) == b""
    assert len(proxy.reported) == 1


def test_without_descriptors_it_rests_and_does_not_spin(proxy: Proxy) -> None:
    """The waiting connection is accepted when there are some again."""
    client = proxy.client()
    client.sendall(ASKED)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        proxy.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    proxy.turn()
    assert not proxy.reported
    proxy.now += 10
    proxy.turn(6)
    assert answer(client).startswith(b"HTTP/1.1 403 ")


def test_closing_drops_all_clients(proxy: Proxy) -> None:
    """Twice is no error; the listener stays its owner's."""
    client = proxy.client()
    proxy.turn()
    proxy.proxy.close()
    proxy.proxy.close()
    assert client.recv(1) == b""
    assert proxy.listener.fileno() >= 0
    assert not proxy.loop.deadlines


CLIENTS = {
    "httpx": "import httpx; print(httpx.get('http://example.org/').status_code)",
    "httpx-tls": "import httpx; httpx.get('https://example.org/')",
    "urllib-tls": "import urllib.request as u; u.urlopen('https://example.org/')",
    "requests-tls": "import requests; requests.get('https://example.org/')",
}


@pytest.mark.parametrize("name", CLIENTS)
def test_real_clients_understand_it(proxy: Proxy, name: str) -> None:
    """They say 403 at once, and most of them why."""
    url = f"http://127.0.0.1:{proxy.port}"
    environment = {"HTTP_PROXY": url, "http_proxy": url, "https_proxy": url, "PATH": ""}
    with proxy.running():
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS[name]],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    words = done.stdout + done.stderr
    assert "403" in words
    assert ("aider-guard" in words) == name.endswith("tls")
    port = 443 if name.endswith("tls") else 80
    assert {(one.host, one.port) for one in proxy.reported} == {("example.org", port)}
