"""Writes the journal: a JSON object a line with ``event``, ``at`` (ISO, UTC), ``t`` (seconds since the start), facts.

No text of the user's and no file's name goes in: fields with such content are marked ``journal: False`` where they are
declared. When the disk is full the journal is switched off, and the session goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import structlog

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
REPEATED_AFTER_SECONDS = 60.0
_REPEATING = ("memory_read", "models_read", "server_read")
_MOVING = ("reading_estimated", "show_title")
"""They come every two seconds, with other numbers: once a minute for each request is enough."""
_NUMBERS = re.compile(r"(?<!'number': )(?<!\d)[\d.,]+")


class Journal(Protocol):
    """What writes down events and actions."""

    def write(self, happened: object) -> None:
        """Write an event or an action; its class gives the name."""

    def note(self, name: str, /, **facts: Any) -> None:
        """Write something that is neither an event nor an action."""


class FileJournal:
    """A journal in a file."""

    def __init__(
        self, file: TextIO, *, clock: Callable[[], float], on_failure: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._on_failure = on_failure
        self._broken = False
        self._repeated: dict[str, tuple[float, str]] = {}
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                _in_reading_order,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
        )

    def write(self, happened: object) -> None:
        """Write an event or an action. A reading without anything new is written once a minute."""
        name = _WORD.sub("_", type(happened).__name__).lower()
        facts = _facts(happened)
        if name not in (*_REPEATING, *_MOVING) or self._is_news(name, facts):
            self.note(name, **facts)

    def note(self, name: str, /, **facts: Any) -> None:
        """Write one line. The first failure is reported and ends the writing."""
        if self._broken:
            return
        try:
            self._log.info(name, t=round(self._clock() - self._start, 3), **facts)
        except (OSError, ValueError) as error:  # ValueError: the file was closed under us
            self._broken = True
            self._on_failure(f"the journal cannot be written: {error}")

    def _is_news(self, name: str, facts: dict[str, Any]) -> bool:
        rough = re.sub(r"'taken_at': [\d.]+|(\d\d)\d+", r"\1", repr(facts))
        if name in _MOVING:
            rough = _NUMBERS.sub("", repr(facts))
        when, before = self._repeated.get(name, (-REPEATED_AFTER_SECONDS, ""))
        if rough == before and self._clock() - when < REPEATED_AFTER_SECONDS:
            return False
        self._repeated[name] = (self._clock(), rough)
        return True


def _in_reading_order(
    _logger: object, _method: str, entry: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    return {"event": entry.pop("event"), "at": entry.pop("at"), **entry}


def _facts(happened: object) -> dict[str, Any]:
    """The fields that may be written down, those of nested values too."""
    if not dataclasses.is_dataclass(happened) or isinstance(happened, type):
        return {}
    return {
        field.name: _plain(getattr(happened, field.name))
        for field in dataclasses.fields(happened)
        if field.metadata.get("journal", True)
    }


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _facts(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@contextlib.contextmanager
def open_journal(
    path: Path, *, clock: Callable[[], float], on_failure: Callable[[str], None]
) -> Iterator[FileJournal]:
    """Open the journal in *path*, which only its owner may read. Raises OSError when it cannot be made."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "a", encoding="utf-8", buffering=1)
    try:
        yield FileJournal(file, clock=clock, on_failure=on_failure)
    finally:
        # What a full disk did not take was reported when it was written; closing tries once more.
        with contextlib.suppress(OSError):
            file.close()
