"""The process behind Ollama's address: real ones of ours, and of another user."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from fakes.ollama_server import FakeOllama
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess
from aider_guard.ollama.server_process import ListeningProcess, server_process
from aider_guard.process_starter import PACKAGE_PARENT

if TYPE_CHECKING:
    from collections.abc import Iterator

linux = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) and /proc are Linux's")
USER = pwd.getpwuid(os.getuid()).pw_name
NO_LOG = Path("/nonexistent/server.log")

# A process with Ollama's name and command line that listens, and one with a runner's below it.
SERVE = """
import ctypes, os, socket, subprocess, sys
runner = [sys.executable, "-c", "print(flush=True); input()", "--parallel", "2"]
with subprocess.Popen(runner, stdin=0, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    os.setuid(int(sys.argv[1]))
    prctl = ctypes.CDLL(None).prctl
    prctl(15, b"ollama")  # PR_SET_NAME
    prctl(4, 1)  # PR_SET_DUMPABLE: as after an exec, which a changed user otherwise needs
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        process.wait()
"""


@contextmanager
def serving(folder: Path, uid: int) -> Iterator[tuple[int, str]]:
    """A process that could be ``ollama serve``: its pid and address."""
    (folder / "serve").write_text(SERVE)
    environment = {**os.environ, "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_API_KEY": "secret"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "serve", str(uid)], cwd=folder, env=environment, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdout is not None
        yield process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate(b"\n")


@linux
def test_a_server_of_our_own(tmp_path: Path) -> None:
    """Process, user and settings are read, and quickly."""
    with serving(tmp_path, os.getuid()) as (pid, url):

        def timed() -> tuple[ServerProcess | Unavailable, float]:
            started_at = time.perf_counter()
            process = server_process(url)
            return process, time.perf_counter() - started_at

        (process, first), *others = (timed() for _ in range(3))
    assert isinstance(process, ServerProcess)
    assert isinstance(process.settings, dict)
    assert process == ServerProcess(pid, "ollama", USER, process.settings, "process")
    assert process.settings["OLLAMA_NUM_PARALLEL"] == "4"
    assert "secret" not in str(process)
    assert (
        min(first, *(seconds for _, seconds in others)) < 0.5
    )  # 10 ms here; the machine may be busy


@linux
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_server_of_another_users(tmp_path: Path) -> None:
    """Its user comes from the socket; process and slots are inferred from what every user may read."""
    nobody, owner = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
    ask = (  # becomes another user when all is imported: that user may not read this Python
        "import os, sys; from pathlib import Path\n"
        "from aider_guard.ollama.server_process import server_process\n"
        "server_process(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))\n"
        "print(server_process(sys.argv[1], app_log=Path('/nonexistent')))"
    )
    with serving(tmp_path, owner.pw_uid) as (pid, url):
        lookup = subprocess.run(
            [sys.executable, "-c", ask, url, str(nobody.pw_uid), str(nobody.pw_gid)],
            cwd=PACKAGE_PARENT,
            capture_output=True,
            text=True,
            check=False,
        )
    settings = {"OLLAMA_NUM_PARALLEL": "2"}
    expected = ServerProcess(
        pid, "ollama", "daemon", settings, "runner", inferred=True, bound="127.0.0.1"
    )
    assert lookup.stdout.strip() == str(expected), lookup.stderr


def test_another_program_has_no_settings_of_ollamas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel or proxy has the user's variables too, and they are not the server's."""
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "4")
    with FakeOllama() as ollama:
        process = server_process(ollama.url)
    assert isinstance(process, ServerProcess)
    assert (process.pid, process.user) == (os.getpid(), USER)
    why = f"{psutil.Process().name()} listens there, not Ollama"
    assert process.settings == Unavailable(why)


def test_nothing_listens() -> None:
    """A port without a listener is reported."""
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        process = server_process(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert isinstance(process, Unavailable)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("http://192.0.2.7:11434", "Ollama runs on another machine"),
        ("https://ollama.com:443", "Ollama runs on another machine"),
        ("http://box.example:11434", "Ollama runs on another machine"),
        ("http://127.0.0.1", "Ollama's address has no port"),
        ("http://127.0.0.1:99999", "Ollama's address has no port"),
        ("http://127.0.0.1:x", "Ollama's address has no port"),
    ],
)
def test_nothing_to_look_for(base: str, reason: str) -> None:
    """Another machine's processes cannot be seen, and a port is needed."""
    assert server_process(base) == Unavailable(reason)


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        (Unavailable("why"), Unavailable("why")),
        (
            ListeningProcess(os.getuid()),
            ServerProcess(
                0,
                "",
                USER,
                Unavailable(f"the system does not show which process of {USER} this is"),
            ),
        ),
        (
            ListeningProcess(2**31 - 7),
            ServerProcess(
                0,
                "",
                "2147483641",
                Unavailable("the system does not show which process of 2147483641 this is"),
            ),
        ),
        (
            ListeningProcess(os.getuid(), 2**30),
            ServerProcess(
                2**30,
                "",
                USER,
                Unavailable("a process that ended listens there, not Ollama"),
            ),
        ),
    ],
)
def test_what_is_not_told(
    listener: ListeningProcess | Unavailable, expected: ServerProcess | Unavailable
) -> None:
    """Each thing that the system does not show is reported, the rest is there."""
    assert (
        server_process("http://127.0.0.1:1", find=lambda *_: listener, app_log=NO_LOG) == expected
    )


@given(st.text("htps:/.[]@%0123456789abc?# é", max_size=40))
def test_any_address_has_an_answer(text: str) -> None:
    """Nothing that an address variable may hold makes this fail."""
    process = server_process(text, find=lambda *_: Unavailable("no listener"))
    assert isinstance(process, Unavailable)
