"""Recognises the main prompt of an Aider that reads lines by itself, without prompt_toolkit.

With ``--no-fancy-input``, and on a dumb terminal, Aider prints a rule (an empty line without colours), the files of the
chat, and ``> ``, and the terminal edits the line (``input()`` in aider/io.py 0.86.2). Nothing else marks a prompt, so
text alone cannot tell it from an answer that came so far. The session therefore asks for it only when Aider is silent
and waits for no answer, and types nothing there.
"""

from __future__ import annotations

from aider_guard.core.events import PromptClosed, PromptShown
from aider_guard.core.screen import KEPT_BYTES, Line, ShownPrompt, main_prompt

_RULE = "─".encode()


class PlainRecogniser:
    """Keeps the end of Aider's output, and tells what prompt stands there. The session says when one is open."""

    def __init__(self) -> None:
        self._output = b""
        self.prompt_open = False

    def feed(self, data: bytes) -> tuple[PromptClosed, ...]:
        """Take the next bytes. The echo of the line's end closes an open prompt."""
        closes = self.prompt_open and b"\n" in data
        if closes:
            self.prompt_open = False
            self._output, data = b"", data.partition(b"\n")[2]
        self._output += data
        if len(self._output) > KEPT_BYTES:
            # What is kept begins with a whole line.
            self._output = self._output[-KEPT_BYTES:].partition(b"\n")[2]
        return (PromptClosed(),) if closes else ()

    def prompt(self) -> PromptShown | None:
        """Return the main prompt with nothing on its line that the output ends with; None when it ends otherwise."""
        if not self._output.endswith(b"> "):
            return None
        lines = self._output.split(b"\r\n")
        below = next((n for n in range(len(lines) - 1, 0, -1) if _is_rule(lines[n - 1])), None)
        if below is None:
            return None
        found = main_prompt(tuple(line.decode("utf-8", "replace") for line in lines[below:]))
        # Where a row above the last one is a prompt, this is the next line of a { block.
        return found if found is not None and found.empty else None

    def shown_prompt(self) -> ShownPrompt | None:
        """Return the open prompt's line with what was typed there, without a rule; None when none is open."""
        if not self.prompt_open:
            return None
        return ShownPrompt(b"", self._output.rpartition(b"\n")[2], 0)

    @property
    def main_prompt_open(self) -> bool:
        """Whether the main prompt is open: the only one that is recognised."""
        return self.prompt_open

    def cursor_row(self) -> int:
        """Return 0: the cursor is on the prompt's line."""
        return 0

    def line(self) -> Line | None:
        """Return None: what was typed before Aider asked is not drawn again, so the line is not known."""
        return None


def _is_rule(line: bytes) -> bool:
    return not line.replace(_RULE, b"")
