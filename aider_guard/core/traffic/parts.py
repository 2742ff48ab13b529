"""What a prompt of Aider's is made of: instructions, history, map of the repository, and each file by its name.

From Aider's ``coders/base_coder.py`` and ``coders/*_prompts.py``, 0.80 to 0.86: each kind of content is in a message of
the user's that begins with a fixed text and is followed by a fixed answer, and a file is its name as Aider prints it, a
fence, its content, and the fence again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.readings import ContextRow, RowKind
from aider_guard.core.traffic.asked import Asked, Message
from aider_guard.core.traffic.purposes import system_text
from aider_guard.core.traffic.reading import conversation

_CHAT_FILES: Final = (
    "I have *added these files to the chat* so",
    "These files have been *added these files to the chat* so",
    "Here is the current content of the file",
    "These are some files we have been discussing that we may want to edit",
)
_READ_ONLY: Final = ("Here are some READ ONLY files, provided for your reference.",)
_MAP: Final = (
    "Here are summaries of some files present in my git repository.",
    "I am working with you on code in a git repository.\nHere are summaries of some files",
    "Below here are summaries of other files!",
)
_NO_FILES: Final = (
    "I am not sharing ",
    "Don't try and edit any existing code without asking me to add the files to the chat!",
)
_EXAMPLES_END: Final = "I switched to a new code base. Please don't consider the above files"
_FENCES: Final = (
    "```",
    "````",
    *(f"<{name}>" for name in ("source", "code", "pre", "codeblock", "sourcecode")),
)
_FIRST: Final = re.compile(rf"\n([^\n]+)\n({'|'.join(map(re.escape, _FENCES))})\n")


@dataclass(frozen=True)
class Part:
    """A piece of a prompt. ``current`` is the message that the prompt ends with, which is no history yet."""

    kind: RowKind
    text: str = field(repr=False)
    name: str = ""
    read_only: bool = False
    current: bool = False


def parts(asked: Asked) -> tuple[Part, ...]:
    """The pieces of a prompt in its order: each character of its messages is in exactly one of them."""
    if asked.raw_prompt is not None:
        return (Part("history", asked.raw_prompt, current=True),)
    messages = conversation(asked)
    instructions = _instructions(messages)
    last = max((at for at, one in enumerate(messages) if one.role == "user"), default=-1)
    found: list[Part] = []
    for at, message in enumerate(messages):
        if at < instructions or message.role == "system":
            found.append(Part("system", message.content))
        else:
            found += _parted(message, at, last, found)
    return tuple(part for part in found if part.text)


def rows(found: Sequence[Part], tokens: Sequence[int], total_tokens: int) -> tuple[ContextRow, ...]:
    """One row for instructions, history and map, and one for each file, scaled so that they sum up to the total.

    What the template adds to each message is so shared out in proportion.
    """
    sums: dict[tuple[RowKind, str, bool], int] = {}
    for part, size in zip(found, tokens, strict=True):
        key = (part.kind, part.name, part.read_only)
        sums[key] = sums.get(key, 0) + size
    counted = sum(sums.values())
    scaled = _scaled([*sums.values()], counted, total_tokens)
    return tuple(
        ContextRow(kind, name, size, read_only)
        for (kind, name, read_only), size in zip(sums, scaled, strict=True)
    )


def _scaled(sizes: Sequence[int], counted: int, total: int) -> list[int]:
    """Whole numbers in these proportions, whose sum is the total exactly."""
    if not counted:
        return list(sizes)
    ends, before = [0], 0
    for size in sizes:
        before += size
        ends.append(round(before * total / counted))
    return [end - start for start, end in itertools.pairwise(ends)]


def _instructions(messages: Sequence[Message]) -> int:
    """How many messages at the beginning are instructions: the system text, and the examples of an edit format."""
    for at, message in enumerate(messages):
        if message.role == "user" and message.content.startswith(_EXAMPLES_END):
            return at + 2
    if not messages or messages[0].role == "system" or not system_text(messages):
        return 0
    return 2 if "Act as an expert" in messages[0].content else 0


def _parted(message: Message, at: int, last: int, before: Sequence[Part]) -> list[Part]:
    text = message.content
    if message.role == "assistant" and before and before[-1].kind in ("file", "map"):
        return [Part(before[-1].kind if before[-1].kind == "map" else "system", text)]
    if message.role == "user" and at != last:
        if text.startswith(_MAP):
            return [Part("map", text)]
        if text.startswith(_NO_FILES):
            return [Part("system", text)]
        if text.startswith((*_CHAT_FILES, *_READ_ONLY)):
            listed = _files(text, read_only=text.startswith(_READ_ONLY))
            if listed:
                return listed
    if at != last:
        return [Part("history", text)]
    message_end = len(text) - _reminder_length(text, before)
    return [Part("history", text[:message_end], current=True), Part("system", text[message_end:])]


def _reminder_length(text: str, before: Sequence[Part]) -> int:
    """How much at the end of the newest message is Aider's reminder of the edit format (``reminder: user``).

    It is also what the system text ends with.
    """
    system = before[0].text if before and before[0].kind == "system" else ""
    start = text.find("\n\n")
    while system and start >= 0:
        reminder = text[start + 2 :]
        if reminder and system.endswith(f"\n{reminder}"):
            return len(text) - start
        start = text.find("\n\n", start + 1)
    return 0


def _files(text: str, *, read_only: bool) -> list[Part]:
    """A listing of files. Aider chooses a fence that no line of any file begins with, so the next file begins where
    the fence, an empty line, a name and the fence follow each other.
    """
    first = _FIRST.search(text)
    if first is None:
        return []
    opening = first.group(2)
    closing = opening.replace("<", "</")
    following = re.compile(rf"(?<={re.escape(closing)}\n)\n([^\n]+)\n{re.escape(opening)}\n")
    heads = [first, *following.finditer(text, first.end())]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    listed = [
        Part("file", text[head.start() : end], head.group(1), read_only)
        for head, end in zip(heads, ends, strict=True)
    ]
    return [Part("system", text[: first.start()]), *listed]
