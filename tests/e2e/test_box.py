"""The box holds, and its witness sees: else no test that rests on it says anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.box import Box, Seen, box, why_not
from e2e.world import OUTSIDE

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
    assert (expected.kind, expected.host, expected.port) in {
        (one.kind, one.host, one.port) for one in seen
    }


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
