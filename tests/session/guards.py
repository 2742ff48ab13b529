"""The real command line, ``python -m aider_guard``, around a small program that stands in for Aider.

A ``Place`` is all that a session may touch: a home, a state folder, a working folder and an Aider that is a script with
``#!`` and the interpreter, which becomes the program that is named.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from airgap.layers import guard_program
from session.ptys import PATIENT, PYTHON, Person

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aider_guard.core.egress import Layer

CHECKOUT = Path(__file__).resolve().parents[2]
AIDER_LIKE = CHECKOUT / "tests" / "fakes" / "aider_like"
NOWHERE = "http://127.0.0.1:9"
"""Where no Ollama listens: port 9 is the discard protocol's."""

Form = Literal["settings", "problem"]


NOTICE = b"aider-guard: "
NOTHING_LEFT = re.compile(NOTICE + rb"nothing\s+tried\s+to\s+leave\s+\Z")


class GuardedPerson(Person):
    """Reads what the guard says last of the air gap apart: ``shown`` is all the rest."""

    last_line = b""

    def finish(self) -> int:
        """See ``Person``."""
        status = super().finish()
        if last := NOTHING_LEFT.search(self.shown):
            self.last_line = last.group()
            del self.shown[last.start() :]
        return status


@dataclass(frozen=True)
class Place:
    """A folder of its own for one guard. ``form``: whether the Aider there says what it will use."""

    folder: Path
    form: Form = "settings"
    ollama: str = NOWHERE

    @classmethod
    def make(cls, folder: Path, form: Form = "settings", ollama: str = NOWHERE) -> Place:
        """Make the folders and the script."""
        place = cls(folder, form, ollama)
        for path in (place.home, place.work):
            path.mkdir(parents=True)
        place.aider.write_text(f"#!{sys.executable} -S\nfrom aider.main import main\nmain([])\n")
        place.aider.chmod(0o755)
        return place

    @property
    def home(self) -> Path:
        """The user's home."""
        return self.folder / "home"

    @property
    def state(self) -> Path:
        """The guard's own folder; it makes it."""
        return self.folder / "state"

    @property
    def work(self) -> Path:
        """Where the session is started."""
        return self.folder / "work"

    @property
    def aider(self) -> Path:
        """The script."""
        return self.folder / "aider"

    @property
    def sessions(self) -> list[Path]:
        """The folders of the sessions so far, oldest first."""
        return sorted((self.state / "sessions").glob("*"))

    def journal(self) -> bytes:
        """The newest session's journal so far."""
        return b"".join(path.read_bytes() for path in self.sessions[-1].glob("journal.jsonl"))

    def plain(self) -> list[str]:
        """The command line without the guard."""
        return [sys.executable, "-S", str(self.aider)]

    def guarded(
        self,
        *arguments: str,
        options: Sequence[str] = (),
        layers: Sequence[Layer] | None = None,
    ) -> list[str]:
        """The guard's command line; *arguments* are Aider's. With *layers*, the system allows at most these."""
        guard = [*guard_program(layers), "--aider", str(self.aider)]
        return [*guard, *options, "--", *arguments]

    def env(self, program: Sequence[object], **more: str) -> dict[str, str]:
        """The whole environment in which the Aider of this place becomes *program*."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "NO_COLOR": "1",
            "OLLAMA_API_BASE": self.ollama,
            "AIDER_GUARD_STATE_DIR": str(self.state),
            "PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, AIDER_LIKE))),
            "AIDER_LIKE_FORM": self.form,
            **PATIENT,
            "AIDER_LIKE_CHILD": json.dumps([str(word) for word in program]),
            **more,
        }

    def person(
        self,
        program: Sequence[object],
        command: Sequence[str] = (),
        *,
        size: tuple[int, int, int, int] = (24, 80, 0, 0),
        type_ahead: bytes = b"",
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> GuardedPerson:
        """A person at a terminal who starts the guard, or *command*, whose Aider becomes *program*."""
        return GuardedPerson(
            command or self.guarded(),
            size=size,
            cwd=str(self.work),
            type_ahead=type_ahead,
            env=self.env(program, **(env or {})),
            prepare=prepare,
        )


_PROMPTS = r"""
import os, sys, termios, time
modes = termios.tcgetattr(0)
modes[3] &= ~(termios.ICANON | termios.ECHO)
termios.tcsetattr(0, termios.TCSANOW, modes)
for number in range(int(sys.argv[1])):
    os.write(1, b"prompt %d\n\n\x1b[?2004h> \x1b[?25h\x1b[?12l\x1b[?25h\x1b[?2004l" % number)
sys.exit(0)
"""


def prompts(count: int) -> list[str]:
    """A program that shows so many main prompts, one after the other, and ends as after ``/exit``."""
    return [*PYTHON, "-c", _PROMPTS, str(count)]


def _crashing(method: str, owner: str) -> str:
    """The guard with a fault of its own: a method that does its work and then fails."""
    module, _, name = owner.rpartition(".")
    return f"""
from {module} import {name}

def failing(*args, before={name}.{method}):
    before(*args)
    raise RuntimeError("a fault for the test")

{name}.{method} = failing
from aider_guard.__main__ import main
main()
"""


CRASHING = {
    "when the program writes": _crashing("child_wrote", "aider_guard.session.console.Console"),
    "when it begins": _crashing("begin", "aider_guard.session.session.Session"),
    "when it ends": _crashing("leave", "aider_guard.session.console.Console"),
}
"""Programs that run the guard's command line with such a fault."""
