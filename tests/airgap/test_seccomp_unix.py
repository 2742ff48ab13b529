"""Unix sockets inside the seccomp layer: programs inside talk over them, and a full queue is waited for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from airgap.seccomp_world import CAP_SECONDS, World, ended, world


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sockets are, and where programs start; short enough for their addresses."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_descriptors_and_conversations() -> None:
    """Programs inside hand each other descriptors, and talk over socket pairs, as multiprocessing does."""
    code = """
server = socket.socket(socket.AF_UNIX); server.bind("own"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("own")
peer = server.accept()[0]
reading, writing = os.pipe()
socket.send_fds(client, [b"fd"], [writing])
data, fds, *_ = socket.recv_fds(peer, 9, 1)
os.write(fds[0], b"through")
tell([data.decode(), os.read(reading, 9).decode()])
"""
    with world() as here:
        assert here.run(code) == ["fd", "through"]


def serve_until_one_waits(here: World) -> None:
    """For a server that does not take it yet."""
    until = time.monotonic() + CAP_SECONDS
    while not here.gap._server._pending._ends:
        assert time.monotonic() < until, "it does not wait"
        here.loop.run_once(1.0)


FULL_QUEUE = """
server = socket.socket(socket.AF_UNIX); server.bind(arguments); server.listen(0)
connected = lambda: error_of(socket.socket(socket.AF_UNIX).connect, arguments)
first = socket.socket(socket.AF_UNIX); first.connect(arguments)
"""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["s", "\0aider-guard-full"])
def test_a_full_queue_is_waited_for(name: str) -> None:
    """As long as it takes, while others are served; then the connection is the program's."""
    code = """
waiting = socket.socket(socket.AF_UNIX)
def wait():
    waiting.connect(arguments); waiting.sendall(b"came")
thread = threading.Thread(target=wait); thread.start()
without = socket.socket(socket.AF_UNIX); without.setblocking(False)
short = socket.socket(socket.AF_UNIX)
short.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 60000))
tell([error_of(without.connect, arguments), error_of(short.connect, arguments)])
os.read(go, 1)
server.accept()
peer = server.accept()[0]
thread.join()
tell(peer.recv(9).decode())
"""
    reading, writing = os.pipe()
    with world() as here, os.fdopen(writing, "wb", 0) as go:
        started = here.start(f"go = {reading}\n" + FULL_QUEUE + code, name, pass_fds=(reading,))
        os.close(reading)
        with ended(started) as program:
            assert here.next(program) == ["EAGAIN", "EAGAIN"]
            serve_until_one_waits(here)
            assert len(here.loop.deadlines) == 1
            go.write(b".")
            assert here.next(program) == "came"
        assert not here.gap._server._pending._ends
        assert not here.loop.deadlines


@pytest.mark.usefixtures("folder")
def test_who_waits_for_a_queue_may_go() -> None:
    """Of one that was killed meanwhile nothing is left, neither a descriptor nor another try."""
    before = psutil.Process().num_fds()
    with world() as here:
        with ended(here.start(FULL_QUEUE + "tell(1); tell(connected())", "s")) as program:
            assert here.next(program) == 1
            serve_until_one_waits(here)
        here.serve_until_forgotten()
        assert not here.loop.deadlines
    assert psutil.Process().num_fds() == before


def test_a_display_is_looked_for_in_silence() -> None:
    """Programs with windows try its abstract name first, and go on to its file: that is no attempt to leave."""
    code = """
to = lambda name: error_of(socket.socket(socket.AF_UNIX).connect, "\\0" + name)
tell([to("/tmp/.X11-unix/X0"), to("/tmp/.X11-unix-not/X0")])
"""
    with world() as here:
        assert here.run(code) == ["ECONNREFUSED"] * 2
        assert here.kinds() == {("@/tmp/.X11-unix-not/X0", 0, "unix")}
