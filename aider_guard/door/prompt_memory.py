"""Remembers the last prompt to each model, to tell what of the next one its server knows, and why it reads much again.

Prompts stay in memory only. How fast each model reads is kept from session to session: numbers by the model's name.
"""

from __future__ import annotations

import json
import os
from array import array
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from aider_guard.core.chat.pace import ReadingPace, ReadingPaces, ReadingSample
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.rereading import Between, Parting, common_length, parting
from aider_guard.core.chat.size import Part, parts
from aider_guard.core.chat.types import CONVERSATION, Count, Upstream
from aider_guard.core.model_names import canonical_name
from aider_guard.core.readings import Unavailable
from aider_guard.ollama.names import is_this_machine

FILE: Final = "reading.json"
_MAX_BYTES: Final = 1 << 20


def place_of(model: str, upstream: Upstream) -> str:
    """Return a name for a model on its server, by which its pace is kept; a server of this machine is not named."""
    if is_this_machine(upstream.base):
        return canonical_name(model)
    address = urlsplit(upstream.base)
    return f"{canonical_name(model)}@{address.hostname}"


@dataclass(frozen=True)
class KnownPrompt:
    """A prompt that was answered: its parts, its tokens where they are known one by one, and what came after it."""

    parts: tuple[Part, ...] = field(repr=False)
    token_ids: array[int] = field(repr=False)
    between: Between = ""

    def parting(self, request_parts: tuple[Part, ...]) -> Parting:
        """Return where another prompt parts from this one."""
        return parting(self.parts, request_parts)

    def common_tokens(self, counted: Count | Unavailable) -> int | None:
        """Return how many tokens a counted prompt has in common with this one; None where they are not known."""
        ids = counted.token_ids if isinstance(counted, Count) else ()
        if not ids or not self.token_ids:
            return None
        return common_length(self.token_ids, array("q", ids))


Since = Literal["loaded", "read"]
"""What happened to a model since its last prompt: it was loaded, and knows nothing; or it read what is not known."""


class PromptMemory:
    """The last prompt of each model, by the name of its place. Used on the door's event loop."""

    def __init__(self) -> None:
        self._known: dict[str, KnownPrompt] = {}
        self._since: dict[str, Since] = {}

    def last(self, place: str) -> KnownPrompt | None:
        """Return the last message of the user's that this model answered, None for none."""
        return self._known.get(place)

    def note(
        self, place: str, request: ChatRequest, counted: Count | Unavailable, *, answered: bool
    ) -> None:
        """Note that a request was sent. After one that was not answered it is not known what the server keeps."""
        purpose = request.purpose
        if purpose in CONVERSATION and answered:
            ids = counted.token_ids if isinstance(counted, Count) else ()
            self._known[place] = KnownPrompt(parts(request), array("q", ids))
            self._since.pop(place.partition("@")[0], None)
        elif purpose in CONVERSATION:
            self._known.pop(place, None)
            self._since[place.partition("@")[0]] = "read"
        else:
            between: Between = purpose if purpose in ("commit", "summary") else "other"
            self.note_between(place, between)

    def note_between(self, place: str, between: Between) -> None:
        """Note that this session asked something else of the same model."""
        if (known := self._known.get(place)) is not None:
            self._known[place] = replace(known, between=between)

    def sure_tokens(self, place: str, request: ChatRequest, prompt_tokens: int) -> int | None:
        """Return how much of a prompt the model knows, where its server does not tell it; None where it is not sure."""
        last, since = self.last(place), self._since.get(place.partition("@")[0])
        if since == "read" or (since is None and last is not None and last.between):
            return None
        if since == "loaded" or last is None:
            return 0
        return last.parting(parts(request)).tokens(prompt_tokens)

    def note_read(self, model: str) -> None:
        """Note that a model has read more than the prompts it was sent, or that others may have used it."""
        self._since[canonical_name(model)] = "read"

    def note_loaded(self, model: str) -> None:
        """Note that a model was loaded ahead: it knows nothing."""
        self._since[canonical_name(model)] = "loaded"

    def note_ahead(self, model: str) -> None:
        """Note that a model was loaded, or has read something, ahead: it need not keep the last prompt then."""
        for place in self._known:
            if place.partition("@")[0] == canonical_name(model):
                self.note_between(place, "other")


class PaceStore:
    """The paces of the models, with the folder where they are kept; "" for none. ``learn`` writes, and blocks."""

    def __init__(self) -> None:
        self._folder, self._paces = "", ReadingPaces()

    def open(self, folder: str) -> None:
        """Read what earlier sessions have kept in a folder, once."""
        if folder and folder != self._folder:
            self._folder, self._paces = folder, _read(folder)

    def of(self, place: str) -> ReadingPace:
        """Return how fast a model reads, as far as it is known."""
        return self._paces.of(place)

    def learn(self, place: str, sample: ReadingSample) -> None:
        """Learn from one prompt, and keep it where it can be written. Never raises."""
        if not sample.is_sound:
            return
        self._paces = self._paces.learned(place, sample)
        if not self._folder:
            return
        # Two sessions may write at once: each adds to what is there, and the last one wins as a whole.
        kept = json.dumps(_read(self._folder).learned(place, sample).plain())
        file = Path(self._folder) / FILE
        draft = file.with_name(f"{FILE}.{os.getpid()}")
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(kept, encoding="utf-8")
            draft.replace(file)
        with suppress(OSError):
            draft.unlink()


def _read(folder: str) -> ReadingPaces:
    try:
        content = (Path(folder) / FILE).read_bytes()
        return ReadingPaces.of_plain(json.loads(content) if len(content) < _MAX_BYTES else None)
    except (OSError, ValueError, RecursionError):
        return ReadingPaces()
