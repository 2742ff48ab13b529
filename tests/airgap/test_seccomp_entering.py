"""How programs enter the seccomp layer and leave it: forks, ptys, several launches, the end, ordinary users."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from airgap.seccomp_world import PYTHON, HostServers, World, ended, world

from aider_guard.airgap import kernel
from aider_guard.session.aider_process import Child
from aider_guard.session.terminal import Size

USER = 65534


CONNECT = """
sock = socket.socket(getattr(socket, arguments[0]), getattr(socket, arguments[1]))
tell(error_of(sock.connect, tuple(arguments[2])))
"""


def test_a_second_launch(here: World, host: HostServers) -> None:
    """Each program that enters is served; one that has ended is forgotten, and the others are not."""
    code = """
tell("in"); os.read(arguments, 1)
tell(error_of(socket.socket().connect, ("192.0.2.10", 1)))
"""
    arguments = ["AF_INET", "SOCK_STREAM", ["127.0.0.1", host.port]]
    reading, writing = os.pipe()
    started = here.start(code, reading, pass_fds=(reading,))
    with os.fdopen(writing, "wb", 0) as go, os.fdopen(reading, "rb", 0), ended(started) as first:
        assert here.next(first) == "in"
        for _ in range(2):
            assert here.run(CONNECT, arguments) == "ECONNREFUSED"
        go.write(b".")
        assert here.next(first) == "ECONNREFUSED"
        here.serve_until_forgotten()

    assert [attempt.port for attempt in here.attempts] == [host.port, host.port, 1]
    assert host.seen() == 0


def test_a_fork_that_starts_no_program(here: World, host: HostServers) -> None:
    """It is inside too, and the guard may look into it, as little as others may look into the guard."""
    with here.gap.entering() as enter:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                enter()
                with socket.socket() as sock:
                    status = sock.connect_ex(("127.0.0.1", host.port))
            os._exit(status)
    ended_fd = kernel.pidfd_open(child)
    try:
        here.serve_until(ended_fd)
    finally:
        os.close(ended_fd)
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == errno.ECONNREFUSED
    assert here.kinds() == {("127.0.0.1", host.port, "tcp")}


def test_in_a_pty(here: World, host: HostServers) -> None:
    """A program that is started as Aider is enters too, and has none of the guard's descriptors."""
    code = f"""
import os, socket
print(socket.socket().connect_ex(("127.0.0.1", {host.port})), os.listdir("/proc/self/fd"))
"""
    with here.gap.entering() as enter:
        child = Child.spawn(
            [*PYTHON, code],
            size=Size(24, 80),
            env=os.environ,
            preexec=enter,
            preexec_fds=enter.fds,
        )
    with child:
        here.serve_until(child.fd)
        shown = os.read(child.fd, 4096).decode().strip()

    assert shown == f"{errno.ECONNREFUSED} ['0', '1', '2', '3']"  # the last one is the folder's own


def test_a_fork_that_never_enters(here: World) -> None:
    """When the program does not run inside, leaving the ``with`` says so; its own error passes."""
    with pytest.raises(OSError, match="no filter"), here.gap.entering():
        pass
    with pytest.raises(subprocess.SubprocessError), here.gap.entering():
        subprocess.Popen([*PYTHON, ""], preexec_fn=lambda: 1 / 0)  # noqa: PLW1509  # as above


def test_closing_is_closing(host: HostServers) -> None:
    """After ``close`` programs inside reach nothing: the kernel refuses each call. Twice is no error."""
    code = """
made = [socket.socket() for _ in arguments[1:]]
tell("in"); os.read(arguments[0], 1)
tell([error_of(sock.connect, ("127.0.0.1", port)) for sock, port in zip(made, arguments[1:])]
     + [error_of(socket.socket)])
"""
    reading, writing = os.pipe()
    with world() as here, os.fdopen(writing, "wb", 0) as go, os.fdopen(reading, "rb", 0):
        fd, port = here.gap.listen()
        with socket.socket(fileno=fd):
            started = here.start(code, [reading, port, host.port], pass_fds=(reading,))
            with ended(started) as process:
                assert here.next(process) == "in"
                here.gap.close()
                here.gap.close()
                go.write(b".")
                assert here.next(process) == ["ENOSYS"] * 3
    assert host.seen() == 0


def interpreter_for(user: int, paths: str) -> str | None:
    """A Python that this user may start, and that finds what tests need."""
    environment = {"PYTHONPATH": paths}
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-c", "import psutil, pytest, hypothesis"]
        with contextlib.suppress(OSError):
            done = subprocess.run(
                command, user=user, env=environment, capture_output=True, check=False
            )
            if done.returncode == 0:
                return python
    return None


@pytest.mark.timeout(900)  # seven files of tests, on a busy machine
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_as_an_ordinary_user() -> None:
    """All of this holds without any right."""
    project = Path(__file__).parents[2]
    paths = f"{project}:{sysconfig.get_path('purelib')}"
    python = interpreter_for(USER, paths)
    if python is None:
        pytest.skip("an ordinary user may start no Python that has the tests' packages")
    names = ("", "_entering", "_unix", "_hostile", "_orphans", "_races", "_neighbours", "_sends")
    files = [str(Path(__file__).with_name(f"test_seccomp{name}.py")) for name in names]
    both_layers = ("test_unix_sockets.py", "test_own_files.py")
    files += [str(Path(__file__).with_name(name)) for name in both_layers]
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is root's
        os.chown(folder, USER, USER)
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder}/t",
            "-k",
            "not ordinary_user",
        ]
        done = subprocess.run(
            [python, "-B", "-m", "pytest", *options, *files],
            user=USER,
            group=USER,
            extra_groups=[],
            cwd=project,
            env={**os.environ, "HOME": folder, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
