"""Keeps what a session had open, so that ``sessions`` can list it and ``resume`` can open it again.

``kept/ID.json`` in the state folder is written at each main prompt whose facts are new, so that it is there after a
kill, too. It names the files of the chat, the arguments and the mode; only the user can read it. The exchanges are in
the private chat history of the newest launch until the session ends, and in ``kept/ID.md`` afterwards. It is not in the
session's own folder, as programs in the air gap may write there: they would choose the arguments of a later session.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from aider_guard.core.actions import Handoff
from aider_guard.core.chat_contents import last_known_handoff
from aider_guard.core.chatlog import (
    Announced,
    Exchange,
    announcements,
    exchanges,
    last_exchanges,
    render_for_restore,
    works_with_git,
)
from aider_guard.core.events import (
    ContextRead,
    Event,
    FilesCounted,
    ModelsChosen,
    PromptShown,
    TurnFinished,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.state import State, fill_percent, window_tokens
from aider_guard.counting.files import read_regular_file
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.paths import belongs_to_user, replace_file
from aider_guard.session import registry
from aider_guard.session.histories import launches
from aider_guard.session.launches import Launches, encoding_of

_MOST_CHAT_BYTES: Final = 64 * 1024
"""How much of a chat is kept: more than eight thousand tokens are never carried on (launches.py, ``limit_tokens``)."""
_TELLING = (PromptShown, ContextRead, TurnFinished, FilesCounted, ModelsChosen)
_SECRETS = ("api-key", "set-env", "header", "token", "password")
"""What is in the name of an option of Aider's whose value may be secret."""


@dataclass(frozen=True)
class KeptSession:
    """What a session had open when it was last written down. Names of files are relative to ``root``, or complete."""

    id: str
    folder: str
    """Where it was started."""
    saved_at: float = 0.0
    """Seconds since 1970."""
    root: str = ""
    arguments: tuple[str, ...] = ()
    """The user's for Aider, without values that may be secret."""
    left_out: tuple[str, ...] = ()
    """The options whose values were left out."""
    files_given: tuple[str, ...] = ()
    """The arguments, or values of arguments, that named a file that was there."""
    model: str = ""
    announced: Announced | None = None
    """The models and the mode by Aider's own names; None until the session ended."""
    handoff: Handoff = Handoff(known=False)
    has_git: bool = True
    encoding: str = "utf-8"
    turns: int = 0
    window_tokens: int | None = None
    fill_percent: float | None = None
    ended: bool = False
    """Whether its end was written down: without, it still runs, or was killed."""


def without_secrets(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arguments without options that take a secret, and the names of those that were left out.

    For example, ``--api-key NAME=KEY`` and ``--openai-api-key=KEY``.
    """
    kept: list[str] = []
    left_out: dict[str, None] = {}
    is_value = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if is_value:
            is_value = False
        elif option.startswith("--") and any(word in option for word in _SECRETS):
            # Aider has options with such a word that are no secret, and take a number: --map-tokens.
            if option.endswith("-tokens"):
                kept.append(argument)
                continue
            left_out[option] = None
            is_value = not equals
        else:
            kept.append(argument)
    return tuple(kept), tuple(left_out)


class SessionKeeper:
    """Writes down what one session has open. A disk that is full, or a folder that is gone, does not stop a session."""

    def __init__(
        self,
        folder: registry.SessionFolder,
        launches: Launches,
        arguments: Sequence[str],
        *,
        keep: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        kept, left_out = without_secrets(arguments)
        self._sessions = folder.path.parent
        self._launches = launches
        self._keeps_chat = keep > 0
        self._clock = clock
        self._words = [word for argument in kept for word in (argument, argument.partition("=")[2])]
        self._written: KeptSession | None = None
        self._of_all = KeptSession(
            folder.id, folder.working_directory, arguments=kept, left_out=left_out
        )

    def on_event(self, event: Event, state: State) -> None:
        """Write down what is open, where an event may have changed it and a main prompt was shown."""
        if isinstance(event, _TELLING) and (self._written or state.prompt is not None):
            self._write(self._describe(state))

    def finish(self, state: State) -> None:
        """Write down what was open at the end, with the models, the mode and the last exchanges."""
        if self._written is None:
            return
        kept = replace(self._describe(state), ended=True)
        if text := self._launches.chat_text():
            kept = replace(kept, announced=announcements(text), has_git=works_with_git(text))
            if self._keeps_chat:
                chat = render_for_restore(_newest(exchanges(text)))
                self._replace(".md", chat.encode("utf-8", "replace"))
        self._write(kept)

    def _describe(self, state: State) -> KeptSession:
        launch = self._launches.current
        settings = launch.settings if launch is not None else None
        window, fill = window_tokens(state), fill_percent(state)
        return replace(
            self._of_all,
            root=state.root,
            files_given=self._files_given(),
            model=state.main_model,
            handoff=last_known_handoff(state),
            encoding=encoding_of(settings) if isinstance(settings, AiderSettings) else "utf-8",
            turns=state.turns,
            window_tokens=None if isinstance(window, Unavailable) else window,
            fill_percent=None if isinstance(fill, Unavailable) else round(fill, 1),
        )

    def _files_given(self) -> tuple[str, ...]:
        folder = self._of_all.folder
        words = dict.fromkeys(word for word in self._words if word and not word.startswith("-"))
        return tuple(word for word in words if os.path.isfile(os.path.join(folder, word)))

    def _write(self, kept: KeptSession) -> None:
        if kept == self._written:
            return
        self._written = kept
        facts = json.dumps(asdict(replace(kept, saved_at=self._clock())))
        self._replace(".json", facts.encode("ascii"))

    def _replace(self, ending: str, data: bytes) -> None:
        """Write a file that only the user can read, so that a kill leaves the old or the new one.

        It does not wait for the disk: the session's loop would wait with it.
        """
        path = kept_file(self._sessions, self._of_all.id, ending)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_file(path, data)


def _newest(chat: Sequence[Exchange]) -> tuple[Exchange, ...]:
    sizes = [len(exchange.user) + len(exchange.assistant) for exchange in chat]
    return last_exchanges(chat, sizes, _MOST_CHAT_BYTES)


# Reading


def kept_file(sessions: Path, name: str, ending: str) -> Path:
    """Return the path of what is kept of a session, beside the folder of all sessions."""
    return sessions.parent / "kept" / f"{name}{ending}"


def kept_sessions(sessions: Path) -> list[KeptSession]:
    """Return the sessions that were kept, the newest first. What cannot be read, or is another user's, is left out."""
    names = (path.stem for path in (sessions.parent / "kept").glob("*.json"))
    found = (read_kept(sessions, name) for name in names)
    return sorted((kept for kept in found if kept), key=lambda kept: kept.saved_at, reverse=True)


def still_runs(sessions: Path, kept: KeptSession) -> bool:
    """Whether a session runs: its folder names its process. Another process may have the number in its name by now."""
    folder = sessions / kept.id
    return registry.read(folder) is not None and registry.is_alive(folder)


def prune_kept(sessions: Path, *, keep: int) -> None:
    """Remove what is kept of sessions that ended: all but the newest *keep*, and those of 30 days ago."""
    ended = [kept for kept in kept_sessions(sessions) if not still_runs(sessions, kept)]
    oldest = time.time() - registry.KEPT_DAYS * 86_400
    for place, kept in enumerate(ended):
        if place >= keep or kept.saved_at < oldest:
            for ending in (".json", ".md", ".html"):
                kept_file(sessions, kept.id, ending).unlink(missing_ok=True)


def read_kept(sessions: Path, name: str) -> KeptSession | None:
    """Return what a session had open; None where that was not kept or cannot be read."""
    path = kept_file(sessions, name, ".json")
    try:
        if not belongs_to_user(path.lstat()):
            return None
        facts: Any = json.loads(path.read_bytes())
        kept = KeptSession(
            **{
                **facts,
                "id": name,
                "arguments": _texts(facts["arguments"]),
                "left_out": _texts(facts["left_out"]),
                "files_given": _texts(facts["files_given"]),
                "announced": Announced(**facts["announced"]) if facts["announced"] else None,
                "handoff": Handoff(
                    **{
                        **facts["handoff"],
                        "editable": _texts(facts["handoff"]["editable"]),
                        "read_only": _texts(facts["handoff"]["read_only"]),
                    }
                ),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kept if _is_sound(kept) else None


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError("one text where several are expected")
    return tuple(str(value) for value in values)


def _is_sound(kept: KeptSession) -> bool:
    texts = (kept.folder, kept.root, kept.model, kept.encoding)
    numbers = (kept.saved_at, kept.turns, kept.window_tokens or 0, kept.fill_percent or 0)
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, int | float) for number in numbers
    )


def local_time(seconds: float) -> str:
    """Return a time in the user's zone, such as ``2026-11-30 17:57``."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class KeptChat:
    """The exchanges of a kept session, oldest first, with the models that Aider announced and whether it used git."""

    exchanges: tuple[Exchange, ...] = ()
    announced: Announced | None = None
    has_git: bool = True


def read_chat(sessions: Path, kept: KeptSession) -> KeptChat:
    """Return the chat of a session: what it kept at its end, or the private history of one that was killed."""
    text = _text(kept_file(sessions, kept.id, ".md"), "utf-8")
    if text is not None:
        return KeptChat(exchanges(text), kept.announced, kept.has_git)
    for launch in reversed(launches(sessions / kept.id)):
        text = _text(launch / "chat.md", kept.encoding)
        if text and (
            announced := announcements(text)
        ):  # else it was killed before its first prompt
            return KeptChat(exchanges(text), announced, works_with_git(text))
    return KeptChat((), kept.announced, kept.has_git)


def _text(path: Path, encoding: str) -> str | None:
    """Return the text of a file; a pipe that a program put in its place is not read."""
    data = read_regular_file(str(path))
    try:
        return None if isinstance(data, Unavailable) else data.decode(encoding, "replace")
    except LookupError:
        return None
