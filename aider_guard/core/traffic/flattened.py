"""Conversations that were made one text, and their messages again.

litellm sends ``ollama/`` models one prompt for ``/api/generate`` (``ollama_pt``: a heading for each role, consecutive
messages of the user merged), and Aider puts a conversation to summarise into one message (``history.py``). The blocks
are a partition of the text: nothing of it is in two of them, and nothing in none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_PROMPT: Final = re.compile(r"(?:\A|(?<=\n\n))### (User|System|Assistant):\n")
_SUMMARY: Final = re.compile(r"^# (USER|ASSISTANT)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One message in a text: ``whole`` is with its heading, ``content`` what was said."""

    role: str
    whole: str = field(repr=False)
    content: str = field(repr=False)


def prompt_blocks(text: str) -> tuple[Block, ...]:
    """The messages of a prompt that litellm flattened; one message of the user when it is none."""
    return _blocks(text, _PROMPT) or (Block("user", text, text),)


def summary_blocks(text: str) -> tuple[Block, ...]:
    """The messages of a conversation that Aider wants summarised; none when it is no such text."""
    return _blocks(text, _SUMMARY)


def _blocks(text: str, heading: re.Pattern[str]) -> tuple[Block, ...]:
    found = list(heading.finditer(text))
    if not found or found[0].start():
        return ()
    ends = [match.start() for match in found[1:]] + [len(text)]
    return tuple(
        Block(
            match.group(1).lower(),
            text[match.start() : end],
            text[match.end() : end].removesuffix("\n\n"),
        )
        for match, end in zip(found, ends, strict=True)
    )
