"""Counting turns: from one main prompt to the next, if a message went to a model between them.

A message that the door refused is none: nothing reached the model, no window fills and no model grows old by it, so it
counts neither towards ``max-turns`` nor as sent, though Aider's log says that it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aider_guard.core.chatlog import files_mentioned
from aider_guard.core.events import Event, PromptShown, TurnFinished, TurnStarted
from aider_guard.session.sidechannels import AnalyticsTail, FileTail
from aider_guard.session.tally import Sums, Tally


class Turns:
    """Reads the side channels of one launch whenever something may have changed, and hears the door's reports."""

    def __init__(self, analytics_log: Path, chat_history: Path, bell: Path) -> None:
        self._analytics = AnalyticsTail(analytics_log)
        self._chat = FileTail(chat_history, from_end=True)
        self._bell = FileTail(bell, from_end=True)
        self._tally = Tally()
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


def _with(turn: TurnFinished, sums: Sums) -> TurnFinished:
    return replace(
        turn,
        requests=sums.requests,
        prompt_tokens=sums.prompt_tokens,
        answer_tokens=sums.answer_tokens,
        load_seconds=sums.load_seconds,
        prefill_seconds=sums.prefill_seconds,
        generation_seconds=sums.generation_seconds,
    )
