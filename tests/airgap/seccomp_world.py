"""A guard that serves one seccomp layer from its loop, and programs that run inside."""

from __future__ import annotations

import contextlib
import json
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aider_guard.airgap.dns import NameTable
from aider_guard.airgap.seccomp import SeccompGap
from aider_guard.core.egress import Attempt, Place
from aider_guard.loop import Loop

PYTHON = (sys.executable, "-I", "-S", "-c")
CAP_SECONDS = 20.0
PRELUDE = """
import ctypes, errno, json, os, socket, struct, sys, threading
arguments = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def tell(value):
    print(json.dumps(value), flush=True)
def error_of(action, *arguments):
    "The name of the error that it ends with; '' for none."
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
    return ""
"""


@dataclass
class World:
    """The guard's side. ``attempts`` are those that were reported, in order."""

    gap: SeccompGap
    loop: Loop
    attempts: list[Attempt] = field(default_factory=list)

    def start(
        self,
        code: str,
        arguments: object = None,
        pass_fds: Sequence[int] = (),
        stdout: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a Python program inside. It has ``arguments`` and ``tell``, and prints JSON lines."""
        command = [*PYTHON, PRELUDE + code, json.dumps(arguments)]
        with self.gap.entering() as enter:
            return subprocess.Popen(
                command,
                stdout=stdout,
                text=True,
                preexec_fn=enter,  # noqa: PLW1509  # what an air gap is for
                pass_fds=pass_fds,
            )

    def serve_until(self, fd: int) -> None:
        """Serve what is inside until there is something to read."""
        ready: list[int] = []
        self.loop.watch(fd, selectors.EVENT_READ, ready.append)
        until = time.monotonic() + CAP_SECONDS
        while not ready:
            assert time.monotonic() < until, "nothing came"
            self.loop.run_once(1.0)
        self.loop.forget(fd)

    def next(self, process: subprocess.Popen[str]) -> Any:
        """What the program tells next, while it is served."""
        assert process.stdout is not None
        self.serve_until(process.stdout.fileno())
        return json.loads(process.stdout.readline())

    def run(self, code: str, arguments: object = None) -> Any:
        """The only thing that a program tells; it is served to its end."""
        with ended(self.start(code, arguments)) as process:
            answer = self.next(process)
            assert process.stdout is not None
            self.serve_until(process.stdout.fileno())
        return answer

    def serve_until_forgotten(self) -> None:
        """Serve until no program is left inside."""
        until = time.monotonic() + CAP_SECONDS
        while self.gap._server._listeners:
            assert time.monotonic() < until, "a program is left"
            self.loop.run_once(1.0)

    def kinds(self) -> set[tuple[str, int, str]]:
        """Host, port and protocol of what was reported."""
        return {(attempt.host, attempt.port, attempt.protocol) for attempt in self.attempts}


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leave no process behind."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def world(allowed: Sequence[Place] = (), **options: Any) -> Iterator[World]:
    """A gap that is served."""
    with Loop() as loop, contextlib.closing(SeccompGap(NameTable(), allowed, **options)) as gap:
        here = World(gap, loop)
        gap.watch(loop, here.attempts.append)
        yield here


def compiled(name: str, folder: Path) -> str:
    """A C program of this folder, compiled into *folder*: two threads that race. Skips the test without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, for a program with two threads that race")
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run([compiler, "-O1", "-pthread", "-o", folder / name, source], check=True)
    return str(folder / name)


@dataclass
class HostServers:
    """Servers of the host that must not be reached: TCP and UDP on the same port of the loopback."""

    tcp: socket.socket
    udp: socket.socket

    @property
    def port(self) -> int:
        """Of both."""
        port: int = self.tcp.getsockname()[1]
        return port

    def seen(self) -> int:
        """How many connections and datagrams came."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.tcp.accept()[0].close()
                count += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                self.udp.recv(65536)
                count += 1
        return count


@contextlib.contextmanager
def host_servers() -> Iterator[HostServers]:
    """Servers of the host that count connections and datagrams."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(tcp.getsockname())
        tcp.setblocking(False)
        udp.setblocking(False)
        yield HostServers(tcp, udp)
