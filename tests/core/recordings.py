"""Sessions of Aider 0.86.2 in a pty, recorded byte for byte, and Aider's prompts put together from their parts."""

from __future__ import annotations

from pathlib import Path

SCREENS = Path(__file__).parents[1] / "captures" / "screen"
NAMES = sorted(path.stem for path in SCREENS.glob("*.bytes"))

OPENED, CLOSED, SHOWN = b"\x1b[?2004h", b"\x1b[?2004l", b"\x1b[?25h"
QUERY = b"\x1b[6n"
GREEN, PLAIN = b"\x1b[38;5;40m", b"\x1b[0m"
ACCEPTED = b"\x1b[?7h\x1b[0m\x1b[?12l" + SHOWN + CLOSED + b"\r\n"
"""What prompt_toolkit leaves after a line was entered."""
ERASED = b"\r\x1b[J\x1b[0m\x1b[?7h" + CLOSED
"""What it leaves before it draws the same prompt again, as after a resize."""


def recorded(name: str) -> bytes:
    """One session."""
    return (SCREENS / f"{name}.bytes").read_bytes()


def size(name: str) -> tuple[int, int]:
    """The rows and columns a session was recorded with."""
    return {"tiny": (5, 20), "tiny_files": (5, 20), "narrow": (12, 20)}.get(name, (24, 80))


def rule(columns: int = 80) -> bytes:
    """The line above a main prompt."""
    return GREEN + "─".encode() * columns + PLAIN + b"\r\n"


def drawn(text: str, *, rows_below: int = 3) -> bytes:
    """The bytes with which prompt_toolkit draws a prompt, from its opening to the cursor that is shown."""
    lines = text.encode().replace(b"\n", PLAIN + b"\r\r\n")
    last = len(text.rpartition("\n")[2].encode())
    room = b"\r\r\n" * rows_below + b"\x1b[%dA" % rows_below if rows_below else b""
    return (
        OPENED
        + b"\x1b[?25l\x1b[0m\x1b[?7l\x1b[0m\x1b[J"
        + GREEN
        + lines
        + b"\x1b[0m"
        + room
        + b"\r\x1b[%dC" % last
        + b"\x1b[?7h\x1b[0m\x1b[?12l"
        + SHOWN
    )


def main_prompt(text: str = "> ", *, columns: int = 80) -> bytes:
    """A main prompt as Aider shows it, with its rule and the query for the cursor."""
    return rule(columns) + QUERY + drawn(text)


def confirm(question: str = "Create new file?") -> bytes:
    """A question of Aider's."""
    return drawn(f"{question} (Y)es/(N)o [Yes]: ", rows_below=0)
