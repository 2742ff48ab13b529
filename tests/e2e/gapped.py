"""Programs in a box: left alone, or in an air gap of the product's; what each did is what the box's witness saw."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.box import TESTS, Box, Seen, box, why_not
from e2e.egress import NOT_HERE, Way

from aider_guard.core.egress import Attempt

LAYERS = ("netns", "seccomp")
USERS = {"root": 0, "user": os.getuid() or 65534}
"""The box's root, and a user without rights in it: the one who runs the tests, or the overflow user."""
_CAP_SECONDS = 180.0
_DRIVER = Path(__file__).with_name("inside_gap.py")


@dataclass(frozen=True)
class Ran:
    """What a program in a gap led to."""

    seen: tuple[Seen, ...]
    attempts: tuple[Attempt, ...]
    status: int
    said: str


@dataclass
class Lab:
    """A box, and the interpreter whose libraries the programs use."""

    box: Box
    python: str
    home: Path
    _alone: dict[str, tuple[Seen, ...]] = field(default_factory=dict)

    def alone(self, way: Way) -> tuple[Seen, ...]:
        """What the witness sees of a program without an air gap; each is run once.

        Skips the test where this system lacks what the program is about.
        """
        if way.id not in self._alone:
            since = self.box.mark()
            ended = self._run(way.with_python(self.python))
            if way.may_lack and ended.returncode == NOT_HERE:
                pytest.skip(f"this system has no {way.id}")
            self._alone[way.id] = tuple(self.box.seen(since, self.box.mark()))
        return self._alone[way.id]

    def gapped(self, way: Way, layer: str, user: str, **environment: str) -> Ran:
        """Run it in an air gap of this layer, made by this user."""
        since = self.box.mark()
        ended = self._run(self.driver(layer, user, way.with_python(self.python)), environment)
        seen = tuple(self.box.seen(since, self.box.mark()))
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        assert lines, f"the guard ended with status {ended.returncode}: {ended.stderr}"
        *attempts, last = lines
        assert "said" in last, ended.stderr
        return Ran(seen, tuple(Attempt(**one) for one in attempts), last["status"], last["said"])

    def driver(self, layer: str, user: str, command: Sequence[str]) -> list[str]:
        """The command line that runs *command* in a gap."""
        return [sys.executable, str(_DRIVER), layer, str(USERS[user]), *command]

    def environment(self) -> dict[str, str]:
        """The whole environment of a program."""
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": paths,
            "GIT_TERMINAL_PROMPT": "0",
        }

    def _run(
        self, command: Sequence[str], environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.box.inside(command, self.home),
            env=self.environment() | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CAP_SECONDS,
        )


@contextmanager
def lab(folder: Path, python: str) -> Iterator[Lab]:
    """A lab for the length of a ``with``; skips the test where there can be no box."""
    if reason := why_not():
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="home-"))  # pytest's own folders are closed to other users
    home.chmod(0o777)
    try:
        with box(folder) as world:
            yield Lab(world, python, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
