"""What the door reported since the last main prompt: enough to say whether there was a turn, and what it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.events import Event, PromptClosed, SidecarLost, SidecarStarted
from aider_guard.core.readings import Unavailable

_CONVERSATION = ("chat", "edit")
_ON_ITS_OWN = ("commit", "summary")
"""What Aider asks for without a message of the user's."""
_NOT_MEASURED = Unavailable("not measured")
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Sums:
    """What the requests of a turn took, as far as their servers told; a commit message is among them."""

    requests: int
    prompt_tokens: int | Unavailable
    answer_tokens: int | Unavailable
    load_seconds: float | Unavailable
    prefill_seconds: float | Unavailable
    generation_seconds: float | Unavailable


class Tally:
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

    def take(self) -> Sums | None:
        """The sums since the last call; None when no request was reported on."""
        finished, self._finished = self._finished, []
        self._lost = self._refused = False
        if not finished:
            return None
        return Sums(
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
