"""The names of programs, and the program behind a connection: with real processes, and a /proc that is data."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap import proc as airgap_proc
from aider_guard.airgap.proc import (
    BUDGET_SECONDS,
    Peers,
    connection_inode,
    diag_socket,
    display_name,
    neighbours,
    program_of,
    tree,
)
from aider_guard.proc_net import PROC, holder, read_tables, rows

linux = pytest.mark.skipif(not PROC.joinpath("self", "net").exists(), reason="no /proc")

NAMES = [
    (["/usr/bin/curl", "-sS", "http://x"], "curl"),
    (["git-remote-https", "origin"], "git-remote-https"),
    (["/usr/bin/python3.11", "/usr/bin/pytest", "-q"], "pytest"),
    (["python3", "-I", "-X", "dev", "-W", "error", "-m", "pip", "install"], "pip"),
    (["python", "-c", "import secret"], "python"),
    (["python"], "python"),
    (["python", "-"], "python"),
    (["/opt/py/python", "-E", "/lib/launch/inside_aider.py", "5", "/bin/aider"], "aider"),
    (["node", "--require", "x", "/app/server.js"], "server.js"),
    (["/bin/sh", "-c", "curl secret"], "sh"),
    (["-bash"], "bash"),
    (["pythonista", "x"], "pythonista"),
    (["a\x1b[31m\nb"], "a?[31m?b"),
    ([""], "kernel-name"),
    ([], "kernel-name"),
    (["x" * 99], "x" * 40),
]


@pytest.mark.parametrize(("arguments", "name"), NAMES)
def test_a_program_is_called_what_the_user_calls_it(arguments: list[str], name: str) -> None:
    """The script and not its interpreter; never a command that was given as text."""
    assert display_name(arguments, "kernel-name") == name


@given(st.lists(st.text()), st.text())
def test_every_name_can_be_shown(arguments: list[str], name: str) -> None:
    """It comes to the user's terminal."""
    shown = display_name(arguments, name)
    assert shown.isprintable()
    assert len(shown) <= 40


def test_a_process_that_is_gone_has_no_name() -> None:
    """Nor has one that there cannot be."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(20)
    assert program_of(process.pid) == ""
    assert program_of(-1) == ""
    assert program_of(os.getpid()) != ""


ASKS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    place = ("127.0.0.1", int(sys.argv[1]))
    if sys.argv[2] == "connected":
        one.connect(place)
        one.send(b"?")
    else:
        one.sendto(b"?", place)
    one.recv(1)
"""


@linux
@pytest.mark.parametrize("how", ["connected", "unconnected"])
def test_who_asks_for_a_name_is_found_while_it_waits(how: str, tmp_path: Path) -> None:
    """A program that waits for an answer has its socket open; afterwards it is closed."""
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        command = [sys.executable, str(script), str(server.getsockname()[1]), how]
        with subprocess.Popen(command):
            _, asker = server.recvfrom(1)
            peers = Peers(os.getpid, search_seconds=30)
            assert peers.asker(asker[1]) == "asks.py"
            server.sendto(b"!", asker)
        assert peers.asker(asker[1]) == ""
        assert Peers(lambda: 0, search_seconds=30).asker(server.getsockname()[1]) == ""


CONNECTS = """
import os, socket, sys
if sys.argv[2] == "daemon":
    if os.fork(): os._exit(0)
    os.setsid()
    parent = os.getpid()
    if os.fork(): os._exit(0)
    while os.getppid() == parent:  # it has left the tree when its parent has gone
        os.sched_yield()
elif sys.argv[2] == "child":
    if os.fork():
        os.wait()
        sys.exit()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
    s.recv(1)
"""


@contextmanager
def connected(script: Path, how: str) -> Iterator[tuple[int, int, int]]:
    """A process that connected, or what it started did: its pid, and the ports of the connection."""
    script.write_text(CONNECTS)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(20)
        port = server.getsockname()[1]
        process = stack.enter_context(
            subprocess.Popen([sys.executable, str(script), str(port), how])
        )
        connection, (_, peer_port) = server.accept()
        with connection:
            yield process.pid, peer_port, port


@linux
@pytest.mark.parametrize("how", ["itself", "child"])
def test_the_program_behind_a_connection_is_found(tmp_path: Path, how: str) -> None:
    """A process of the tree that is looked at, or one that it started."""
    with ExitStack() as stack:
        reached = connected(tmp_path / "reaches.py", how)
        pid, port, server_port = stack.enter_context(reached)
        for diag in (stack.enter_context(diag_socket()), None):

            def name(root: int, to_port: int, diag: socket.socket | None = diag) -> str:
                return Peers(lambda: root, diag=diag, search_seconds=30).program(port, to_port)

            assert name(pid, server_port) == "reaches.py"
            assert name(0, server_port) == ""
            assert name(2**22 + 1, server_port) == ""
            assert name(pid, server_port + 1) == ""


@linux
def test_a_daemon_is_found_though_it_left_the_tree(tmp_path: Path) -> None:
    """All processes of the same network are looked at after the tree."""
    with connected(tmp_path / "reaches.py", "daemon") as (_, port, server_port), diag_socket() as d:
        me = os.getpid()
        inode = connection_inode(d, port, server_port)
        # Another connection of this machine may use the same port, to another server.
        listed = rows(read_tables(PROC / str(me) / "net", "tcp"), port)
        (row,) = (row for row in listed if row.remote_port == server_port)
        assert inode == row.inode
        assert inode > 0
        assert holder(inode, tree(me), until=float("inf")) == 0
        named = Peers(lambda: me, diag=d, search_seconds=30)
        assert named.program(port, server_port) == "reaches.py"


@linux
def test_the_kernel_is_asked_about_one_connection(tmp_path: Path) -> None:
    """The other end, a listener on that port, and connections that there are not, are not it."""
    with connected(tmp_path / "reaches.py", "itself") as (_, port, server_port), diag_socket() as d:
        ours, theirs = (
            connection_inode(d, server_port, port),
            connection_inode(d, port, server_port),
        )
        assert 0 != ours != theirs != 0
        assert connection_inode(d, server_port, 1) == 0
        assert connection_inode(d, 1, server_port) == 0
        d.close()
        assert connection_inode(d, port, server_port) == 0


@linux
def test_a_tree_is_told_nearest_first(tmp_path: Path) -> None:
    """The process itself, then what it started; none comes twice; processes of one network are neighbours."""
    with connected(tmp_path / "reaches.py", "child") as (pid, *_):
        first, child, *rest = tree(pid)
        assert (first, rest) == (pid, [])
        assert child != pid
        assert {pid, child, os.getpid()} <= set(neighbours(pid))


IDLES = """
import subprocess, sys
children = [subprocess.Popen(one) for one in eval(sys.argv[1])]
while not all(open(f"/proc/{child.pid}/cmdline").read() for child in children):
    pass  # a program that has only just started has no arguments yet
print("ready", flush=True)
sys.stdin.read(1)
for child in children: child.kill(); child.wait()
"""


@linux
@pytest.mark.parametrize(
    ("children", "around", "name"),
    [
        ([], [], "tests.py"),
        ([], ["sh", "-c", '"$@"; true', "sh"], "tests.py"),
        ([], ["bash", "make.sh"], "tests.py"),
        ([["sleep", "60"]], [], ""),
        ([["sh", "-c", "read x"]], [], "tests.py"),
    ],
)
def test_the_only_program_is_named(
    children: list[list[str]], around: list[str], name: str, tmp_path: Path
) -> None:
    """Shells that wait for it aside. One that has started another may be the sender: it is not known."""
    (tmp_path / "tests.py").write_text(IDLES)
    (tmp_path / "make.sh").write_text('"$@"; true\n')
    unshare = [sys.executable, "-c", ALONE, *around, sys.executable, "tests.py", repr(children)]
    with subprocess.Popen(
        unshare, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("this system allows no network namespaces")
        assert airgap_proc.only_program(process.pid) == name
        process.communicate("x")


ALONE = """
import os, subprocess, sys
from aider_guard.airgap import kernel
kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET)
sys.exit(subprocess.call(sys.argv[1:]))
"""


class Clock:
    """Goes on by some seconds each time it is asked."""

    def __init__(self, steps: Sequence[float]) -> None:
        self.now = 0.0
        self._steps = iter(steps)

    def __call__(self) -> float:
        self.now += next(self._steps, 0.0)
        return self.now


def make_proc(folder: Path, pids: Sequence[int], inode: int) -> Path:
    """A /proc in which the last of these processes has the socket."""
    for pid in pids:
        fd = folder / str(pid) / "fd"
        fd.mkdir(parents=True)
        (fd / "0").symlink_to("/dev/null")
        if pid == pids[-1]:
            (fd / "1").symlink_to(f"socket:[{inode}]")
    return folder


def test_the_search_ends_in_time(tmp_path: Path) -> None:
    """What is not found by then stays unknown."""
    proc, pids = make_proc(tmp_path, range(1, 9), 5), range(1, 9)
    assert holder(5, pids, until=1, proc=proc, clock=Clock([])) == 8
    assert holder(5, pids, until=1, proc=proc, clock=Clock([0.3] * 9)) == 0
    assert holder(5, (99, 8), until=1, proc=proc, clock=Clock([])) == 8
    assert holder(6, pids, until=1, proc=proc, clock=Clock([])) == 0


def test_waiting_for_the_processor_is_not_searching(tmp_path: Path) -> None:
    """On a busy machine seconds pass in a short search; the program is found all the same."""
    proc = make_proc(tmp_path, range(1, 9), 5)
    (proc / "1" / "net").mkdir()
    (proc / "1" / "net" / "udp").write_text(
        f"0: 00000000:0007 00000000:0000 07 0:0 0:0 0 0 0 {5}\n"
    )
    (proc / "1" / "task" / "1").mkdir(parents=True)
    (proc / "1" / "task" / "1" / "children").write_text(f"{os.getpid()} 8")
    (proc / str(os.getpid()) / "fd").mkdir(parents=True)
    (proc / str(os.getpid()) / "fd" / "1").symlink_to("socket:[5]")
    busy = Peers(lambda: 1, proc=proc, clock=Clock([9.0] * 99), worked=Clock([]))
    assert busy.asker(7) == program_of(os.getpid()) != ""
    working = Peers(lambda: 1, proc=proc, clock=Clock([]), worked=Clock([9.0] * 99))
    assert working.asker(7) == ""


def test_a_flood_of_questions_does_not_take_the_threads_time() -> None:
    """After a tenth of a second of work nothing is looked at until ten times as much has passed."""
    asked: list[float] = []
    clock = Clock([])

    def root() -> int:
        asked.append(clock.now)
        clock.now += 0.01
        return 0

    peers = Peers(root, clock=clock, worked=clock)
    for _ in range(100):
        peers.program(1, 2)
    assert len(asked) == pytest.approx(BUDGET_SECONDS / 0.01, abs=2)
    clock.now += 0.5
    before = len(asked)
    for _ in range(100):
        peers.program(1, 2)
    assert 4 <= len(asked) - before <= 7
