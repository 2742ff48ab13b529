"""Splits a prompt of Aider's into instructions, history, repository map and files, and bounds or guesses its size.

From Aider's ``coders/base_coder.py`` and ``coders/*_prompts.py``, 0.80 to 0.86: each kind of content is in a message of
the user's that begins with a fixed text and is followed by a fixed answer, and a file is its name as Aider prints it, a
fence, its content, and the fence again.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aider_guard.core.chat.request import ChatRequest, Message, conversation, system_text
from aider_guard.core.chat.types import Count
from aider_guard.core.readings import ContextRow, RowKind

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
    """A piece of a prompt. ``current`` marks the newest message, which is no history yet."""

    kind: RowKind
    text: str = field(repr=False)
    name: str = ""
    read_only: bool = False
    current: bool = False


def parts(request: ChatRequest) -> tuple[Part, ...]:
    """Return the pieces of a prompt in order: each character of its messages is in exactly one of them."""
    if request.raw_prompt is not None:
        return (Part("history", request.raw_prompt, current=True),)
    messages = conversation(request)
    instructions = _instructions(messages)
    last = max((at for at, item in enumerate(messages) if item.role == "user"), default=None)
    pieces: list[Part] = []
    for at, message in enumerate(messages):
        if at < instructions or message.role == "system":
            pieces.append(Part("system", message.content))
        else:
            pieces += _parts_of(message, at, last, pieces)
    return tuple(part for part in pieces if part.text)


def rows(
    pieces: Sequence[Part], tokens: Sequence[int], total_tokens: int
) -> tuple[ContextRow, ...]:
    """Return one row each for instructions, history, map and every file, scaled so that they sum up to the total.

    The tokens that the template adds to the messages are thereby shared out in proportion.
    """
    sums: Counter[tuple[RowKind, str, bool]] = Counter()
    for part, size in zip(pieces, tokens, strict=True):
        sums[part.kind, part.name, part.read_only] += size
    counted = sum(sums.values())
    # Each end is rounded, not each row: the sum is exactly the total.
    ends = [
        round(end * total_tokens / counted) if counted else end
        for end in itertools.accumulate(sums.values(), initial=0)
    ]
    return tuple(
        ContextRow(kind, name, end - start, read_only)
        for (kind, name, read_only), (start, end) in zip(
            sums, itertools.pairwise(ends), strict=True
        )
    )


def _instructions(messages: Sequence[Message]) -> int:
    """Return how many messages at the beginning are instructions: system text and examples of an edit format."""
    for at, message in enumerate(messages):
        if message.role == "user" and message.content.startswith(_EXAMPLES_END):
            return at + 2
    is_the_users = any(message.role == "user" for message in messages[:1])
    return 2 if is_the_users and "Act as an expert" in system_text(messages) else 0


def _parts_of(message: Message, at: int, last: int | None, before: Sequence[Part]) -> list[Part]:
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
    """Return the length of Aider's reminder of the edit format at the end of the newest message (``reminder: user``).

    The system text ends with the same reminder.
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
    """Split a message that lists files.

    Aider chooses a fence that no line of any file begins with, so the next file begins where the fence, an empty line,
    a name and the fence follow each other.
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


# Sizes that need no counting: the reserve for the answer, and upper bounds.

_SHORTEST_TOKENS = 256
_LONGEST_TOKENS = 2048
_TEMPLATE_TOKENS = 64
_TEMPLATE_MESSAGE_TOKENS = 16


def reply_reserve(request: ChatRequest, window_tokens: int) -> int:
    """Return how many tokens of the window are kept for the answer: what the request allows, else an eighth.

    An eighth is at least 256 and at most 2048 tokens. A request may allow more than any answer has (litellm passes on
    the longest that a model can give): at most half of the window is kept. A commit message is one line.
    """
    eighth = usual_reserve(window_tokens)
    if request.purpose == "commit":
        eighth = _SHORTEST_TOKENS
    return min(request.num_predict or eighth, window_tokens // 2)


def usual_reserve(window_tokens: int) -> int:
    """Return how many tokens are kept for the answer to a request that names no length: an eighth, within limits."""
    return max(_SHORTEST_TOKENS, min(window_tokens // 8, _LONGEST_TOKENS))


def bound_tokens(request: ChatRequest) -> int | None:
    """Return an upper bound of the prompt's tokens, as no token is shorter than a byte; None when there is none.

    There is none for images, for tools, and for a chat without a system message: the model's own is added then.
    """
    if request.has_tools or not all(message.plain for message in request.messages):
        return None
    if request.raw_prompt is not None:
        return _bytes(request.raw_prompt) + _TEMPLATE_TOKENS
    if not any(message.role == "system" for message in request.messages):
        return None
    sizes = (_bytes(message.content) for message in request.messages)
    return sum(sizes) + template_tokens(len(request.messages))


def template_tokens(messages: int) -> int:
    """Return an upper bound of the tokens that a template adds to so many messages."""
    return _TEMPLATE_TOKENS + _TEMPLATE_MESSAGE_TOKENS * messages


def prompt_bytes(request: ChatRequest) -> int:
    """Return the number of bytes in the prompt's text, without any template."""
    texts = [message.content for message in request.messages] or [request.raw_prompt or ""]
    return sum(map(_bytes, texts))


# Sizes learned from prompts that were counted, for the next prompt. Of a text only its digest is kept.

FIRST_BYTES_A_TOKEN: Final = 3.5
"""Code has 3.0 to 4.2 bytes a token in the vocabularies of Qwen, Llama 3 and DeepSeek, digits fewer."""
FIRST_ERROR: Final = 60.0
LEARNED_ERROR: Final = 35.0
_BORDER_TOKENS: Final = 4
"""How many tokens more a text may have as a piece of a longer one."""
_MESSAGE_TOKENS: Final = 5
_TEXTS: Final = 2000
_PROMPTS: Final = 8


class Sizes:
    """The sizes of one session's texts and prompts."""

    def __init__(self) -> None:
        self._texts: OrderedDict[bytes, int] = OrderedDict()
        self._bytes_a_token: dict[str, deque[float]] = {}

    def note_counts(
        self, model: str, texts: Sequence[str], tokens: Sequence[int], error_percent: float
    ) -> None:
        """Note that these texts have so many tokens each, or up to *error_percent* more."""
        for text, count in zip(texts, tokens, strict=True):
            key = _key(model, text)
            self._texts[key] = math.ceil(count * (1 + error_percent / 100))
            self._texts.move_to_end(key)
        while len(self._texts) > _TEXTS:
            self._texts.popitem(last=False)

    def noted(self, model: str, text: str) -> int | None:
        """Return the size that was noted of a text, None for none."""
        return self._texts.get(_key(model, text))

    def fits(self, request: ChatRequest, room_tokens: int) -> bool:
        """Whether a prompt certainly has at most *room_tokens*, by its bytes or by the known sizes of its pieces."""
        bound = bound_tokens(request)
        if bound is None or bound <= room_tokens:
            return bound is not None
        if request.raw_prompt is not None:
            return False
        bound = template_tokens(len(conversation(request)))
        for part in parts(request):
            tokens = self._texts.get(_key(request.model, part.text))
            bound += _bytes(part.text) if tokens is None else tokens + _BORDER_TOKENS
        return bound <= room_tokens

    def note_size(self, request: ChatRequest, prompt_tokens: int) -> None:
        """Note that a server evaluated so many tokens of a prompt, and all of it."""
        size = prompt_bytes(request)
        if size and prompt_tokens > 0:
            learned = self._bytes_a_token.setdefault(request.model, deque(maxlen=_PROMPTS))
            learned.append(size / prompt_tokens)

    def guess(self, request: ChatRequest) -> Count:
        """Estimate the size of a prompt by its bytes and the highest ratio of tokens to bytes of the last prompts."""
        learned = self._bytes_a_token.get(request.model)
        bytes_a_token = min(learned) if learned else FIRST_BYTES_A_TOKEN
        messages = 0 if learned else _MESSAGE_TOKENS * len(conversation(request))
        tokens = math.ceil(prompt_bytes(request) / bytes_a_token) + messages
        error_percent = LEARNED_ERROR if learned else FIRST_ERROR
        return Count(tokens, exact=False, error_percent=error_percent, counted_by="bytes")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _key(model: str, text: str) -> bytes:
    digest = hashlib.blake2b(model.encode("utf-8", "replace"))
    digest.update(b"\n" + text.encode("utf-8", "replace"))
    return digest.digest()
