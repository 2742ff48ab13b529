"""Finds where two prompts part, and why a model read much of one again that it had read before.

A server keeps what it has read of the last prompt, and reads the next from where it differs. Aider's prompt is system
text, examples, read-only files, map, history, files and message (base_coder.py, format_chat_chunks): a difference in
one has all behind it read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal

from aider_guard.core.actions import Notice
from aider_guard.core.chat.events import NOT_TOLD, PartedAt, PromptReread, RereadCause
from aider_guard.core.chat.size import Part
from aider_guard.core.readings import Unavailable

LEAST_TOKENS: Final = 1000
LEAST_SECONDS: Final = 5.0
"""Less is not worth a notice."""
_SLACK_TOKENS: Final = 256
"""By how much less than the common beginning is taken from the cache in any case: a server reads in pieces."""


@dataclass(frozen=True)
class Parting:
    """The place where a prompt differs from the one before: behind so many equal characters, in a part of this kind.

    ``message_characters`` is the length of the newest message, which is new in any case.
    """

    characters: int
    all_characters: int
    at: PartedAt
    message_characters: int = 0

    def tokens(self, prompt_tokens: int) -> int:
        """Estimate the place in tokens, where they are not known one by one."""
        return round(prompt_tokens * self.characters / max(1, self.all_characters))


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how long two texts, or two lists of tokens, begin alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # whole pieces are compared at once, so that long texts take no time
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def parting(before: Sequence[Part], now: Sequence[Part]) -> Parting:
    """Return where a prompt parts from the one before. Texts are compared, and not what they are taken for: the
    newest message of one is history in the next.
    """
    pairs = zip(before, now, strict=False)
    place = next(
        (at for at, (old, new) in enumerate(pairs) if old.text != new.text),
        min(len(before), len(now)),
    )
    ends = [0, *accumulate(len(part.text) for part in now)]
    old = before[place] if place < len(before) else None
    new = now[place] if place < len(now) else None
    inside = common_length(old.text, new.text) if old and new else 0
    newest = sum(len(part.text) for part in now if part.current)
    said = next((at for at, part in enumerate(before) if part.current), len(before))
    at = _parted_at(old, new) if place < said else "message"
    return Parting(ends[place] + inside, ends[-1], at, newest)


def _parted_at(old: Part | None, new: Part | None) -> PartedAt:
    if old is None or new is None or new.current:
        return "message" if old is None else "history_changed"
    kinds = {old.kind, new.kind}
    if "map" in kinds:
        return "map"
    if new.kind == "history":
        return "history_changed" if old.kind == "history" else "history_grew"
    if kinds == {"file"}:
        return "file_edited" if old.name == new.name else "files_changed"
    if old.kind == "history":
        return "history_changed"
    return "files_changed" if "file" in kinds else "instructions"


Between = Literal["", "commit", "summary", "other"]
"""What this session asked of the same model between two messages: a server with one slot may forget the first.

``other`` is whatever else it had the model do: then it is not known why something was forgotten.
"""


@dataclass(frozen=True)
class ReadEvidence:
    """What is known of one prompt that was read: the server's numbers, and how it differs from the one before.

    ``common_tokens`` is how long the two begin alike. ``goes_back`` is whether the model's cache can be cut back to a
    common beginning: sliding and recurrent layers cannot. ``was_loaded`` is whether the model was loaded for it.
    """

    prompt_tokens: int
    cached_tokens: int
    common_tokens: int
    parted_at: PartedAt
    message_tokens: int = 0
    prefill_seconds: float | Unavailable = NOT_TOLD
    between: Between = ""
    goes_back: bool = True
    was_loaded: bool = False


def why_read(evidence: ReadEvidence) -> RereadCause | None:
    """Return why much of a prompt was read that had been read before; None where that was not much.

    What a model that was loaded again has lost is told as such (``ReloadSeen``).
    """
    read = evidence.prompt_tokens - evidence.cached_tokens
    seconds = evidence.prefill_seconds
    is_long = isinstance(seconds, float | int) and seconds >= LEAST_SECONDS
    if evidence.was_loaded or not is_long or read - evidence.message_tokens < LEAST_TOKENS:
        return None
    lost = evidence.common_tokens - evidence.cached_tokens
    if lost > _SLACK_TOKENS and 2 * lost >= read:
        if evidence.between:
            return None if evidence.between == "other" else "own_request"
        return "other_program" if evidence.goes_back else "no_checkpoint"
    return None if evidence.parted_at == "message" else evidence.parted_at


_CAUSES: Final[dict[RereadCause, tuple[str, str]]] = {
    "message": ("the message is new", ""),
    "instructions": (
        "Aider's instructions changed, as they do with the chat mode",
        "",
    ),
    "map": (
        "the repository map changed, and all behind it follows",
        "",  # once is no habit: ``map_changes`` says what helps
    ),
    "history_grew": (
        "the conversation grew, which stands before the files",
        "/read-only FILE   (for files that are not to be edited: they stand before it)",
    ),
    "history_changed": (
        "the conversation was summarised or cleared, and the files stand behind it",
        "--max-chat-history-tokens N   (a larger one is summarised less often)",
    ),
    "file_edited": (
        "a file was edited, and the others stand behind it",
        "/read-only FILE   (for files that are not to be edited: they stand before it)",
    ),
    "files_changed": (
        "files came to the chat or left it, and others stand behind them",
        "/read-only FILE   (for files that are not to be edited: they stand before it)",
    ),
    "no_checkpoint": (
        "this model cannot go back to where the prompts part (sliding or recurrent layers)",
        "a model with full attention in all layers reads only what changed",
    ),
    "own_request": (
        "a commit message or a summary was asked of the same model in between",
        "--weak-model MODEL   (a small one for these, where memory suffices for both)",
    ),
    "other_program": (
        "the server had forgotten it: another program uses this model, or memory was short",
        "a program that asks the same model after each of your turns costs you this each time",
    ),
}


def prompt_reread(event: PromptReread) -> Notice:
    """Much of a prompt was read again: how much, how long it took, why, and what helps."""
    seconds = event.seconds
    took = f" in {seconds:.0f} s" if isinstance(seconds, float | int) else ""
    where = f"{'' if event.is_exact else 'about '}token {event.common_tokens + 1:,}"
    why, helps = _CAUSES[event.cause]
    what = f"{event.model} read {event.read_tokens:,} of {event.prompt_tokens:,} tokens{took}"
    at = f" (from {where} on)" if event.cause not in _LOST else ""
    return Notice("prompt_reread", (f"{what}: {why}{at}", *([helps] if helps else [])))


MAP_TURNS: Final = 4
_MOST_MAP_TURNS: Final = 3


def changes_often(seconds_of_turns: Sequence[float]) -> bool:
    """Return whether a changed map cost time in most of these turns, so that a steadier one helps."""
    return sum(seconds > 0 for seconds in seconds_of_turns) >= _MOST_MAP_TURNS


def map_changes(seconds_of_turns: Sequence[float]) -> Notice:
    """The map changed in most of the newest turns: what that cost in each, and what helps."""
    costs = [seconds for seconds in seconds_of_turns if seconds > 0]
    share = f"{len(costs)} of the last {len(seconds_of_turns)} turns"
    each = f"{sum(costs) / len(costs):.0f} s each"
    what = f"the repository map changed in {share}, as it follows your words, and all behind it was read again: {each}"
    helps = "aider-guard -- --map-refresh files   (from the next start on it changes with the files only)"
    return Notice("map_changes", (what, helps))


_LOST: Final = ("no_checkpoint", "own_request", "other_program")
"""The causes by which a beginning was read again that had not changed."""
