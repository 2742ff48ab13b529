"""The box holds, and its witness sees: else no test that rests on it says anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.box import Box, Seen, box, why_not
from e2e.world import ABSTRACT, DAEMON, DATAGRAMS, OUTSIDE, OUTSIDE_6, SERVICE

TLS = """
import ssl, socket
connection = socket.create_connection(("two.example.com", 443))
try:
    ssl.create_default_context().wrap_socket(connection, server_hostname="two.example.com")
except OSError:
    pass
"""
PROXY = """
import socket
connection = socket.create_connection(("proxy.example.com", 3128))
connection.sendall(b"CONNECT three.example.com:443 HTTP/1.1\\r\\n\\r\\n")
connection.recv(9)
"""
LOCAL = "import socket; s = socket.socket(socket.AF_UNIX); s.connect({!r}); s.sendall(b'words')"
UDP = "import socket; socket.socket({}, socket.SOCK_DGRAM).sendto(b'words', {!r})"
GO = {
    "a page": (
        "import urllib.request as u; u.urlopen('http://one.example.com/path', b'words').read()",
        Seen("connection", "one.example.com", 80),
    ),
    "an encrypted page": (TLS, Seen("connection", "two.example.com", 443)),
    "a proxy": (PROXY, Seen("connection", "three.example.com", 3128)),
    "silence": (
        f"import socket; socket.create_connection(('{OUTSIDE}', 80))",
        Seen("touch", "", 80),
    ),
    "a datagram": (
        UDP.format("socket.AF_INET", (OUTSIDE, DATAGRAMS)),
        Seen("datagram", "", DATAGRAMS, text="words"),
    ),
    "no question": (
        UDP.format("socket.AF_INET", (OUTSIDE, 53)),
        Seen("datagram", "", 53, text="words"),
    ),
    "another service": (
        f"import socket; socket.create_connection(('127.0.0.1', {SERVICE})).sendall(b'words')",
        Seen("connection", "", SERVICE, text="words"),
    ),
    "a daemon": (LOCAL.format(DAEMON), Seen("connection", path=DAEMON, text="words")),
    "a name without a file": (
        LOCAL.format(ABSTRACT),
        Seen("connection", path="@of-another-service", text="words"),
    ),
    "a name": (
        "import socket; socket.getaddrinfo('four.example.com', 1)",
        Seen("name", "four.example.com", 0),
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One box for these tests."""
    if reason := why_not():
        pytest.skip(reason)
    with box(tmp_path_factory.mktemp("box")) as one:
        yield one


@pytest.mark.parametrize(("program", "expected"), GO.values(), ids=GO.keys())
def test_the_witness_sees_who_goes_out(
    world: Box, tmp_path: Path, program: str, expected: Seen
) -> None:
    """A page, an encrypted one, a proxy, a mere connection and a mere question: each is seen, with the host meant."""
    since = world.mark()
    inside = world.inside([sys.executable, "-I", "-c", program], tmp_path)
    subprocess.run(inside, check=True)
    seen = world.seen(since, world.mark())
    assert (expected.kind, expected.host, expected.port, expected.path) in {
        (one.kind, one.host, one.port, one.path) for one in seen
    }
    assert any(expected.text in one.text for one in seen)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the kernel has no IPv6")
def test_the_witness_sees_who_goes_out_by_ipv6(world: Box, tmp_path: Path) -> None:
    """A connection and a datagram to the outside's other address are seen as well."""
    connection = f"socket.create_connection(({OUTSIDE_6!r}, 443)).sendall(b'words')"
    datagram = UDP.format("socket.AF_INET6", (OUTSIDE_6, DATAGRAMS))
    since = world.mark()
    inside = world.inside([sys.executable, "-I", "-c", f"{datagram}; {connection}"], tmp_path)
    subprocess.run(inside, check=True)
    seen = sorted((one.kind, one.port, one.text) for one in world.seen(since, world.mark()))
    assert seen == [  # by kind: the witness listens to datagrams and connections side by side
        ("connection", 443, "words"),
        ("datagram", DATAGRAMS, "words"),
        ("touch", 443, ""),
    ]


def test_a_mark_waits_for_what_is_still_looked_at(world: Box, tmp_path: Path) -> None:
    """A connection that says nothing is written down before the mark, not after the next test has started."""
    program = f"""
import socket, sys
silent = socket.create_connection(({OUTSIDE!r}, 443))
print("connected", flush=True)
sys.stdin.read()
"""
    since = world.mark()
    inside = world.inside([sys.executable, "-I", "-c", program], tmp_path)
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as silent:
        assert silent.stdout is not None
        assert silent.stdout.readline()
        marked = world.mark()
        silent.communicate()
    assert [one.kind for one in world.seen(since, marked)] == ["touch", "connection"]
    assert world.seen(marked, world.mark()) == []


def test_there_is_no_way_to_the_machine_outside(world: Box, tmp_path: Path) -> None:
    """A listener of the machine's own loopback address is not there in the box, and no other address is."""
    import socket

    program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for host, port in (listener.getsockname(), ("198.51.100.1", 80)):
            inside = world.inside([sys.executable, "-I", "-c", program, host, str(port)], tmp_path)
            ended = subprocess.run(inside, capture_output=True, text=True, check=False)
            assert "Connection refused" in ended.stderr or "unreachable" in ended.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [(None, "no unshare"), ("echo Operation not permitted >&2; exit 1", "max_user_namespaces")],
    ids=["without the programs", "where the system forbids it"],
)
def test_where_there_can_be_no_box_it_is_said_why(
    script: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for which the tests are skipped names what is missing, or what allows it."""
    for name in ("unshare", "nsenter") if script else ():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert words in why_not()
