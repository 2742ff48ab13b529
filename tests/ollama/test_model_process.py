"""The process that runs a model: only one of Ollama's own, with the model's file, whose port is its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.ollama import model_process
from aider_guard.ollama.model_process import (
    NO_PROCESS,
    STARTING,
    ModelProcess,
    find_model_process,
)
from aider_guard.ollama.server_process import ListeningProcess

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.ollama.names import Address

BASE, DIGEST = "http://127.0.0.1:11434", "ab" * 32
SERVER_PID, PID, PORT, UID = 100, 200, 40123, 997
FOUND = ModelProcess(PID, 50.0, SERVER_PID, "127.0.0.1", PORT, 4096, DIGEST)
UNREAD = Unavailable("not read")


def command(**changed: str) -> list[str]:
    """The command line of Ollama's child (llm/llama_server.go)."""
    flags = {
        "--model": f"/models/blobs/sha256-{DIGEST}",
        "--port": str(PORT),
        "--host": "127.0.0.1",
        "-c": "4096",
        "-np": "1",
        **{f"--{name}" if len(name) > 2 else f"-{name}": value for name, value in changed.items()},
    }
    words = [word for flag, value in flags.items() if value for word in (flag, value)]
    return ["/usr/lib/ollama/llama-server", *words, "--context-shift"]


@dataclass
class FakeProcess:
    """A process as psutil shows it."""

    pid: int
    command: list[str]
    started_at: float = 50.0
    parent_pid: int = SERVER_PID
    is_hidden: bool = False
    uid: int = UID
    state: str = psutil.STATUS_SLEEPING

    def cmdline(self) -> list[str]:
        if self.is_hidden:
            raise psutil.AccessDenied(self.pid)
        return self.command

    def create_time(self) -> float:
        return self.started_at

    def ppid(self) -> int:
        return self.parent_pid

    def status(self) -> str:
        return self.state

    def name(self) -> str:
        return self.command[0].rpartition("/")[2]

    def uids(self) -> Any:
        return SimpleNamespace(effective=self.uid)


@dataclass
class FakeMachine:
    """Ollama's process and its children, and who listens where."""

    children: list[FakeProcess]
    server: FakeProcess = field(
        default_factory=lambda: FakeProcess(SERVER_PID, ["/usr/bin/ollama", "serve"])
    )
    listener: ListeningProcess | Unavailable = UNREAD
    at_base: ListeningProcess | Unavailable = ListeningProcess(UID, SERVER_PID)

    def process(self, pid: int) -> Any:
        """Return a process by its id."""
        machine = self

        class Parent(FakeProcess):
            def children(self) -> list[FakeProcess]:
                return machine.children

        if pid == SERVER_PID:
            return Parent(**vars(self.server))
        found = [child for child in self.children if child.pid == pid]
        if not found:
            raise psutil.NoSuchProcess(pid)
        return found[0]

    def find(self, addresses: tuple[Address, ...], port: int) -> ListeningProcess | Unavailable:
        """Return who listens."""
        assert ip_address("127.0.0.1") in addresses
        return self.at_base if port == 11434 else self.listener


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """With one model loaded."""
    machine = FakeMachine([FakeProcess(PID, command())], listener=ListeningProcess(UID, PID))
    monkeypatch.setattr(psutil, "Process", machine.process)
    return machine


def find(machine: FakeMachine, digest: str = DIGEST) -> ModelProcess | Unavailable:
    """Return the process of the model."""
    return find_model_process(BASE, digest, find=machine.find)


def test_a_child_with_the_models_file_is_found(machine: FakeMachine) -> None:
    """The window is for one request; the youngest of two counts; the address is a URL's."""
    assert find(machine) == FOUND
    assert FOUND.base == f"http://127.0.0.1:{PORT}"
    assert replace(FOUND, host="::1").base == f"http://[::1]:{PORT}"
    machine.children.insert(0, FakeProcess(201, command(c="16384", np="2"), started_at=60.0))
    machine.listener = ListeningProcess(UID, 201)
    assert find(machine) == replace(FOUND, pid=201, started_at=60.0, window_tokens=8192)


@pytest.mark.parametrize(
    "words",
    [
        command(model="/models/blobs/sha256-" + "cd" * 32),
        command(model=""),
        command(port="x"),
        command(port=""),
        command(c=""),
        command(host="192.168.0.7"),
        command(host=""),
        ["/usr/bin/ollama", "runner", "--model", f"sha256-{DIGEST}", "--port", str(PORT)],
        ["/usr/lib/ollama/llama-server"],
        [],
    ],
)
def test_other_children_are_none(machine: FakeMachine, words: list[str]) -> None:
    """Of another model, without a port, open to the network, of an older Ollama, or ended."""
    machine.children = [FakeProcess(PID, words)]
    assert find(machine) is NO_PROCESS


def test_nothing_is_found_where_nothing_may_be_seen(machine: FakeMachine) -> None:
    """A hidden child, no child, no known file, another program at the address, one that is not shown, no address."""
    assert find(machine, "") is NO_PROCESS
    machine.children = [FakeProcess(PID, command(), is_hidden=True)]
    assert find(machine) is NO_PROCESS
    machine.children = []
    assert find(machine) is NO_PROCESS
    machine.children = [FakeProcess(PID, command())]
    machine.server = FakeProcess(SERVER_PID, ["/usr/bin/docker-proxy"])
    assert find(machine) == Unavailable("what listens at Ollama's address is another program")
    machine.at_base = ListeningProcess(UID)
    assert find(machine) == Unavailable("the system does not show which process is Ollama's")
    machine.at_base = UNREAD
    assert find(machine) is UNREAD
    for base in ("http://192.0.2.1:11434", "http://127.0.0.1:99999", "http://127.0.0.1"):
        assert isinstance(find_model_process(base, DIGEST, find=machine.find), Unavailable)


@pytest.mark.parametrize(
    ("listener", "networks", "is_ours"),
    [
        (
            ListeningProcess(UID, PID),
            (1, 2),
            True,
        ),  # its descriptors are read: nothing more is needed
        (ListeningProcess(UID, 999), (1, 1), False),
        (ListeningProcess(UID), (1, 1), True),
        (ListeningProcess(UID, SERVER_PID, inferred=True), (1, 1), True),
        (ListeningProcess(UID), (1, 2), False),
        (ListeningProcess(UID + 1), (1, 1), False),
        (UNREAD, (1, 1), False),
    ],
)
def test_the_port_is_its_own(
    machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    listener: ListeningProcess | Unavailable,
    networks: tuple[int, int],
    is_ours: bool,
) -> None:
    """By its descriptors; else the socket is its user's and in the same network, as of a container on the host's."""
    monkeypatch.setattr(model_process, "PROC", tmp_path)
    for folder, inode in zip(
        (tmp_path / "net", tmp_path / str(PID) / "net"), networks, strict=True
    ):
        folder.mkdir(parents=True)
        socket = f"0: 0100007F:{PORT:04X} 00000000:0000 0A 0:0 0:0 0 {UID} 0 {inode} 1"
        (folder / "tcp").write_text(f"  sl  local_address\n   {socket}\n")
    machine.listener = listener
    assert (find(machine) == FOUND) == is_ours


@pytest.mark.parametrize(("age_seconds", "is_starting"), [(0.0, True), (9.0, True), (11.0, False)])
def test_a_process_that_does_not_listen_yet_is_starting(
    machine: FakeMachine, age_seconds: float, is_starting: bool
) -> None:
    """A moment later it listens; one that has run for long is in another network, as in a container."""
    machine.listener = UNREAD
    now = FOUND.started_at + age_seconds
    found = find_model_process(BASE, DIGEST, find=machine.find, wall_clock=lambda: now)
    assert isinstance(found, Unavailable)
    assert (found is STARTING) == is_starting


@pytest.mark.parametrize(
    ("changed", "runs"),
    [
        ({}, True),
        ({"started_at": 51.0}, False),
        ({"parent_pid": 1}, False),
        ({"state": psutil.STATUS_ZOMBIE}, False),
        ({"pid": 7}, False),
    ],
)
def test_a_process_that_ended_does_not_run(
    machine: FakeMachine, changed: dict[str, Any], runs: bool
) -> None:
    """Nor one that has its id, nor one whose Ollama was killed: that one has no server any more."""
    for name, value in changed.items():
        setattr(machine.children[0], name, value)
    assert FOUND.still_runs == runs


def test_a_real_process_that_is_not_ollama() -> None:
    """This one."""
    at_base = ListeningProcess(os.getuid(), os.getpid())
    found = find_model_process(BASE, DIGEST, find=lambda *_: at_base)
    assert found == Unavailable("what listens at Ollama's address is another program")
