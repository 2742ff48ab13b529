"""Rings when a turn took long: the terminal's bell with its notification, or a command of the user's.

The command runs outside the air gap. A program inside may change its files to have others run there, so the guard looks
at them before Aider begins, and again before each run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aider_guard.airgap.own_files import files_of_command
from aider_guard.core.actions import RingBell
from aider_guard.core.readings import Unavailable

BELL = b"\a"
_OSC_9 = ("iTerm.app", "WezTerm", "ghostty", "xterm-kitty", "xterm-ghostty", "wezterm")
"""Names of terminals that show the text of OSC 9 (each one's own documentation)."""
_OSC_777 = ("foot", "rxvt-unicode")
"""Beginnings of the types of terminals that show OSC 777 (foot-ctlseqs(7), urxvt-extensions(1))."""


def terminal_bytes(ring: RingBell, environment: Mapping[str, str]) -> bytes:
    """Return what makes the terminal ring: its bell, and a notification where it is known to show one.

    tmux and screen pass on the bell only.
    """
    what = "Aider asks" if ring.reason == "question" else "Aider is done"
    text = f"{what} after {ring.seconds:.0f} s".encode("ascii")
    if environment.get("TMUX") or environment.get("STY"):
        return BELL
    kind = environment.get("TERM", "")
    if environment.get("TERM_PROGRAM") in _OSC_9 or kind in _OSC_9:
        return BELL + b"\x1b]9;" + text + b"\x1b\\"
    if kind.startswith(_OSC_777):
        return BELL + b"\x1b]777;notify;aider-guard;" + text + b"\x1b\\"
    return BELL


@dataclass(frozen=True)
class NotifyCommand:
    """A command and the state of its files, as they were when it was looked at. No ``words``: the terminal rings."""

    words: tuple[str, ...] = ()
    files: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, words: Sequence[str], environment: Mapping[str, str]
    ) -> NotifyCommand | Unavailable:
        """Look for the program, which may be a name on PATH. Unavailable where it is not found."""
        if not words:
            return cls()
        program = shutil.which(words[0], path=environment.get("PATH"))
        if program is None:
            return Unavailable(f"{words[0]} is not a program that can be run")
        files = files_of_command(words, environment)
        found = (os.path.abspath(program), *words[1:])
        return cls(found, {path: _state_of(path) for path in files})

    @property
    def is_unchanged(self) -> bool:
        """Whether its files are as they were."""
        return all(_state_of(path) == state for path, state in self.files.items())


def _state_of(path: str) -> tuple[int, ...]:
    """Return what changes with any change to a file: its time of change cannot be set (inode(7)). () for no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mode, found.st_ctime_ns)


@dataclass(kw_only=True)
class Bell:
    """Rings, one command at a time; what fails is said once. ``write`` is for the terminal, ``warn`` for the user."""

    command: NotifyCommand | Unavailable
    environment: Mapping[str, str] = field(repr=False)
    folder: str
    write: Callable[[bytes], None]
    warn: Callable[[str], None]
    _running: subprocess.Popen[bytes] | None = None
    _failed: bool = False

    def ring(self, ring: RingBell) -> None:
        """Ring now. Nothing here waits."""
        self.reap()
        if isinstance(self.command, Unavailable):
            self._fail(f"{self.command.reason}: the terminal's bell rings instead")
        if isinstance(self.command, Unavailable) or not self.command.words:
            self.write(terminal_bytes(ring, self.environment))
        elif not self.command.is_unchanged:
            self._fail("a file of it was changed in this session, so it is not run any more")
        elif self._running is None:
            self._start(self.command.words, ring)

    def _start(self, words: Sequence[str], ring: RingBell) -> None:
        fill = ring.fill_percent
        facts = {
            "AIDER_GUARD_EVENT": ring.reason,
            "AIDER_GUARD_SECONDS": f"{ring.seconds:.0f}",
            "AIDER_GUARD_MODEL": ring.model,
            "AIDER_GUARD_FOLDER": self.folder,
            "AIDER_GUARD_FILL_PERCENT": "" if isinstance(fill, Unavailable) else f"{fill:.0f}",
        }
        try:
            self._running = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Not in the working folder, where Python and others look for code first.
                cwd="/",
                env={**self.environment, **facts},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._fail(getattr(error, "strerror", None) or str(error))

    def reap(self) -> None:
        """Look whether the command has ended; called when a child of the guard has."""
        if self._running is None or (status := self._running.poll()) is None:
            return
        self._running = None
        if status:
            self._fail(f"it ended with status {status}")

    def _fail(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self.warn(f"notify-command: {why}")
