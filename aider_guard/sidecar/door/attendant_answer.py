"""An upstream's answer on its way to Aider: read as it passes, and ended where it must not go on."""

from __future__ import annotations

from typing import Final

from aider_guard.core.chat.errors import Failure, of_words
from aider_guard.core.chat.response import Head, Meter, Usage, UsageFilter

_STREAMS: Final = (b"{", b"data:", b"event:", b"error:", b"id:", b"retry:", b":")


class Passing:
    """The bytes of one answer.

    ``feed`` gives what Aider gets in place of a piece, or why the answer must end here.
    """

    def __init__(self, *, is_ollama: bool, hides_usage: bool) -> None:
        self._meter = Meter()
        self._head = Head() if is_ollama else None
        self._filter = UsageFilter() if hides_usage else None
        self._begun = False

    @property
    def usage(self) -> Usage:
        """What the server said of it so far."""
        return self._meter.usage

    @property
    def has_text(self) -> bool:
        """Whether any of the answer was passed, thinking aside."""
        return self._meter.so_far.texts > 0

    def feed(self, chunk: bytes, *, refuses_remote: bool) -> bytes | Failure:
        """The next piece. An error in the middle of a text is passed on: Aider takes the answer as broken then, which
        it is, and does not make half of it a change.
        """
        if not self._begun and chunk.strip():
            self._begun = True
            if not chunk.lstrip().startswith(_STREAMS) and not _may_begin(chunk.lstrip()):
                return Failure("strange", chunk[:400].decode("utf-8", "replace"), 200)
        self._meter.feed(chunk)
        heard = self._meter.so_far
        if heard.error and not heard.texts:
            return of_words(heard.error)
        passed: bytes | None = chunk
        if self._head is not None and refuses_remote:
            passed = self._head.feed(chunk)
        if passed is None:
            return Failure("cloud", self._meter.usage.remote)
        return self._filter.feed(passed) if self._filter else passed

    def rest(self) -> bytes:
        """What was held back of an answer that has ended."""
        held = self._head.rest() if self._head is not None else b""
        return self._filter.feed(held) + self._filter.rest() if self._filter else held


def _may_begin(start: bytes) -> bool:
    return any(known.startswith(start) for known in _STREAMS)
