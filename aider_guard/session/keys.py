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
    """Finds the key that suspends, but not inside a paste."""

    _PASTE_BEGINS, _PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"

    def __init__(self) -> None:
        self._in_paste = False

    def find(self, data: bytes, key: int) -> int:
        """Where in *data* the key *key* is, -1 when it is not or when *key* is negative."""
        at = 0
        while at < len(data):
            mark = self._PASTE_ENDS if self._in_paste else self._PASTE_BEGINS
            stop = data.find(mark, at)
            found = (
                data.find(bytes([key]), at, stop if stop >= 0 else len(data)) if key >= 0 else -1
            )
            if found >= 0 and not self._in_paste:
                return found
            if stop < 0:
                return -1
            self._in_paste = not self._in_paste
            at = stop + len(mark)
        return -1


def without_answers(data: bytes) -> bytes:
    """*data* without complete answers of the terminal: what the user typed."""
    return _ANSWER.sub(b"", data)
