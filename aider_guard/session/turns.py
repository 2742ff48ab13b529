"""Counting turns: from one main prompt to the next, if a message went to a model between them.

A message that the door refused is none: nothing reached the model, no window fills and no model grows old by it, so it
counts neither towards ``max-turns`` nor as sent, though Aider's log says that it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chatlog import files_mentioned
from aider_guard.core.events import (
    Event,
    PromptClosed,
    PromptShown,
    SidecarLost,
    SidecarStarted,
    TurnFinished,
    TurnStarted,
)
from aider_guard.core.readings import Unavailable

# What the door reported since the last main prompt: enough to say whether there was a turn, and what it took.

_CONVERSATION = ("chat", "edit")
_ON_ITS_OWN = ("commit", "summary")
"""What Aider asks for without a message of the user's."""
_NOT_MEASURED = Unavailable("not measured")
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class TurnTotals:
    """What the requests of a turn took, as far as their servers told; a commit message is among them."""

    requests: int
    prompt_tokens: int | Unavailable
    answer_tokens: int | Unavailable
    load_seconds: float | Unavailable
    prefill_seconds: float | Unavailable
    generation_seconds: float | Unavailable


class TurnTally:
    """Hears the door's reports. Those of a request may come a moment after the prompt that follows it."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._finished: list[RequestFinished] = []
        self._lost = self._refused = False

    def heard(self, event: Event) -> None:
        """Take note of a report."""
        match event:
            case RequestStarted(number=number, purpose=purpose) if purpose in _CONVERSATION:
                self._open.add(number)
            case RequestFinished():
                self._open.discard(event.number)
                self._finished.append(event)
            case RequestRefused(number=0):
                pass  # not for text, and not Aider's: a program's that runs inside
            case RequestRefused():
                self._open.discard(event.number)
                self._refused = self._refused or event.purpose not in _ON_ITS_OWN
            case SidecarLost() | SidecarStarted() | PromptClosed():
                # Nobody will report on these any more, or too late; the message went out all the same.
                self._lost = self._lost or bool(self._open)
                self._open.clear()

    @property
    def is_waiting(self) -> bool:
        """Whether a request of the conversation is not reported on yet."""
        return bool(self._open)

    @property
    def answered(self) -> bool:
        """Whether a model answered a message of the user's."""
        return any(
            one.purpose in _CONVERSATION and one.outcome == "answered" for one in self._finished
        )

    @property
    def refused(self) -> bool:
        """Whether the door answered the user's message itself, and nothing of it reached a model."""
        reached = any(one.purpose not in _ON_ITS_OWN for one in self._finished)
        return self._refused and not (reached or self._lost or self._open)

    def take(self) -> TurnTotals | None:
        """The sums since the last call; None when no request was reported on."""
        finished, self._finished = self._finished, []
        self._lost = self._refused = False
        if not finished:
            return None
        return TurnTotals(
            len(finished),
            _sum(one.prompt_tokens for one in finished),
            _sum(one.answer_tokens for one in finished),
            _sum(one.load_seconds for one in finished),
            _sum(one.prefill_seconds for one in finished),
            _sum(one.generation_seconds for one in finished),
        )


def _sum(numbers: Iterable[_Number | Unavailable]) -> _Number | Unavailable:
    """Of those that are known; rounded to the microsecond, so that a sum of seconds stays readable."""
    known = [number for number in numbers if not isinstance(number, Unavailable)]
    return round(sum(known[1:], known[0]), 6) if known else _NOT_MEASURED


# What Aider writes beside the screen: the analytics log, the notification command, the chat history.


@dataclass(frozen=True)
class Sent:
    """Messages that went to a model since the last look, and Aider's estimate for the last of them."""

    requests: int
    sent_tokens: int | Unavailable
    received_tokens: int | Unavailable


class FileTail:
    """The bytes that a file grew by. A missing file is empty; one that shrank is read from its start."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> bytes:
        """What was added since the last call."""
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
    """Aider's ``--analytics-log``: one JSON object a line, ``message_send_starting`` before each request."""

    def __init__(self, path: Path) -> None:
        self._tail = FileTail(path, from_end=True)
        self._partial = b""
        self._starts = 0
        self._last: dict[str, Any] = {}

    def look(self) -> int:
        """How many requests were started since the last ``take``."""
        *lines, self._partial = (self._partial + self._tail.read()).split(b"\n")
        for line in lines:
            self._note(line)
        return self._starts

    def take(self) -> Sent:
        """What happened since the last ``take``."""
        self.look()
        sent = Sent(
            self._starts,
            _tokens(self._last, "prompt_tokens"),
            _tokens(self._last, "completion_tokens"),
        )
        self._starts, self._last = 0, {}
        return sent

    def _note(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            name, properties = entry["event"], entry["properties"]
        except (ValueError, KeyError, TypeError):
            return  # another version's line: it counts as nothing, and the prompt still tells of the turn
        self._starts += name == "message_send_starting"
        if name == "message_send" and isinstance(properties, dict):
            self._last = properties


def _tokens(properties: dict[str, Any], name: str) -> int | Unavailable:
    value = properties.get(name)
    return value if isinstance(value, int) else Unavailable("Aider did not report it")


class Turns:
    """Reads the side channels of one launch whenever something may have changed, and hears the door's reports."""

    def __init__(self, analytics_log: Path, chat_history: Path, bell: Path) -> None:
        self._analytics = AnalyticsTail(analytics_log)
        self._chat = FileTail(chat_history, from_end=True)
        self._bell = FileTail(bell, from_end=True)
        self._tally = TurnTally()
        self._due: TurnFinished | None = None
        self._started = False
        self.said = ""
        """What went to the chat history between the last two main prompts."""

    def started(self) -> TurnStarted | None:
        """The turn that began since the last look, said once."""
        if self._started or not (self._analytics.look() or self._tally.is_waiting):
            return None
        self._started = True
        return TurnStarted()

    def heard(
        self, event: Event, known_files: Callable[[], tuple[str, ...]]
    ) -> TurnFinished | None:
        """The turn that this event ends: the main prompt is back, and all of its requests were reported on.

        Reports may come a moment after the prompt. One that does not come at all is waited for until the user's next
        message.
        """
        self._tally.heard(event)
        if isinstance(event, PromptShown):
            self._due = self._between_prompts(known_files) or self._due
            if self._due is None:
                self._tally.take()
        if self._due is None or self._tally.is_waiting:
            return None
        turn, self._due = self._due, None
        return self._over(turn)

    def _between_prompts(self, known_files: Callable[[], tuple[str, ...]]) -> TurnFinished | None:
        """The turn since the last main prompt as far as Aider tells of it; ``requests`` is 0 where only the door does.

        The notification command runs after a model answered, so its bell also tells of a turn that another version
        of Aider does not write to the analytics log.
        """
        sent = self._analytics.take()
        rang = bool(self._bell.read())
        self.said = self._chat.read().decode("utf-8", "replace")
        self._started = False
        requests = max(sent.requests, int(rang))
        if not (requests or self._tally.is_waiting or self._tally.answered):
            return None
        mentioned = files_mentioned(self.said, known_files())
        return TurnFinished(requests, sent.sent_tokens, sent.received_tokens, mentioned)

    def _over(self, turn: TurnFinished) -> TurnFinished | None:
        was_one = not self._tally.refused and (turn.requests or self._tally.answered)
        sums = self._tally.take()
        if not was_one:
            return None
        return turn if sums is None else _with(turn, sums)


def _with(turn: TurnFinished, sums: TurnTotals) -> TurnFinished:
    return replace(
        turn,
        requests=sums.requests,
        prompt_tokens=sums.prompt_tokens,
        answer_tokens=sums.answer_tokens,
        load_seconds=sums.load_seconds,
        prefill_seconds=sums.prefill_seconds,
        generation_seconds=sums.generation_seconds,
    )
