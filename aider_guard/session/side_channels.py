"""What Aider writes beside the screen: the analytics log, the bell of its notification command, the chat history."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aider_guard.core.readings import Unavailable


@dataclass(frozen=True)
class Sent:
    """How many messages went to a model since the last look, and Aider's estimate for the last of them."""

    requests: int
    sent_tokens: int | Unavailable
    received_tokens: int | Unavailable


class FileTail:
    """Reads the bytes that a file grew by. A missing file is empty; one that shrank is read from its start."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> bytes:
        """Return what was added since the last call."""
        try:
            with self.path.open("rb") as file:
                if self._offset > file.seek(0, 2):
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return b""
        self._offset += len(data)
        return data


class AnalyticsTail:
    """Reads Aider's ``--analytics-log``: one JSON object a line, ``message_send_starting`` before each request."""

    def __init__(self, path: Path) -> None:
        self._tail = FileTail(path, from_end=True)
        self._partial = b""
        self._starts = 0
        self._last: dict[str, Any] = {}

    def look(self) -> int:
        """Return how many requests were started since the last ``take``."""
        *lines, self._partial = (self._partial + self._tail.read()).split(b"\n")
        for line in lines:
            try:
                entry = json.loads(line)
                name, properties = entry["event"], entry["properties"]
            except (ValueError, KeyError, TypeError):
                continue  # another version's line: it counts as nothing; the bell still tells of the message
            self._starts += name == "message_send_starting"
            if name == "message_send" and isinstance(properties, dict):
                self._last = properties
        return self._starts

    def take(self) -> Sent:
        """Return what happened since the last ``take``."""
        self.look()
        sent = Sent(
            self._starts,
            _tokens(self._last, "prompt_tokens"),
            _tokens(self._last, "completion_tokens"),
        )
        self._starts, self._last = 0, {}
        return sent


def _tokens(properties: dict[str, Any], name: str) -> int | Unavailable:
    value = properties.get(name)
    return value if isinstance(value, int) else Unavailable("Aider did not report it")


class SideChannels:
    """The files that one launch of Aider writes to, read from where they ended at its start."""

    def __init__(
        self, analytics_log: Path, chat_history: Path, bell: Path, encoding: str = "utf-8"
    ) -> None:
        self._encoding = encoding
        self._analytics = AnalyticsTail(analytics_log)
        self._chat = FileTail(chat_history, from_end=True)
        self._bell = FileTail(bell, from_end=True)

    def requests_started(self) -> int:
        """Count the requests that Aider began since the last ``read``."""
        return self._analytics.look()

    def read(self) -> tuple[Sent, str]:
        """Return the messages that Aider sent since the last call, and what it wrote to the chat history.

        The notification command runs after a model answered, so its bell also tells of a message that another version
        of Aider does not write to the analytics log.
        """
        sent = self._analytics.take()
        rang = bool(self._bell.read())
        text = self._chat.read().decode(self._encoding, "replace")
        return replace(sent, requests=max(sent.requests, int(rang))), text
