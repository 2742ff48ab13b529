"""Unix sockets inside the seccomp layer: those of daemons are refused under any name, others work as outside."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from airgap.seccomp_world import CAP_SECONDS, World, ended, world

CONNECT = """
kind = getattr(socket, arguments[1])
tell([error_of(socket.socket(socket.AF_UNIX, kind).connect, to.replace("@", "\\0")) for to in arguments[0]])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sockets are, and where programs start; short enough for their addresses."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def daemon(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        (folder / "run").mkdir()
        listener.bind("run/daemon.sock")
        listener.listen()
        listener.setblocking(False)
        yield listener


def came(listener: socket.socket) -> int:
    """How many connections wait."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_masked_socket_is_refused_under_any_name(folder: Path, daemon: socket.socket) -> None:
    """Its path, a link, a second name, a relative path and the program's own descriptor: all are one socket."""
    real = str(folder / "run" / "daemon.sock")
    (folder / "link").symlink_to("run/daemon.sock")
    os.link("run/daemon.sock", "second")
    code = """
os.open("run", os.O_PATH | os.O_DIRECTORY)
rooms = [f"/proc/self/fd/{fd}/daemon.sock" for fd in range(3, 6)]
found = [path for path in rooms if os.path.exists(path)]
arguments[0] += found[:1]
"""
    names = [real, "run/daemon.sock", "./run/../run/daemon.sock", "link", "second"]

    with world(masked=[real]) as here:
        result = here.run(code + CONNECT, [names, "SOCK_STREAM"])

        assert result == ["ECONNREFUSED"] * 6
        assert came(daemon) == 0
        assert here.kinds() == {(real, 0, "unix"), (str(folder / "second"), 0, "unix")}
        assert len(here.attempts) == 6


def test_a_masked_socket_that_was_moved(folder: Path, daemon: socket.socket) -> None:
    """A new place does not make it another socket; a folder masks all that is in it, then and later."""
    code = 'os.rename("run/daemon.sock", "moved")\n'
    with world(masked=[str(folder / "run")]) as here, socket.socket(socket.AF_UNIX) as late:
        late.bind("run/late.sock")
        late.listen()
        result = here.run(code + CONNECT, [["moved", "run/late.sock"], "SOCK_STREAM"])

    assert result == ["ECONNREFUSED"] * 2
    assert came(daemon) == 0


@pytest.mark.usefixtures("folder")
def test_other_sockets_work(daemon: socket.socket) -> None:
    """What is not masked is reached, from the program's own folder; a missing one has the error that it has outside."""
    code = 'os.chdir("run")\n'

    with world(masked=["/run/docker.sock"]) as here:
        result = here.run(code + CONNECT, [["daemon.sock", "missing", "."], "SOCK_STREAM"])

        assert result == ["", "ENOENT", "ECONNREFUSED"]
        assert came(daemon) == 1
        assert here.attempts == []


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
    while not here.gap._pending._ends:
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
    with world(abstract=lambda _name: True) as here, os.fdopen(writing, "wb", 0) as go:
        started = here.start(f"go = {reading}\n" + FULL_QUEUE + code, name, pass_fds=(reading,))
        os.close(reading)
        with ended(started) as program:
            assert here.next(program) == ["EAGAIN", "EAGAIN"]
            serve_until_one_waits(here)
            assert len(here.loop.deadlines) == 1
            go.write(b".")
            assert here.next(program) == "came"
        assert not here.gap._pending._ends
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


@pytest.mark.parametrize("send", ["sendto(b'x', to)", "sendmsg([b'x'], [], 0, to)"])
def test_datagrams(folder: Path, send: str) -> None:
    """To a masked socket they are refused, with descriptors too; to others they come."""
    code = f"""
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def send(to):
    sock.{send}
carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
tell([error_of(send, "masked"), error_of(send, "open"),
      error_of(lambda: sock.sendmsg([b"x"], carried, 0, "masked")),
      error_of(lambda: sock.sendmsg([b"x"], carried, 0, "open"))])
"""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as open_as_caller,
    ):
        closed.bind("masked")
        open_as_caller.bind("open")
        closed.setblocking(False)
        open_as_caller.setblocking(False)
        with world(masked=[str(folder / "masked")]) as here:
            assert here.run(code) == ["EPERM", "", "EPERM", ""]
            assert here.kinds() == {(str(folder / "masked"), 0, "unix")}

        assert open_as_caller.recv(9) == open_as_caller.recv(9) == b"x"
        with pytest.raises(BlockingIOError):
            closed.recv(9)


def test_abstract_names() -> None:
    """A function says which may be reached; a refused one is reported with @, and can be shown."""
    name = f"aider-guard-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        with world(abstract=lambda text: text == name) as here:
            result = here.run(CONNECT, [[f"@{name}", "@bus\n"], "SOCK_STREAM"])

            assert result == ["", "ECONNREFUSED"]
            assert here.kinds() == {("@bus\ufffd", 0, "unix")}


def test_a_display_is_looked_for_in_silence() -> None:
    """Programs with windows try its abstract name first, and go on to its file: that is no attempt to leave."""
    code = """
to = lambda name: error_of(socket.socket(socket.AF_UNIX).connect, "\\0" + name)
tell([to("/tmp/.X11-unix/X0"), to("/tmp/.X11-unix-not/X0")])
"""
    with world() as here:
        assert here.run(code) == ["ECONNREFUSED"] * 2
        assert here.kinds() == {("@/tmp/.X11-unix-not/X0", 0, "unix")}
