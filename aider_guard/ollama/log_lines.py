"""Parses lines of Ollama's log for events of prompts: counted, cut, shifted. Other lines are dropped and not kept.

The server writes slog's text (``time=… level=… source=… msg="…" k=v``) and gin's lines of requests; its runners
since 0.30 are llama.cpp's servers, whose lines (``slot …: id N | task N | …``) pass through it. A journal or a
container may put a prefix before a line, and a container's file is JSON, with the quotes escaped. With OLLAMA_DEBUG
prompts are in the log: a line is recognised only by its beginning, so that a log inside a prompt is not taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from aider_guard.core.truncation import LogEvidence, LoggedCut, LoggedPrompt

LINE_BYTES: Final = 1024
"""The part of a line that is parsed."""


@dataclass(frozen=True)
class MessagesDropped:
    """Ollama dropped messages that did not fit (server/prompt.go and routes.go; only with OLLAMA_DEBUG)."""


@dataclass(frozen=True)
class ContextShifted:
    """The runner discarded part of the context while it wrote an answer."""


@dataclass(frozen=True)
class DebugLine:
    """Any line of the level DEBUG: it shows that the server logs debug lines."""


@dataclass(frozen=True)
class RequestEnded:
    """gin's line at the end of a POST request: all other lines of the request are before it."""


LogLine = LoggedCut | LoggedPrompt | MessagesDropped | ContextShifted | DebugLine | RequestEnded

_PREFIX: Final = r"(?:(?!level=|slot |\[GIN\]).){0,160}?"
_SLOG: Final = re.compile(
    _PREFIX + r"time=\S+ level=(?P<level>[A-Z]+)(?:[+-]\d+)? (?:source=\S+ )?"
    r'msg=(?:\\?"(?P<words>[^"\\]*)\\?"|(?P<word>\S+))(?P<rest>.*)',
    re.DOTALL,
)
_SLOT: Final = re.compile(
    _PREFIX + r"slot +\S+ +id +\d+ \| task +-?\d+ \| *(?P<rest>.*)", re.DOTALL
)
_ENDED: Final = re.compile(_PREFIX + r"\[GIN\] .{1,120}\| +POST +", re.DOTALL)
_CUT: Final = re.compile(r" limit=\d+ prompt=(\d+) keep=-?\d+ new=(\d+)")
_CACHE: Final = re.compile(r" id=\d+ cache=\d+ prompt=(\d+) ")
_NEW_PROMPT: Final = re.compile(r"new prompt, n_ctx_slot = (\d+), .*?n_tokens = (\d+)")
_DROPPED: Final = frozenset(
    (
        "truncating input messages which exceed context length",
        "truncating native chat messages which exceed context length",
    )
)


def read_line(line: bytes) -> LogLine | None:
    """The event in one line of the log; None if there is none."""
    text = line[:LINE_BYTES].decode("utf-8", "replace")
    if "level=" in text and (slog := _SLOG.match(text)):
        return _read_slog(slog["level"], slog["words"] or slog["word"] or "", slog["rest"])
    if "slot " in text and (slot := _SLOT.match(text)):
        if prompt := _NEW_PROMPT.match(slot["rest"]):
            return LoggedPrompt(int(prompt[2]), int(prompt[1]))
        return ContextShifted() if slot["rest"].startswith("slot context shift, ") else None
    return RequestEnded() if "[GIN]" in text and _ENDED.match(text) else None


def _read_slog(level: str, words: str, rest: str) -> LogLine | None:
    if words == "truncating input prompt" and (cut := _CUT.match(rest)):
        return LoggedCut(int(cut[1]), int(cut[2]))
    if words in _DROPPED:
        return MessagesDropped()
    if words == "context limit hit - shifting":
        return ContextShifted()
    if words == "loading cache slot" and (cache := _CACHE.match(rest)):
        return LoggedPrompt(int(cache[1]))
    return DebugLine() if level == "DEBUG" else None


def evidence(lines: Iterable[LogLine], *, tells_all: bool = False) -> LogEvidence:
    """The evidence of several lines together; ``tells_all`` if earlier lines were of the level DEBUG."""
    lines = tuple(lines)
    of_debug_level = (
        isinstance(line, DebugLine | MessagesDropped)
        or (isinstance(line, LoggedPrompt) and line.window_tokens == 0)
        for line in lines
    )
    return LogEvidence(
        cuts=tuple(line for line in lines if isinstance(line, LoggedCut)),
        prompts=tuple(line for line in lines if isinstance(line, LoggedPrompt)),
        dropped_messages=any(isinstance(line, MessagesDropped) for line in lines),
        shifts=sum(isinstance(line, ContextShifted) for line in lines),
        tells_all=tells_all or any(of_debug_level),
    )
