"""The script that runs in Aider's process, started ahead: with a small package in Aider's place and a real socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from session.guards import AIDER_LIKE
from session.ptys import CAP_SECONDS

from aider_guard.launch.start_command import INSIDE_AIDER

FORCED = {"set": {"FORCED": "1"}, "unset": ["REFUSED"]}
ARGUMENTS = ["--model", "ollama_chat/m", "standby:not-a-channel"]
SAYS = [sys.executable, "-S", "-c", "import os; print('became', os.environ.get('FORCED'))"]


@dataclass
class Waiting:
    """One that was started ahead, as the guard sees it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def send(self, value: dict[str, Any]) -> None:
        """Send a line."""
        self.channel.sendall(json.dumps(value).encode() + b"\n")

    def line(self) -> dict[str, Any] | None:
        """The next line; None at its end."""
        received = b""
        while not received.endswith(b"\n"):
            data = self.channel.recv(65536)
            if not data:
                return None
            received += data
        said: dict[str, Any] = json.loads(received)
        return said

    def until(self, holds: Callable[[], bool]) -> None:
        """Look until something holds, or it has ended."""
        while not holds():
            assert self.process.poll() is None
            time.sleep(0.01)

    def command(self) -> list[str]:
        """Its command line now."""
        words = Path(f"/proc/{self.process.pid}/cmdline").read_bytes().split(b"\0")
        return [word.decode() for word in words]


@contextmanager
def started(folder: Path, way: str = "standby:", **environment: str) -> Iterator[Waiting]:
    """Start one in this folder."""
    ours, theirs = socket.socketpair()
    ours.settimeout(CAP_SECONDS)
    environment = {
        **os.environ,
        "PYTHONPATH": str(AIDER_LIKE),
        "AIDER_LIKE_FORM": "settings",
        "AIDER_LIKE_CHILD": json.dumps(SAYS),
        "REFUSED": "users",
        **environment,
    }
    command = [sys.executable, "-S", str(INSIDE_AIDER), f"{way}{theirs.fileno()}", "aider"]
    process = subprocess.Popen(
        [*command, *ARGUMENTS],
        cwd=folder,
        env=environment,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    with process, ours:
        try:
            yield Waiting(process, ours)
        finally:
            process.kill()


def ready(one: Waiting) -> dict[str, Any]:
    """Have it load its code; what it says then."""
    one.send({"variables": FORCED})
    said = one.line()
    assert said is not None
    return said


def begin(one: Waiting) -> str:
    """Answer its question; what the program that it becomes prints."""
    answer = {"arguments": ["--load", "f"], "environment": {}, "after_dotenv": FORCED}
    one.send(answer)
    out, _ = one.process.communicate(timeout=CAP_SECONDS)
    return out.decode()


def test_it_asks_when_it_is_its_turn(tmp_path: Path) -> None:
    """It tells its memory when it is ready, describes what it will use at its turn, and becomes Aider."""
    with started(tmp_path) as one:
        assert ready(one)["standby"]["memory_bytes"] > 0
        one.send({"variables": FORCED})
        question = one.line()
        assert question is not None
        assert question["model"] == "ollama_chat/m"
        assert any(word.startswith("standby:") for word in one.command()[3:4])
        assert begin(one) == "became 1\n"
    assert json.loads((tmp_path / "aider.argv").read_text()) == [*ARGUMENTS, "--load", "f"]


def test_other_variables_at_its_turn_make_it_begin_anew(tmp_path: Path) -> None:
    """Libraries read variables when they are imported: it becomes one that was not started ahead."""
    with started(tmp_path) as one:
        ready(one)
        one.send({"variables": {"set": {"FORCED": "1", "LITELLM_LOG": "DEBUG"}, "unset": []}})
        question = one.line()
        assert question is not None
        assert question["model"] == "ollama_chat/m"
        assert one.command()[3].isdigit()
        assert one.command()[5:-1] == ARGUMENTS
        assert begin(one) == "became 1\n"


def test_it_ends_with_the_guard(tmp_path: Path) -> None:
    """Nothing of Aider's runs then."""
    with started(tmp_path) as one:
        ready(one)
        one.channel.close()
        assert one.process.wait(CAP_SECONDS) == 0
    assert not (tmp_path / "aider.argv").exists()


@pytest.mark.parametrize("form", ["problem", "settings"])
def test_it_ends_where_it_cannot_prepare(tmp_path: Path, form: str) -> None:
    """An Aider that changed, or a variable of the user's that an import would change: nothing is printed."""
    (tmp_path / "httpcore.py").write_text("import os; os.environ['USERS'] = 'changed'")
    path = os.pathsep.join([str(AIDER_LIKE), str(tmp_path)])
    with started(tmp_path, AIDER_LIKE_FORM=form, USERS="own", PYTHONPATH=path) as one:
        one.send({"variables": FORCED})
        assert one.line() is None
        assert one.process.wait(CAP_SECONDS) == 1
        assert one.process.communicate() == (b"", b"")


def test_code_is_loaded_while_the_answer_is_waited_for(tmp_path: Path) -> None:
    """With the variables that were told; the environment of the question, and of Aider, is as without."""
    (tmp_path / "httpcore.py").write_text(
        "import os; open('loaded', 'w').write(os.environ['FORCED']); os.environ['SET_BY_IT'] = '1'"
    )
    path = os.pathsep.join([str(AIDER_LIKE), str(tmp_path)])
    with started(tmp_path, way="", PYTHONPATH=path) as one:
        assert one.line() is not None
        one.send({"variables": FORCED})
        one.until((tmp_path / "loaded").exists)
        assert begin(one) == "became 1\n"
    assert (tmp_path / "loaded").read_text() == "1"


def test_an_answer_that_comes_at_once_is_not_delayed(tmp_path: Path) -> None:
    """Aider then loads its code in its own way."""
    (tmp_path / "httpcore.py").write_text("open('loaded', 'w')")
    path = os.pathsep.join([str(AIDER_LIKE), str(tmp_path)])
    with started(tmp_path, way="", PYTHONPATH=path) as one:
        one.send({"variables": FORCED})
        assert begin(one) == "became 1\n"
    assert not (tmp_path / "loaded").exists()
