"""What comes from the terminal: the user's keys, or the terminal's own answers to queries of the child."""

from __future__ import annotations

import re
from dataclasses import dataclass

CURSOR_QUERY = b"\x1b[6n"
_ANSWER = re.compile(
    rb"\x1b\[(?P<position>\d+;\d+R)"  # cursor position (CPR), which prompt_toolkit asks for at every prompt
    rb"|\x1b\[[?>=][\d;]*c"  # device attributes
    rb"|\x1b\[\d+n"  # device status
    rb"|\x1b\[\?[\d;]*\$y"  # mode report
    rb"|\x1b\[[IO]"  # focus in, focus out
    rb"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # colours
    rb"|\x1bP[^\x1b]*\x1b\\"
)
_PARTIAL = re.compile(rb"\x1b(?:\[[?>=]?[\d;$]*|\][^\x07\x1b]*|P[^\x1b]*)?\Z")
_MAX_PARTIAL_BYTES = 256


@dataclass(frozen=True)
class Typed:
    """What one piece of input held: whether a key was among it, and the newest cursor position reported."""

    keys: bool
    cursor_answer: bytes = b""


class Keyboard:
    """Tells keys from answers, in any chunking. It only looks: the bytes go their way at once."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> Typed:
        """Classify *data*. The start of an answer counts as keys only when its end does not come next."""
        data = self._partial + data
        answers = list(_ANSWER.finditer(data))
        rest = _ANSWER.sub(b"", data)
        partial = _PARTIAL.search(rest)
        # A lone escape is the key; an answer never comes in such small pieces from a terminal that sends it at once.
        keep = partial is not None and 1 < len(partial[0]) <= _MAX_PARTIAL_BYTES
        self._partial = partial[0] if partial is not None and keep else b""
        keys = bool(rest[: len(rest) - len(self._partial)])
        positions = [answer[0] for answer in answers if answer["position"]]
        return Typed(keys, positions[-1] if positions else b"")


class SuspendKey:
    """Finds the key that suspends, but not inside a paste, in any chunking."""

    _PASTE_BEGINS, _PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"

    def __init__(self) -> None:
        self._in_paste = False
        self._half_mark = b""

    def find(self, data: bytes, key: int) -> int:
        """Where in *data* the key *key* is, -1 when it is not or when *key* is negative."""
        before, text = len(self._half_mark), self._half_mark + data
        self._half_mark = b""
        at = 0
        while True:
            mark = self._PASTE_ENDS if self._in_paste else self._PASTE_BEGINS
            stop = text.find(mark, at)
            if key >= 0 and not self._in_paste:
                end = stop if stop >= 0 else len(text)
                found = text.find(bytes([key]), max(at, before), end)
                if found >= 0:
                    return found - before
            if stop < 0:
                self._half_mark = _half_of(mark, text[at:])
                return -1
            self._in_paste = not self._in_paste
            at = stop + len(mark)


def _half_of(mark: bytes, text: bytes) -> bytes:
    halves = (mark[:size] for size in range(len(mark) - 1, 0, -1))
    return next((half for half in halves if text.endswith(half)), b"")


def without_answers(data: bytes) -> bytes:
    """*data* without complete answers of the terminal: what the user typed."""
    return _ANSWER.sub(b"", data)
