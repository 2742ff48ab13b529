from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.core.truncation import LoggedCut
from aider_guard.ollama import log_files
from aider_guard.ollama.log_files import (
    ELSEWHERE,
    MAX_LINES,
    NOT_FOUND,
    LogFile,
    LogFileAt,
    LogLines,
    LogOf,
    LogStream,
    Machine,
    find_log,
    followed_child,
)
from aider_guard.ollama.log_lines import LogLine
from aider_guard.ollama.server_process import server_process

LOCAL = "http://127.0.0.1:11434"
CONTAINER = "4f" * 32
PATIENCE_SECONDS = 20.0


def cut(prompt_tokens: int) -> bytes:
    words = f"limit=9 prompt={prompt_tokens} keep=4 new=9"
    return f'time=2026 level=WARN source=r.go:1 msg="truncating input prompt" {words}\n'.encode()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def unreadable(_base: str) -> Unavailable:
    return Unavailable("no process")


# --- where the log is ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forgotten_programs() -> None:
    """Programs are looked for once a process."""
    log_files.find_program.cache_clear()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which nothing is found."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "bin").mkdir()
    return Machine(
        proc=tmp_path / "proc",
        app_log=tmp_path / "server.log",
        is_macos=False,
        journals=(tmp_path / "journal",),
        docker_sockets=(tmp_path / "docker.sock",),
        environment={"PATH": str(tmp_path / "bin"), "DOCKER_HOST": "ssh://far", "HOME": "/h"},
        process=unreadable,
    )


def running(pid: int, name: str = "ollama") -> Callable[[str], ServerProcess]:
    return lambda _base: ServerProcess(pid, name, "me", {})


def process(machine: Machine, pid: int, groups: str = "", command: bytes = b"") -> Path:
    """A process in the machine's table; its open files are yet to be made."""
    folder = machine.proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cgroup").write_text(groups)
    (folder / "cmdline").write_bytes(command)
    return folder / "fd"


def program(machine: Machine, name: str) -> str:
    path = Path(machine.environment["PATH"]) / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_a_named_file(machine: Machine, tmp_path: Path) -> None:
    """A file that the user names is used, for any server; a path that is not a file is reported."""
    log = tmp_path / "my.log"
    log.touch()
    assert find_log("http://gpu-box:11434", str(log), machine) == LogFileAt(log)
    for wrong in (tmp_path / "none.log", tmp_path):
        source = find_log(LOCAL, str(wrong), machine)
        assert isinstance(source, Unavailable)
        assert str(wrong) in source.reason


def test_a_named_file_that_is_a_pipe(machine: Machine, tmp_path: Path) -> None:
    """Reading a pipe would take its lines from another reader."""
    os.mkfifo(tmp_path / "pipe")
    assert isinstance(find_log(LOCAL, str(tmp_path / "pipe"), machine), Unavailable)


def test_another_machine(machine: Machine, tmp_path: Path) -> None:
    """The log of a server elsewhere is not looked for here, where another one may have its own."""
    (tmp_path / "server.log").touch()
    assert find_log("http://gpu-box:11434", "", replace(machine, is_macos=True)) == ELSEWHERE


def test_nothing_there(machine: Machine) -> None:
    """A server on a terminal keeps no log."""
    assert find_log(LOCAL, "", machine) == NOT_FOUND
    process(machine, 7)
    assert find_log(LOCAL, "", replace(machine, process=running(7))) == NOT_FOUND


@pytest.mark.parametrize(("fds", "chosen"), [((1,), 1), ((2,), 2), ((1, 2), 2)])
def test_the_servers_own_output(
    machine: Machine, tmp_path: Path, fds: tuple[int, ...], chosen: int
) -> None:
    """A file that the server writes to; its stderr comes before its stdout."""
    folder = process(machine, 7, "0::/system.slice/ollama.service\n")
    for fd in fds:
        (tmp_path / f"{fd}.log").touch()
        (folder / str(fd)).symlink_to(tmp_path / f"{fd}.log")
    source = find_log(LOCAL, "", replace(machine, process=running(7)))
    assert source == LogFileAt(tmp_path / f"{chosen}.log")


def test_a_server_that_is_another_program(machine: Machine, tmp_path: Path) -> None:
    """The output of a tunnel or a container's proxy is no log of Ollama's."""
    folder = process(machine, 7)
    (tmp_path / "proxy.log").touch()
    (folder / "2").symlink_to(tmp_path / "proxy.log")
    assert find_log(LOCAL, "", replace(machine, process=running(7, "docker-proxy"))) == NOT_FOUND


def test_a_real_process(tmp_path: Path) -> None:
    """The file behind a real process's stderr is found, a removed one too."""
    log, ready = tmp_path / "serve.log", "import sys; print('READY', flush=True); sys.stdin.read()"
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-c", ready],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
        ) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        machine = Machine(process=running(child.pid))
        if sys.platform == "linux":
            assert find_log(LOCAL, "", machine) == LogFileAt(log)
            log.unlink()
            source = find_log(LOCAL, "", machine)
            assert isinstance(source, LogFileAt)
            assert stat.S_ISREG(source.path.stat().st_mode)
        child.communicate()


@pytest.mark.parametrize("readable", [True, False])
def test_the_journal(machine: Machine, tmp_path: Path, readable: bool) -> None:
    """A unit's journal is followed where this user may read the system's; else it would be silent for ever."""
    journalctl = program(machine, "journalctl")
    process(machine, 7, "0::/system.slice/ollama-gpu.service\n")
    if readable:
        (tmp_path / "journal" / "id").mkdir(parents=True)
        (tmp_path / "journal" / "id" / "system.journal").touch()
    source = find_log(LOCAL, "", replace(machine, process=running(7)))
    if not readable:
        assert source == NOT_FOUND
        return
    assert isinstance(source, LogOf)
    assert source.command[0] == journalctl
    assert source.command[-1] == "--unit=ollama-gpu.service"
    assert {"--follow", "--lines=0", "--output=cat"} < set(source.command)
    assert source.environment == {**_kept(machine), "LANG": "C.UTF-8"}


def _kept(machine: Machine) -> dict[str, str]:
    return {name: machine.environment[name] for name in ("PATH", "HOME")}


def test_a_users_own_unit(machine: Machine, tmp_path: Path) -> None:
    """A server that the user's own service manager runs has its lines in the user's journal."""
    program(machine, "journalctl")
    groups = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service\n"
    process(machine, 7, groups)
    (tmp_path / "journal" / "id").mkdir(parents=True)
    (tmp_path / "journal" / "id" / f"user-{os.getuid()}.journal").touch()
    source = find_log(LOCAL, "", replace(machine, process=running(7)))
    assert isinstance(source, LogOf)
    assert source.command[-1] == "--user-unit=ollama.service"


DOCKER = f"0::/system.slice/docker-{CONTAINER}.scope\n"
OLD_DOCKER = f"12:pids:/docker/{CONTAINER}\n1:name=systemd:/docker/{CONTAINER}\n"
PODMAN = f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{CONTAINER}.scope/container\n"


@pytest.mark.parametrize("groups", [DOCKER, OLD_DOCKER])
def test_docker(machine: Machine, tmp_path: Path, groups: str) -> None:
    """A container's output comes from the docker of this machine, whatever the user's settings say."""
    docker = program(machine, "docker")
    process(machine, 7, groups)
    assert find_log(LOCAL, "", replace(machine, process=running(7))) == NOT_FOUND
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        source = find_log(LOCAL, "", replace(machine, process=running(7)))
    assert isinstance(source, LogOf)
    follow = ("logs", "--follow", "--tail", "0", CONTAINER)
    assert source.command == (docker, "--host", f"unix://{tmp_path}/docker.sock", *follow)
    assert "DOCKER_HOST" not in source.environment


def test_podman(machine: Machine) -> None:
    """Podman needs no server."""
    process(machine, 7, PODMAN)
    assert find_log(LOCAL, "", replace(machine, process=running(7))) == NOT_FOUND
    podman = program(machine, "podman")
    assert find_log(LOCAL, "", replace(machine, process=running(7))) == NOT_FOUND  # it came later
    log_files.find_program.cache_clear()
    source = find_log(LOCAL, "", replace(machine, process=running(7)))
    assert isinstance(source, LogOf)
    assert source.command == (podman, "logs", "--follow", "--tail", "0", CONTAINER)


def test_a_container_behind_a_proxy(machine: Machine) -> None:
    """Where a proxy listens for it, the one server in a container is meant; of two, none."""
    program(machine, "podman")
    process(machine, 7)
    process(machine, 8, "0::/init.scope", b"/usr/bin/ollama\0serve\0")
    process(machine, 9, PODMAN, b"/usr/bin/ollama\0serve\0")
    process(machine, 10, PODMAN, b"/usr/bin/ollama\0runner\0--port\0" + b"1\0")
    process(machine, 11, PODMAN.replace("4f", "5e"), b"/bin/postgres\0serve\0")
    behind = replace(machine, process=running(7, "rootlessport"))
    source = find_log(LOCAL, "", behind)
    assert isinstance(source, LogOf)
    assert source.command[-1] == CONTAINER
    process(machine, 12, PODMAN.replace("4f", "5e"), b"/bin/ollama\0serve\0")
    assert find_log(LOCAL, "", behind) == NOT_FOUND


def test_the_macos_app(machine: Machine, tmp_path: Path) -> None:
    """The app's log has one place, on macOS only."""
    (tmp_path / "server.log").touch()
    assert find_log(LOCAL, "", machine) == NOT_FOUND
    assert find_log(LOCAL, "", replace(machine, is_macos=True)) == LogFileAt(
        tmp_path / "server.log"
    )


def test_this_machine_is_looked_at_by_default() -> None:
    """Without a machine of its own the real one is looked at, and nothing raises."""
    assert Machine().process is server_process
    find_log("http://127.0.0.1:1")


# --- a file -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log with a line in it."""
    path = tmp_path / "server.log"
    path.write_bytes(cut(1))
    return path


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_was_said_since(path: Path) -> None:
    """Each mark gets the lines after it, and no mark gets the lines from before the start."""
    log = LogFile(path)
    first = log.mark()
    add(path, cut(2))
    second = log.mark()
    add(path, b"nothing of interest\n" + cut(3))
    assert log.since(second) == (LoggedCut(3, 9),)
    assert log.since(first) == (LoggedCut(2, 9), LoggedCut(3, 9))
    assert log.since(log.mark()) == ()
    log.close()


def test_what_was_there_is_not_read(path: Path) -> None:
    """A long log costs nothing, and debug lines of an earlier server do not count for this one."""
    debug = b"time=2026 level=DEBUG source=r.go:1 msg=reloading\n"
    add(path, debug)
    log = LogFile(path)
    assert log.since(log.mark()) == ()
    before = log.tells_all
    add(path, debug)
    log.since(0)
    assert (before, log.tells_all) == (False, True)
    log.close()


def test_a_line_that_is_not_complete(path: Path) -> None:
    """A line counts when it is complete, for marks before its end."""
    log, line = LogFile(path), cut(2)
    add(path, line[:30])
    mark = log.mark()
    assert log.since(mark) == ()
    add(path, line[30:])
    assert log.since(mark) == (LoggedCut(2, 9),)
    log.close()


def test_rotation(path: Path) -> None:
    """The file is renamed and a new one begins: nothing of either is lost for any mark."""
    log = LogFile(path)
    first = log.mark()
    add(path, cut(2))
    path.rename(path.with_name("server-1.log"))
    assert log.since(first) == (LoggedCut(2, 9),)  # the new file is not there yet
    path.write_bytes(cut(3))
    second = log.mark()
    add(path, cut(4))
    assert log.since(second) == (LoggedCut(4, 9),)
    assert log.since(first) == tuple(LoggedCut(number, 9) for number in (2, 3, 4))
    assert log.since(log.mark()) == ()
    log.close()


def test_a_file_cut_short(path: Path) -> None:
    """The file begins anew in its place, as with a server that is started with ``> server.log`` again."""
    log = LogFile(path)
    add(path, cut(2) * 10)
    first = log.mark()
    log.since(first)
    path.write_bytes(cut(3))
    second = log.mark()
    add(path, cut(4))
    assert log.since(second) == (LoggedCut(4, 9),)
    assert log.since(first) == (LoggedCut(3, 9), LoggedCut(4, 9))
    log.close()


def test_a_file_that_is_gone(path: Path) -> None:
    """A file that cannot be read any more is a reason; nothing raises."""
    log = LogFile(path)
    mark = log.mark()
    path.unlink()
    assert log.since(mark) == ()
    path.parent.chmod(0o000)
    lines = log.since(mark)
    path.parent.chmod(0o755)
    assert lines == () or isinstance(lines, Unavailable)
    log.close()


def test_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of a log that grew too fast is read, and a mark before it gets a reason."""
    monkeypatch.setattr(log_files, "MAX_BEHIND_BYTES", 5000)
    log = LogFile(path)
    first = log.mark()
    add(path, cut(2) + b"x" * 20_000 + b"\n")
    second = log.mark()
    add(path, cut(3))
    assert log.since(second) == (LoggedCut(3, 9),)
    assert isinstance(log.since(first), Unavailable)
    log.close()


def test_little_is_kept() -> None:
    """Neither an endless line nor endlessly many of them stay in memory, and no text of a prompt does."""
    collected = LogLines()
    debug = b'time=2026 level=DEBUG source=r.go:1 msg="chat request" prompt="my secret '
    collected.feed(debug)
    for _ in range(100):
        collected.feed(b"secret " * 10_000)
    assert len(collected._line) < 2048
    collected.feed(b'"\n')
    assert collected.tells_all
    assert collected.since(0) == ()
    assert not collected._line
    collected.feed(cut(5) * (MAX_LINES + 1))
    assert isinstance(collected.since(0), Unavailable)
    lines = collected.since(collected.at - len(cut(5)) * 3)
    assert lines == (LoggedCut(5, 9),) * 3


def test_idle_costs_nothing(path: Path) -> None:
    """No thread and no reading between the calls."""
    before = psutil.Process().num_threads()
    log = LogFile(path)
    add(path, cut(2) * 1000)
    assert psutil.Process().num_threads() == before
    assert log._position.offset < path.stat().st_size
    log.close()


# --- a child ------------------------------------------------------------------------------------


def tail(path: Path) -> list[str]:
    return ["tail", "-n", "0", "-F", str(path)]


def test_a_childs_output(path: Path) -> None:
    """What the child prints is the log; when we are done the child is gone."""
    before = _children()  # other tests' servers
    with followed_child(tail(path), {"PATH": os.environ["PATH"]}) as log:
        children = [child for child in _children() if child not in before]
        until(lambda: _has_lines_of(path, log))
        mark = log.mark()
        add(path, cut(3))
        until(lambda: log.since(mark) == (LoggedCut(3, 9),))
    until(lambda: not any(child.is_running() for child in children))
    assert children


def _has_lines_of(path: Path, log: LogStream) -> bool:
    """One more line, until the child is there to see it; then the last one is waited for."""
    if not log.since(0):
        add(path, cut(1))
        return False
    add(path, cut(2))
    until(lambda: LoggedCut(2, 9) in _all(log))
    return True


def _all(log: LogStream) -> tuple[LogLine, ...]:
    lines = log.since(0)
    assert not isinstance(lines, Unavailable)
    return lines


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("command", [["false"], ["no-such-command-here"]])
def test_a_child_that_ends(command: list[str]) -> None:
    """Its end is reported."""
    with followed_child(command, {"PATH": os.environ["PATH"]}) as log:
        until(lambda: isinstance(log.since(0), Unavailable))
        lines = log.since(0)
        assert isinstance(lines, Unavailable)
        assert command[0] in lines.reason


KILLED = """
import os, signal, sys
from aider_guard.ollama.log_files import followed_child
with followed_child(["tail", "-n", "0", "-F", sys.argv[1]], {"PATH": os.environ["PATH"]}):
    print("READY", flush=True)
    sys.stdin.read()
"""


def test_a_child_never_outlives_us(path: Path) -> None:
    """After a SIGKILL no cleanup can run; the child ends all the same."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as us:
        assert us.stdout is not None
        us.stdout.readline()
        own = psutil.Process(us.pid)
        until(lambda: any("tail" in child.name() for child in own.children(recursive=True)))
        children = own.children(recursive=True)
        us.kill()
        us.communicate()
        until(lambda: not any(_lives(child) for child in children))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_a_program_is_the_one_that_was_there_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a program inside puts on PATH later is not taken, nor one in the working folder."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
    path = f"{mine}:.:{theirs}"

    def put(folder: Path) -> Path:
        (folder / "podman").write_text("#!/bin/sh\n")
        (folder / "podman").chmod(0o755)
        return folder / "podman"

    there = put(theirs)
    monkeypatch.chdir(mine)
    monkeypatch.setattr(log_files, "may_change", lambda _path: True)
    assert log_files.find_program("podman", path) == str(there)
    put(mine)
    assert log_files.find_program("podman", path) == str(there)
    monkeypatch.setattr(log_files, "may_change", lambda one: one.startswith(str(mine)))
    assert log_files.find_program("podman", f"{path}:/") == str(there)
