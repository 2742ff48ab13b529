"""A box: user, network and mount namespaces in which nothing outside exists, and a witness of all that is sent there.

A question for a name is seen, whatever its port. A program that knows an address finds no way there, unseen, unless it
is one of the outside. Needs ``unshare`` and ``nsenter`` (util-linux) and a system that lets its users make user
namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
PORTS = (22, 53, 80, 443, 3128, 4000, 11434)
"""Where the outside listens: SSH, DNS, the web, and the usual ports of a proxy, a LiteLLM proxy and Ollama."""
ALLOW = (
    "to allow them: sysctl user.max_user_namespaces=1000 kernel.unprivileged_userns_clone=1"
    " kernel.apparmor_restrict_unprivileged_userns=0 (those that exist); in a container, run it with"
    " --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
)
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Seen:
    """One thing that the world received."""

    kind: str
    """``name``, a question for one; ``touch`` and then ``connection``; ``ollama``, a request to the fake."""
    host: str = ""
    """The name asked for, the host meant, or Ollama's model."""
    port: int = 0
    path: str = ""
    text: str = ""
    sent_out: bool = False
    """Whether Ollama would have passed the request on to its cloud."""

    @property
    def is_outside(self) -> bool:
        """Whether it would have left the machine."""
        return self.kind != "ollama" or self.sent_out

    def __str__(self) -> str:
        return f"{self.kind} {self.host}:{self.port}{self.path} {self.text[:60]!r}"


@dataclass(frozen=True)
class Box:
    """A world that runs; its Ollama is at *ollama*, inside."""

    world: subprocess.Popen[str]
    ollama: str
    log: Path

    def inside(self, argv: Sequence[str], cwd: Path) -> list[str]:
        """The command line that runs *argv* in the box, in the folder *cwd*, on the same standard streams."""
        enter = ["nsenter", "-t", str(self.world.pid), "-U", "-n", "-m", "--preserve-credentials"]
        return [*enter, "env", f"--chdir={cwd}", *argv]

    def mark(self) -> int:
        """A point in what the witness saw: all that was sent before lies before it."""
        assert self.world.stdin is not None
        assert self.world.stdout is not None
        self.world.stdin.write("\n")
        self.world.stdin.flush()
        assert self.world.stdout.readline(), "the world has ended"
        return self.log.stat().st_size

    def seen(self, since: int, until: int | None = None) -> list[Seen]:
        """What the witness saw between two marks, or until now."""
        with self.log.open("rb") as file:
            file.seek(since)
            lines = file.read(-1 if until is None else until - since).split(b"\n")[:-1]
        known = Seen.__dataclass_fields__
        return [
            Seen(**{name: value for name, value in json.loads(line).items() if name in known})
            for line in lines
        ]


def why_not() -> str:
    """Why there can be no box on this machine, and what helps; "" when there can."""
    missing = [name for name in ("unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} (util-linux)"
    tried = subprocess.run(
        ["unshare", "-rnm", "mount", "--bind", "/etc/passwd", "/etc/passwd"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return ""
    return f"this system allows no user namespaces ({tried.stderr.strip()}); {ALLOW}"


@contextmanager
def box(folder: Path, ports: Sequence[int] = PORTS) -> Iterator[Box]:
    """A box for the length of a ``with``; its log is in *folder*."""
    command = [sys.executable, str(Path(__file__).with_name("world.py")), str(folder)]
    with subprocess.Popen(
        ["unshare", "-rnm", *command, *map(str, ports)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as world:
        assert world.stdin is not None
        assert world.stdout is not None
        ready = world.stdout.readline().strip()
        assert ready, f"the world ended with status {world.wait(_END_SECONDS)}"
        try:
            yield Box(world, ready, folder / "witness.jsonl")
        finally:
            world.stdin.close()
            world.wait(_END_SECONDS)
