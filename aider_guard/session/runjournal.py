"""The journal of a run without a conversation: made with the first line worth one, so ``--version`` leaves none."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from aider_guard.core.actions import EndSession
from aider_guard.core.events import AiderExited, AiderStarted, AirGapChosen
from aider_guard.errors import LaunchError
from aider_guard.session import registry

if TYPE_CHECKING:
    from aider_guard.journal import Journal

_OF_EVERY_RUN = (AiderStarted, AirGapChosen, AiderExited, EndSession)


class RunJournal:
    """As a ``with``. Where it cannot be written that is said once, by *on_failure*, and the run goes on."""

    def __init__(self, sessions: Path, *, on_failure: Callable[[str], None]) -> None:
        self._sessions = sessions
        self._on_failure = on_failure
        self._held: list[object] = []
        self._journal: Journal | None = None
        self._broken = False
        self._stack = ExitStack()

    def __enter__(self) -> RunJournal:
        # Aider runs by now, and does not ask yet: what is loaded here delays nothing.
        import_module("aider_guard.journal")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write(self, happened: object) -> None:
        """Note an event or an action. What happens in every run is written with the first that does not."""
        self._held.append(happened)
        if self._journal is None and not self._broken and not isinstance(happened, _OF_EVERY_RUN):
            self._open()
        if self._journal is not None:
            held, self._held = self._held, []
            for one in held:
                self._journal.write(one)

    def _open(self) -> None:
        from aider_guard.journal import open_journal

        try:
            registry.prune(self._sessions)
            folder = registry.create(self._sessions)
            opened = open_journal(
                folder.path / "journal.jsonl", clock=time.monotonic, on_failure=self._on_failure
            )
            self._journal = self._stack.enter_context(opened)
        except (LaunchError, OSError) as error:
            self._broken = True
            self._on_failure(f"the journal cannot be written: {error}")
