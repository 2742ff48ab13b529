"""Writes the log of a stand-in as Ollama does: slog's lines, gin's lines of requests, and those of its children."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timezone
from typing import Final

_NEEDS_QUOTES: Final = re.compile(r'[\s="]|^$')
_CHILD_PREFIX: Final = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")
"""What llama.cpp puts before its lines unless it is told not to; its Python bindings cannot tell it."""


def slog(level: str, source: str, message: str, **values: object) -> None:
    """One line of Ollama's own; those of the level DEBUG only with ``OLLAMA_DEBUG``."""
    if level == "DEBUG" and os.environ.get("OLLAMA_DEBUG", "0") in ("", "0", "false"):
        return
    stamp = datetime.now(tz=timezone.utc)
    words = {"msg": message, **values}
    text = " ".join(f"{key}={_value(value)}" for key, value in words.items())
    _write(
        f"time={stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03}Z level={level} source={source} {text}"
    )


def gin(status: int, seconds: float, method: str, path: str) -> None:
    """The line at the end of a request."""
    stamp = datetime.now(tz=timezone.utc)
    _write(
        f"[GIN] {stamp:%Y/%m/%d - %H:%M:%S} | {status} | {go_duration(seconds):>13} | "
        f'{"127.0.0.1":>15} | {method:<8} "{path}"'
    )


def of_child(line: str) -> str:
    """Write a line of a child's, without llama.cpp's prefix; the line as it was written."""
    plain = _CHILD_PREFIX.sub("", line)
    _write(plain)
    return plain


def go_duration(seconds: float) -> str:
    """A duration as Go prints it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.6f}".rstrip("0").rstrip(".") + unit
    return f"{seconds * 1e9:.0f}ns"


def _value(value: object) -> str:
    text = str(value)
    if not _NEEDS_QUOTES.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
