"""Feeds on the bytes of an answer as they pass, in any chunking, and knows what the server said of it."""

from __future__ import annotations

import json
import re
from typing import Final

from aider_guard.core.traffic.usage import Usage, heard

_MAX_LINE_BYTES: Final = 4 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 4096
_BEFORE_TEXT: Final = b'"created_at"'
"""Ollama writes where a model runs before the time, and the time before any text (api/types.go)."""
_REMOTE: Final = re.compile(rb'"remote_(?:host|model)"\s*:\s*"(?!")')
_OPENING: Final = b'{"model":'


class Meter:
    """Reads NDJSON, server-sent events and single JSON documents; keeps one unfinished line, 4 MiB at most.

    It never raises and never changes a byte. A line that is longer, or none of JSON's, counts for nothing.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._too_long = False
        self._usage = Usage()

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            self._read_line()
        self._add(rest)

    @property
    def so_far(self) -> Usage:
        """What the finished lines said; cheap, unlike ``usage``, which may read a line again."""
        return self._usage

    @property
    def usage(self) -> Usage:
        """What is known. An answer that has no line ends (a single document) is read to where it is now."""
        return _read(self._usage, bytes(self._line))

    def _add(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > _MAX_LINE_BYTES:
            self._too_long = True
            self._line.clear()
        if not self._too_long:
            self._line += piece

    def _read_line(self) -> None:
        if not self._too_long:
            self._usage = _read(self._usage, bytes(self._line))
        self._too_long = False
        self._line.clear()


def _read(usage: Usage, line: bytes) -> Usage:
    field, _, value = line.partition(b":")
    line = value if field in (b"data", b"error") else line
    if not line.lstrip().startswith(b"{"):
        return usage
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return usage
    if field == b"error":  # llama.cpp's own way (server.cpp)
        said = {"error": said}
    return heard(usage, said) if isinstance(said, dict) else usage


class Head:
    """Holds the first bytes of an answer of Ollama's for as long as they may say that the model runs elsewhere.

    That is until the time is written, which comes with the first bytes; an answer that begins otherwise is not held.
    """

    def __init__(self) -> None:
        self._held = b""
        self._over = False

    def feed(self, chunk: bytes) -> bytes | None:
        """What may be passed on now; None when the answer comes from another machine."""
        if self._over:
            return chunk
        held = self._held + chunk
        start = held.find(_BEFORE_TEXT)
        if _REMOTE.search(held, 0, start if start >= 0 else len(held)):
            return None
        ours = held.startswith(_OPENING) or _OPENING.startswith(held)
        if ours and start < 0 and b"\n" not in held and len(held) < _MAX_HEAD_BYTES:
            self._held = held
            return b""
        self._over, self._held = True, b""
        return held

    def rest(self) -> bytes:
        """What is held when the answer ends: it says nowhere that it comes from another machine."""
        held, self._held, self._over = self._held, b"", True
        return held
