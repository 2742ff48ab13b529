"""Unix sockets in both layers: those outside are refused under any name, unless they are known; those inside work."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest
from airgap.layers import best_of, open_gap
from airgap.seccomp_world import World

from aider_guard.airgap.proc import diag_socket
from aider_guard.airgap.unix_sockets import bound_sockets, known_sockets
from aider_guard.core.egress import Allowed, Layer, SocketPath
from aider_guard.loop import Loop

LAYERS: tuple[Layer, ...] = ("netns", "seccomp")
Serve = Callable[..., AbstractContextManager[World]]

CONNECT = """
kind = getattr(socket, arguments[1])
tell([error_of(socket.socket(socket.AF_UNIX, kind).connect, to.replace("@", "\\0")) for to in arguments[0]])
"""


@pytest.fixture(params=LAYERS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """An air gap of each layer, which is served."""
    layer: Layer = request.param
    if best_of(layer).layer != layer:
        pytest.skip(f"this system does not allow {layer}")

    @contextlib.contextmanager
    def served(
        allowed: Sequence[Allowed] = (), environment: Mapping[str, str] = {}
    ) -> Iterator[World]:
        with open_gap(layer, allowed, environment) as gap, Loop() as loop:
            here = World(cast("Any", gap), loop)
            gap.watch(loop, here.attempts.append)
            try:
                yield here
            finally:
                gap.close()

    return served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sockets are, and where programs start; short enough for their addresses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return tmp_path


@contextlib.contextmanager
def listening(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """A daemon outside that listens there."""
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(path)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)
        yield listener


def came(listener: socket.socket) -> int:
    """How many connections or datagrams wait."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            if listener.type == socket.SOCK_DGRAM:
                listener.recv(9)
            else:
                listener.accept()[0].close()
            count += 1
    return count


def test_a_socket_outside_is_refused_under_any_name(folder: Path, serve: Serve) -> None:
    """Its path, a link, a second name, a relative path and the program's own descriptor: all are one socket."""
    real = str(folder / "run" / "daemon.sock")
    code = """
os.open("run", os.O_PATH | os.O_DIRECTORY)
rooms = [f"/proc/self/fd/{fd}/daemon.sock" for fd in range(3, 6)]
arguments[0] += [path for path in rooms if os.path.exists(path)][:1]
"""
    with listening("run/daemon.sock") as daemon, serve() as here:
        (folder / "link").symlink_to("run/daemon.sock")
        os.link("run/daemon.sock", "second")
        names = [real, "run/daemon.sock", "./run/../run/daemon.sock", "link", "second"]
        result = here.run(code + CONNECT, [names, "SOCK_STREAM"])

        assert result == ["ECONNREFUSED"] * 6
        assert came(daemon) == 0
        assert here.kinds() == {(real, 0, "unix"), (str(folder / "second"), 0, "unix")}
        assert len(here.attempts) == 6


def test_one_that_comes_later_or_is_moved(folder: Path, serve: Serve) -> None:
    """A new place does not make it another socket, and it need not be there at the start."""
    code = 'os.rename("run/daemon.sock", "moved")\n'
    with listening("run/daemon.sock") as daemon, serve() as here, listening("late.sock") as late:
        names = ["moved", str(folder / "late.sock"), "late.sock"]
        assert here.run(code + CONNECT, [names, "SOCK_STREAM"]) == ["ECONNREFUSED"] * 3
        assert (came(daemon), came(late)) == (0, 0)


@pytest.mark.usefixtures("folder")
def test_the_programs_own_sockets_work(serve: Serve) -> None:
    """From the program's own folder, moved, and abstract; what is missing has the error that it has outside."""
    code = """
servers = []
for name in ("own", "run/own", "\\0aider-guard-own"):
    servers.append(socket.socket(socket.AF_UNIX)); servers[-1].bind(name); servers[-1].listen()
os.rename("own", "moved"); os.chdir("run")
"""
    names = ["own", "../moved", "@aider-guard-own", "missing", "."]
    with serve() as here:
        result = here.run(code + CONNECT, [names, "SOCK_STREAM"])

        assert result == ["", "", "", "ENOENT", "ECONNREFUSED"]
        assert here.attempts == []


@pytest.mark.usefixtures("folder")
def test_one_that_may_not_be_traced_is_its_own_too(serve: Serve) -> None:
    """As ssh's agent does: it forbids tracing before it binds its socket."""
    code = """
libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
server = socket.socket(socket.AF_UNIX); server.bind("agent"); server.listen()
libc.prctl(4, 1, 0, 0, 0)
"""
    with serve() as here:
        assert here.run(code + CONNECT, [["agent"], "SOCK_STREAM"]) == [""]


def test_a_known_name_is_no_way_around(folder: Path, serve: Serve) -> None:
    """A socket that a program inside moves to an agent's place, or links there, is the one it was."""
    agent, linked = folder / "agent", folder / ".gnupg" / "S.gpg-agent"
    linked.parent.mkdir()
    code = 'os.rename("run/terminal", "agent"); os.link("agent", ".gnupg/S.gpg-agent")\n'
    environment = {"SSH_AUTH_SOCK": str(agent), "HOME": str(folder)}
    with listening(f"{folder}/run/terminal") as terminal, serve((), environment) as here:
        names = [str(agent), str(linked)]
        assert here.run(code + CONNECT, [names, "SOCK_STREAM"]) == ["ECONNREFUSED"] * 2
        assert came(terminal) == 0


def test_agents_the_display_and_what_is_allowed(folder: Path, serve: Serve) -> None:
    """Those that were there at the start, whatever name they were bound by, and those that come later."""
    runtime = folder / "run"
    (runtime / "gnupg").mkdir()
    environment = {
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": "/nowhere",
        "SSH_AUTH_SOCK": str(folder / "agent"),
        "WAYLAND_DISPLAY": "wayland-7",
    }
    paths = ["agent", "run/gnupg/S.gpg-agent", "run/gnupg/S.dirmngr", "run/wayland-7", "run/db"]
    with contextlib.ExitStack() as stack:
        relative = stack.enter_context(listening("agent"))
        here = stack.enter_context(serve([SocketPath(f"{runtime}/db")], environment))
        others = [stack.enter_context(listening(f"{folder}/{path}")) for path in paths[1:]]

        result = here.run(CONNECT, [paths, "SOCK_STREAM"])

        assert result == ["", "", "ECONNREFUSED", "", ""]
        assert [came(one) for one in (relative, *others)] == [1, 1, 0, 1, 1]
        allowed, blocked = sorted(here.attempts, key=lambda one: not one.is_allowed)
        assert (allowed.host, allowed.is_allowed) == (f"{runtime}/db", True)
        assert (blocked.host, blocked.is_allowed) == (f"{runtime}/gnupg/S.dirmngr", False)


@pytest.mark.parametrize("send", ["sendto(b'x', to)", "sendmsg([b'x'], [], 0, to)"])
@pytest.mark.usefixtures("folder")
def test_datagrams(serve: Serve, send: str) -> None:
    """To a socket outside they are refused, with descriptors too; to the program's own they come."""
    code = f"""
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); own.bind("own")
def send(to):
    sock.{send}
carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
tell([error_of(send, "outside"), error_of(sock.connect, "outside"), error_of(send, "own"),
      error_of(lambda: sock.sendmsg([b"x"], carried, 0, "outside")),
      error_of(lambda: sock.sendmsg([b"x"], carried, 0, "own")), own.recv(9).decode() * 2])
"""
    with listening("outside", socket.SOCK_DGRAM) as outside, serve() as here:
        assert here.run(code) == ["EPERM", "ECONNREFUSED", "", "EPERM", "", "xx"]
        assert len(here.kinds()) == 1
        assert came(outside) == 0


def test_abstract_names(serve: Serve) -> None:
    """Those outside are refused, by the kernel or by the guard, which reports it with @ and with printable letters."""
    name = f"aider-guard-{os.getpid()}\n"
    with listening(f"\0{name}") as outside, serve() as here:
        assert here.run(CONNECT, [[f"@{name}"], "SOCK_STREAM"]) == ["ECONNREFUSED"]
        assert came(outside) == 0
        is_asked = here.gap.layer == "seccomp"
        assert here.kinds() == ({(f"@{name[:-1]}\ufffd", 0, "unix")} if is_asked else set())


@pytest.mark.usefixtures("folder")
def test_pythons_own_servers(serve: Serve) -> None:
    """multiprocessing's manager, and asyncio's server and client, as in a test suite."""
    code = """
import asyncio, multiprocessing
from multiprocessing.managers import SyncManager
async def echo():
    async def answer(reader, writer):
        writer.write(await reader.readline()); await writer.drain(); writer.close()
    async with await asyncio.start_unix_server(answer, "echo"):
        reader, writer = await asyncio.open_unix_connection("echo")
        writer.write(b"line\\n")
        return (await reader.readline()).decode()
multiprocessing.set_start_method("fork")
with multiprocessing.Manager() as manager:
    shared = manager.dict(); shared["a"] = 1
    tell([asyncio.run(echo()), shared["a"]])
"""
    with serve() as here:
        assert here.run(code) == ["line\n", 1]
        assert here.attempts == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_file_system_with_devices_of_its_own(tmp_path: Path) -> None:
    """On an overlay, as a container's: the kernel and stat(2) may give different numbers, and the socket is known."""
    program = """
import os, subprocess, sys
folder = sys.argv[1]
for name in ("lower", "upper", "work", "top"):
    os.mkdir(f"{folder}/{name}")
subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
    f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work", f"{folder}/top"], check=True)
os.chdir(f"{folder}/top")
sys.exit(subprocess.run(sys.argv[2:]).returncode)
"""
    test = f"{__file__}::test_the_programs_own_sockets_work"
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test]
    command = ["unshare", "-m", sys.executable, "-c", program, str(tmp_path), *pytest_command]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path}/top/t"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in done.stderr:
        pytest.skip("no overlay can be mounted here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_the_kernel_tells_who_bound_a_file(folder: Path) -> None:
    """By its number, name, device and inode; an abstract one has no file."""
    with listening("run/one") as one, listening("\0aider-guard-two") as two:
        with diag_socket() as channel:
            found = {bound.number: bound for bound in bound_sockets(channel)}
        first, second = (found[os.fstat(each.fileno()).st_ino] for each in (one, two))
        status = os.stat("run/one")

        assert first.name == b"run/one\0"
        assert (first.device, first.inode) == (
            (os.major(status.st_dev), os.minor(status.st_dev)),
            status.st_ino,
        )
        assert second.name == b"\0aider-guard-two"
    assert folder.exists()


def test_what_is_known(folder: Path) -> None:
    """Links in a folder are followed at the start; a path without a root is none."""
    (folder / "link").symlink_to("run")
    known = known_sockets(
        {"SSH_AUTH_SOCK": f"{folder}/link/agent", "WAYLAND_DISPLAY": "wayland-0", "HOME": "/h"},
        ["/run/docker.sock"],
    )
    assert {f"{folder}/link/agent", f"{folder}/run/agent", "/h/.gnupg/S.gpg-agent"} <= set(
        known.paths
    )
    assert known.allowed == {"/run/docker.sock", "/var/run/docker.sock"} <= set(known.paths)
    assert not [path for path in known.paths if not path.startswith("/") or "dirmngr" in path]


def test_where_the_kernel_cannot_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no Unix sockets but pairs of streams, and the network inside works without being served."""
    if best_of("netns").layer != "netns":
        pytest.skip("this system allows no network namespaces")
    monkeypatch.setattr("aider_guard.airgap.filter_install.can_ask", lambda _program: False)
    code = """
server = socket.create_server(("127.0.0.1", 0))
one, other = socket.socketpair(); one.sendall(b"x")
tell([error_of(socket.socket, socket.AF_UNIX), error_of(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM),
      error_of(socket.create_connection, server.getsockname()), other.recv(1).decode()])
"""
    with open_gap("netns", (), {}) as gap, Loop() as loop:
        here = World(cast("Any", gap), loop)
        gap.watch(loop, here.attempts.append)
        assert here.run(code) == ["EACCES", "EACCES", "", "x"]
        gap.close()
