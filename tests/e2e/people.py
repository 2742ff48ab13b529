"""A person who runs aider-guard in a real terminal, and looks at the screen as a terminal emulator shows it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyte
from airgap.layers import guard_program
from session.ptys import PATIENT, Person

from aider_guard.core.egress import Layer
from aider_guard.session.console import DEAF_SECONDS

PATIENCE_SECONDS = 180.0
"""The longest wait for anything that the small model or a busy machine may delay."""


class Onlooker(Person):
    """A person with a screen: answers cursor queries as a terminal does, and waits for what is shown."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        rows: int = 30,
        columns: int = 100,
        env: Mapping[str, str],
        cwd: Path,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._seen = 0
        super().__init__(argv, size=(rows, columns, 0, 0), env={**PATIENT, **env}, cwd=str(cwd))

    def pump(self, data: memoryview | bytes = b"", *, look: bool = True, seconds: float = 1) -> int:
        """As a Person does; what came is drawn, query by query, and each query is answered."""
        written = super().pump(data, look=look, seconds=seconds)
        self._draw()
        return written

    def _draw(self) -> None:
        query = b"\x1b[6n"
        while self._seen < len(self.shown):
            at = self.shown.find(query, self._seen)
            if at < 0:
                # A query may be cut in two: its beginning is drawn with its end.
                end = len(self.shown) - next(
                    (n for n in (3, 2, 1) if self.shown.endswith(query[:n])), 0
                )
                self._stream.feed(bytes(self.shown[self._seen : end]))
                self._seen = end
                return
            self._stream.feed(bytes(self.shown[self._seen : at]))
            self._seen = at + len(query)
            cursor = self.screen.cursor
            super().pump(f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode(), look=False)

    def lines(self) -> list[str]:
        """The screen's rows without trailing blanks."""
        return [row.rstrip() for row in self.screen.display]

    def text(self) -> str:
        """The screen as text."""
        return "\n".join(self.lines())

    def wrote(self, words: str, since: int = 0) -> bool:
        """Whether the program wrote these words, behind the first *since* bytes of its output.

        For the words of an answer, in place of a look at the screen: two threads of Aider draw its live view, and on a
        busy machine one now and then erases the last line of a short answer (twice in 1,000, without the guard).
        """
        return words.encode() in self.shown[since:]

    def picture(self) -> tuple[tuple[str, ...], int, int]:
        """Every cell of the screen, and where the cursor is."""
        return tuple(self.screen.display), self.screen.cursor.y, self.screen.cursor.x

    def wait_for(self, pattern: str | Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> str:
        """Look until the screen shows *pattern* (a regular expression) or it holds; the screen's text."""
        deadline = time.monotonic() + seconds
        while not self._holds(pattern):
            assert time.monotonic() < deadline, (
                f"waited in vain for {pattern!r}; the screen:\n{self.text()}"
            )
            over = self.process.poll() is not None
            self.pump(seconds=0.05)
            assert not over or self._holds(pattern), (
                f"it ended before {pattern!r}; the screen:\n{self.text()}"
            )
        self._look_at_all()
        return self.text()

    def _look_at_all(self) -> None:
        """Read what is there: Aider's output is on the screen before an event of it is in the journal.

        Except for a prompt that a notice waited for, which is drawn with the notice.
        """
        read = -1
        while read < len(self.shown):
            read = len(self.shown)
            self.pump(seconds=0)

    def _holds(self, pattern: str | Callable[[], bool]) -> bool:
        if callable(pattern):
            return pattern()
        return re.search(pattern, self.text(), re.MULTILINE) is not None

    def resize_to(self, rows: int, columns: int) -> None:
        """Make the terminal another size."""
        self.screen.resize(rows, columns)
        self.resize((rows, columns, 0, 0))

    def end(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the program's end; its status."""
        self.wait_for(lambda: self.process.poll() is not None, seconds)
        return self.finish()


class Guarded(Onlooker):
    """A person who runs aider-guard; the journal shows what the screen does not."""

    _journal_read_bytes = 0

    @cached_property  # not made by __init__, in whose place some persons start their program in a way of their own
    def _journal(self) -> list[dict[str, Any]]:
        return []

    def __init__(
        self,
        aider: str,
        arguments: Sequence[str],
        *,
        options: Sequence[str] = (),
        layers: Sequence[Layer] | None = None,
        env: Mapping[str, str],
        cwd: Path,
        rows: int = 30,
        columns: int = 100,
    ) -> None:
        self.state = Path(env["AIDER_GUARD_STATE_DIR"])
        argv = [*guard_program(layers), "--aider", aider, *options, "--", *arguments]
        super().__init__(argv, rows=rows, columns=columns, env=env, cwd=cwd)

    def folder(self) -> Path:
        """This session's folder: others may be held at the same time, or before."""
        return next((self.state / "sessions").glob(f"*-{self.process.pid}"))

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        """The journal's lines so far, of one event or of all."""
        path = self.folder() / "journal.jsonl"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._journal_read_bytes)
                written = file.read()
            whole = written[: written.rfind(b"\n") + 1]  # the last line may be being written
            self._journal_read_bytes += len(whole)
            self._journal += map(json.loads, whole.splitlines())
        return [line for line in self._journal if event in ("", line["event"])]

    def wait_for_event(
        self, event: str, count: int = 1, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Look until the journal holds *event* for the *count*-th time; that line."""
        self.wait_for(lambda: self._has_journal() and len(self.journal(event)) >= count, seconds)
        return self.journal(event)[count - 1]

    def _has_journal(self) -> bool:
        return any((self.state / "sessions").glob(f"*-{self.process.pid}"))

    def wait_for_prompt(self, count: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
        """Look until the main prompt was shown for the *count*-th time in this session."""
        self.wait_for_event("prompt_shown", count, seconds)

    def say(self, line: str) -> None:
        """Type a line at the prompt and press Enter, then look until Aider took it."""
        closed = len(self.journal("prompt_closed"))
        self.type(line.encode() + b"\r")
        self.wait_for_event("prompt_closed", closed + 1)

    def ask(self, line: str) -> None:
        """Say something, and look until the next main prompt."""
        prompts = len(self.journal("prompt_shown"))
        self.say(line)
        self.wait_for_prompt(prompts + 1)

    def ask_and_probe(self, line: str) -> dict[str, Any]:
        """Say something that changes the chat's files; the reading that the hidden /tokens then gives."""
        probes = len(self.journal("context_read"))
        self.ask(line)
        return self.wait_for_reading(after=probes)

    def wait_for_reading(self, *, after: int = 0) -> dict[str, Any]:
        """Look until a hidden /tokens was read, later than so many attempts; one that takes too long is made again."""

        def readings() -> list[dict[str, Any]]:
            found = [line["reading"] for line in self.journal("context_read")[after:]]
            return [reading for reading in found if "total_tokens" in reading]

        self.wait_for(lambda: bool(readings()))
        return readings()[0]

    def wait_out_the_deaf_moment(self) -> None:
        """Keys in the first moment of an offer were typed for the Aider that died, and are not taken."""
        since = time.monotonic()
        self.wait_for(lambda: time.monotonic() - since > 2 * DEAF_SECONDS)

    def aider_pid(self) -> int:
        """The Aider that was started last."""
        self.wait_for_event("aider_started")
        return int(self.journal("aider_started")[-1]["pid"])

    def sidecar_pid(self) -> int:
        """The sidecar that was started last."""
        self.wait_for_event("sidecar_started")
        return int(self.journal("sidecar_started")[-1]["pid"])
