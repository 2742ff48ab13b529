"""The process that listens on a port: in process tables that are data, and in the one of this machine."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.ollama.names import targets
from aider_guard.ollama.server_process import ListeningProcess, find_listener
from aider_guard.proc_net import PROC

if TYPE_CHECKING:
    from pathlib import Path

PORT = 11434
UID = os.getuid()
V4, V6 = (ip_address("127.0.0.1"),), (ip_address("::1"),)
LAN = (ip_address("192.168.0.7"),)
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
linux = pytest.mark.skipif(not (PROC / "net" / "tcp").exists(), reason="no /proc/net/tcp")


def row(address: str, inode: int, *, port: int = PORT, uid: int = UID, state: str = "0A") -> str:
    """A line of /proc/net/tcp or tcp6 (proc_pid_net(5))."""
    packed = ip_address(address).packed
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    local = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    remote = "0" * len(local)
    return (
        f"   0: {local}:{port:04X} {remote}:0000 {state} 00000000:00000000 00:00000000 00000000 "
        f"{uid:5d}        0 {inode} 1 0000000000000000 100 0 0 10 0"
    )


def make_proc(folder: Path, *, tcp: str = "", tcp6: str | None = "") -> Path:
    """A /proc with sockets and no processes."""
    (folder / "net").mkdir(parents=True)
    (folder / "net" / "tcp").write_text(f"{HEADER}\n{tcp}")
    if tcp6 is not None:
        (folder / "net" / "tcp6").write_text(f"{HEADER}\n{tcp6}")
    return folder


def add_process(
    proc: Path, pid: int, name: str, command: str = "", inodes: tuple[int, ...] | None = ()
) -> None:
    """A process; with ``inodes`` None its open files may not be looked at."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
    if inodes is not None:
        (folder / "fd").mkdir()
        (folder / "fd" / "0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, 3):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(
    ("bound", "wanted", "index"),
    [
        (("127.0.0.1",), V4, 0),
        (("0.0.0.0",), V4, 0),
        (("::",), V4, 0),
        (("::1",), V6, 0),
        (("::",), V6, 0),
        (("::ffff:127.0.0.1",), V4, 0),
        (("0.0.0.0", "127.0.0.1"), V4, 1),
        (("::", "0.0.0.0"), V4, 1),
        (("127.0.0.1", "::1"), (*V6, *V4), 1),
        (("127.0.0.1", "::"), (*V6, *V4), 0),
        (("0.0.0.0",), LAN, 0),
        (("127.0.0.1", "192.168.0.7"), LAN, 1),
        (("127.0.0.1",), LAN, None),
        (("0.0.0.0",), V6, None),
        ((), V4, None),
    ],
)
def test_the_most_exact_socket_takes_the_connection(
    tmp_path: Path, bound: tuple[str, ...], wanted: tuple[object, ...], index: int | None
) -> None:
    """An address of its own beats an unspecified one, and one of IPv4 beats one of IPv6 that takes both."""
    rows: dict[int, list[str]] = {4: [], 6: []}
    for number, address in enumerate(bound, 100):
        rows[ip_address(address).version].append(row(address, number))
    proc = make_proc(tmp_path / "proc", tcp="\n".join(rows[4]), tcp6="\n".join(rows[6]))
    for number in range(len(bound)):
        add_process(proc, 20 + number, "program", inodes=(100 + number,))
    listener = find_listener(wanted, PORT, proc=proc)  # type: ignore[arg-type]  # addresses
    if index is None:
        assert listener == Unavailable("no process of this machine listens on port 11434")
    else:
        assert listener == ListeningProcess(UID, 20 + index)


def test_only_listening_sockets_of_the_port_count(tmp_path: Path) -> None:
    """A connection of the same port, and other ports, do not count."""
    other = (row("127.0.0.1", 1, state="01"), row("127.0.0.1", 2, port=PORT + 1))
    proc = make_proc(tmp_path / "proc", tcp="\n".join(other), tcp6=None)
    assert isinstance(find_listener(V4, PORT, proc=proc), Unavailable)


def test_the_first_process_of_all_is_the_last_that_is_taken(tmp_path: Path) -> None:
    """systemd keeps the sockets that it made for others."""
    proc = make_proc(tmp_path / "proc", tcp=row("127.0.0.1", 5))
    add_process(proc, 1, "systemd", inodes=(5,))
    assert find_listener(V4, PORT, proc=proc) == ListeningProcess(UID, 1)
    add_process(proc, 9, "proxy", inodes=(5,))
    assert find_listener(V4, PORT, proc=proc) == ListeningProcess(UID, 9)
    add_process(proc, 7, "ollama", inodes=(5,))
    assert find_listener(V4, PORT, proc=proc) == ListeningProcess(UID, 7)


@pytest.mark.parametrize(
    ("commands", "pid"),
    [
        (["ollama serve"], 20),
        (["/usr/local/bin/ollama serve", "ollama runner --model x --port 1"], 20),
        (["ollama run qwen3", "ollama start"], 21),
        (["ollama serve", "ollama serve"], 0),
        (["ollama run qwen3"], 0),
        ([], 0),
    ],
)
def test_the_one_server_of_the_user_is_inferred(
    tmp_path: Path, commands: list[str], pid: int
) -> None:
    """Where open files may not be looked at, the only Ollama server of the socket's user is it."""
    proc = make_proc(tmp_path / "proc", tcp=row("127.0.0.1", 5))
    add_process(proc, 10, "ssh", "ssh serve", inodes=None)
    for number, command in enumerate(commands, 20):
        add_process(proc, number, "ollama", command, inodes=None)
    assert find_listener(V4, PORT, proc=proc) == ListeningProcess(UID, pid, inferred=pid != 0)


def test_another_users_server_is_not_inferred(tmp_path: Path) -> None:
    """A server that the socket's user does not run cannot be it."""
    proc = make_proc(tmp_path / "proc", tcp=row("127.0.0.1", 5, uid=UID + 1))
    add_process(proc, 20, "ollama", "ollama serve", inodes=None)
    assert find_listener(V4, PORT, proc=proc) == ListeningProcess(UID + 1)


def test_the_search_ends(tmp_path: Path) -> None:
    """A process with very many open files does not hold up the rest."""
    proc = make_proc(tmp_path / "proc", tcp=row("127.0.0.1", 5))
    add_process(proc, 20, "busy", inodes=tuple(range(100, 200)))
    add_process(proc, 10, "holder", inodes=(5,))
    ticks = iter(range(1000))
    assert find_listener(V4, PORT, proc=proc, clock=lambda: next(ticks)) == ListeningProcess(UID)
    assert next(ticks) < 10


@given(st.binary(max_size=200) | st.text("0123456789ABCDEF: \nx", max_size=200).map(str.encode))
def test_any_table_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Lines that are none are passed over."""
    proc = make_proc(tmp_path_factory.mktemp("any") / "proc")
    (proc / "net" / "tcp").write_bytes(HEADER.encode() + b"\n" + content)
    assert isinstance(find_listener(V4, PORT, proc=proc), ListeningProcess | Unavailable)


@linux
@pytest.mark.parametrize(
    ("family", "bound", "wanted"),
    [
        (socket.AF_INET, "127.0.0.1", "http://127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "http://localhost"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1"),
        (socket.AF_INET6, "::1", "http://[::1]"),
        (socket.AF_INET6, "::", "http://127.0.0.1"),
    ],
)
@pytest.mark.parametrize("proc", [PROC, PROC / "no-such-folder"], ids=["proc", "no proc"])
def test_a_real_socket_is_found(
    proc: Path, family: socket.AddressFamily, bound: str, wanted: str
) -> None:
    """A socket of this process is found in /proc, and through the processes as on macOS."""
    with closing(socket.socket(family)) as listening:
        try:
            listening.bind((bound, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.listen()
        port = listening.getsockname()[1]
        listener = find_listener(targets(wanted), port, proc=proc, clock=lambda: 0.0)
    assert listener == ListeningProcess(UID, os.getpid())
    gone = find_listener(targets(wanted), port, proc=proc, clock=lambda: 0.0)
    assert isinstance(gone, Unavailable)
