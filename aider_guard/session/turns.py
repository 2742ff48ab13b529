"""Counting turns: from one main prompt to the next, if a message went to a model between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aider_guard.core.chatlog import files_mentioned
from aider_guard.core.events import TurnFinished, TurnStarted
from aider_guard.session.sidechannels import AnalyticsTail, FileTail


class Turns:
    """Reads the side channels of one launch whenever something may have changed."""

    def __init__(self, analytics_log: Path, chat_history: Path, bell: Path) -> None:
        self._analytics = AnalyticsTail(analytics_log)
        self._chat = FileTail(chat_history, from_end=True)
        self._bell = FileTail(bell, from_end=True)
        self._started = False
        self.said = ""
        """What went to the chat history between the last two main prompts."""

    def started(self) -> TurnStarted | None:
        """The turn that began since the last look, said once."""
        if self._started or not self._analytics.look():
            return None
        self._started = True
        return TurnStarted()

    def finished(self, known_files: Callable[[], tuple[str, ...]]) -> TurnFinished | None:
        """The turn that ended now that the main prompt is back; None when no message was sent.

        The notification command runs after a model answered, so its bell also tells of a turn that another version
        of Aider does not write to the analytics log.
        """
        sent = self._analytics.take()
        rang = bool(self._bell.read())
        self.said = self._chat.read().decode("utf-8", "replace")
        self._started = False
        if not sent.requests and not rang:
            return None
        mentioned = files_mentioned(self.said, known_files())
        return TurnFinished(
            max(sent.requests, 1), sent.sent_tokens, sent.received_tokens, mentioned
        )
