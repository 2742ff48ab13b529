"""Makes text from outside safe to print: the one place where the characters that a terminal acts on are replaced.

Names of models, files and programs, what servers answer and what other sessions' files and sockets hold may have escape
sequences, line ends, marks that turn the direction of writing, and bytes that are no text.
"""

from __future__ import annotations

from typing import Final

REPLACEMENT: Final = "\ufffd"


def printable(text: str, *, replacement: str = REPLACEMENT, kept: str = "") -> str:
    """The text with a replacement for every character that is not printable, but for those in ``kept``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else replacement for char in text)
