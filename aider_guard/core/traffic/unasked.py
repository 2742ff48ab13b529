"""Takes a stream's usage out again where the client did not ask for it: the door did."""

from __future__ import annotations

import json
import re
from typing import Final

_USAGE_ONLY: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DATA: Final = b"data:"
_MAX_LINE_BYTES: Final = 1024 * 1024


class UsageFilter:
    """Passes server-sent events on line by line, but for the one that holds nothing but the usage.

    Servers write whole events, so no line is held for longer than its own bytes take.
    """

    def __init__(self) -> None:
        self._held = b""
        self._dropped = False

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for this piece; lines without an end are kept for the next."""
        *lines, self._held = (self._held + chunk).split(b"\n")
        passed = b"".join(line + b"\n" for line in lines if self._passes(line))
        if not _is_data(self._held) or len(self._held) > _MAX_LINE_BYTES:
            passed, self._held = passed + self._held, b""
        return passed

    def rest(self) -> bytes:
        """What the client gets at the answer's end: a last line that has no end of its own."""
        held, self._held = self._held, b""
        return held if held and self._passes(held) else b""

    def _passes(self, line: bytes) -> bool:
        if self._dropped and not line.strip():  # the empty line that ended the event
            self._dropped = False
            return False
        self._dropped = _is_usage_only(line)
        return not self._dropped


def _is_data(line: bytes) -> bool:
    return line.startswith(_DATA) or _DATA.startswith(line)


def _is_usage_only(line: bytes) -> bool:
    if not line.startswith(_DATA) or not _USAGE_ONLY.search(line):
        return False
    try:
        event = json.loads(line[5:])
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))
