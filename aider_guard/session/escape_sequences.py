"""Reads escape sequences: which modes a child left on in the terminal, and which input is keys.

Modes, keyboard protocols and attributes are remembered, never text. Sequences as in xterm's
"Control Sequences" (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html) and, for the keyboard,
the kitty protocol (https://sw.kovidgoyal.net/kitty/keyboard-protocol/).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFAULT_ON = frozenset({7, 25})
"""Autowrap and the visible cursor: on in a fresh terminal."""
_ALTERNATE_SCREENS = frozenset({47, 1047, 1049})
_RESET_ORDER = (2026, 1016, 1015, 1006, 1005, 1003, 1002, 1000, 9, 1004, 2004, 1)
"""Synchronised output, mouse and focus reports, bracketed paste, cursor keys."""
_DEFAULT_OFF = _ALTERNATE_SCREENS | set(_RESET_ORDER)

_UNCOMMON = re.compile(rb"\x1b(?!\[[0-9;:]{0,64}[A-HJKPXdmn])")
"""The next sequence that is neither a colour nor a cursor move, which most are."""
_STYLE = re.compile(rb"\x1b\[([0-9;:]{0,64})m")
_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[(?P<parameters>[0-?]{0,64})(?P<intermediates>[ -/]{0,4})(?P<final>[@-~])"
    rb"|(?P<string>[\]PX^_])"
    rb"|(?P<short>[ -/]{1,2}[0-~]|(?![\[\]PX^_])[0-~]))"
)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[ -/]{0,2})?\Z")
_STRING_CONTROL = re.compile(rb"[\x07\x18\x1a\x1b]")


class OutputModes:
    """Tracks which modes the bytes of a child left on. ``feed`` takes them in pieces of any size.

    A control sequence longer than 64 parameter bytes is taken for text: no program sends one.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._string = b""
        self._forget()

    def _forget(self) -> None:
        self._changed: set[int] = set()
        self._styled = self._keypad = self._shaped = False
        self._region = self._charset = self._other_keys = False
        self._kitty = {False: 0, True: 0}

    @property
    def changed(self) -> frozenset[int]:
        """Private modes that differ from a fresh terminal: 2004 when it is on, 25 when off."""
        return frozenset(self._changed)

    def feed(self, data: bytes) -> None:
        """Take the next bytes that the child wrote to the terminal."""
        data = self._tail + data
        self._tail = b""
        position = 0
        while 0 <= position < len(data):
            position = (
                self._skip_string(data, position) if self._string else self._next(data, position)
            )

    def _next(self, data: bytes, position: int) -> int:
        """Handle the next sequence; return where to go on, -1 when all was read."""
        uncommon = _UNCOMMON.search(data, position)
        start = len(data) if uncommon is None else uncommon.start()
        self._note_style(data, position, start)
        if uncommon is None:
            return -1
        sequence = _SEQUENCE.match(data, start)
        if sequence is not None:
            self._apply(sequence)
            return sequence.end()
        if _UNFINISHED.match(data, start):
            self._tail = data[start:]
            return -1
        return start + 1

    def _note_style(self, data: bytes, position: int, end: int) -> None:
        """Take the last colour between ``position`` and ``end``."""
        start = data.rfind(b"\x1b[", position, end)
        while start >= 0:
            style = _STYLE.match(data, start, end)
            if style is not None:
                self._styled = _is_style(style[1])
                return
            start = data.rfind(b"\x1b[", position, start)

    def _skip_string(self, data: bytes, position: int) -> int:
        """Skip the text of an OSC, DCS, PM, APC or SOS string; only OSC ends at BEL (xterm)."""
        control = _STRING_CONTROL.search(data, position)
        if control is None:
            return -1
        if control[0] == b"\x07" and self._string != b"]":
            return control.end()
        if control[0] == b"\x1b" and control.end() == len(data):
            self._tail = b"\x1b"
            return -1
        self._string = b""
        return control.start() if control[0] == b"\x1b" else control.end()

    def _apply(self, sequence: re.Match[bytes]) -> None:
        parameters, final = sequence["parameters"], sequence["final"]
        if sequence["string"]:
            self._string = sequence["string"]
        elif short := sequence["short"]:
            if short in {b"=", b">"}:
                self._keypad = short == b"="
            elif short == b"c":
                self._forget()
            elif short[:1] == b"(":
                self._charset = short != b"(B"
        elif final in b"hl" and parameters[:1] == b"?":
            modes = {int(mode) for mode in parameters[1:].split(b";") if mode.isdigit()}
            others = _DEFAULT_OFF if final == b"h" else _DEFAULT_ON
            self._changed = (self._changed - modes) | (modes & others)
        else:
            self._apply_control(parameters, sequence["intermediates"], final)

    def _apply_control(self, parameters: bytes, intermediates: bytes, final: bytes) -> None:
        match intermediates, final:
            case b"", b"m" if parameters[:1] not in (b"<", b"=", b">", b"?"):
                self._styled = _is_style(parameters)
            case b"", b"m" if parameters[:2] == b">4":
                self._other_keys = parameters not in (b">4", b">4;", b">4;0")
            case b"", b"u":
                self._apply_kitty(parameters)
            case b"", b"r" if parameters[:1] != b"?":
                self._region = bool(parameters)
            case b" ", b"q":
                self._shaped = parameters not in (b"", b"0")
            case b"!", b"p":
                self._styled = self._keypad = self._region = self._charset = False
                self._changed -= {1, 25}

    def _apply_kitty(self, parameters: bytes) -> None:
        """Count the keyboard flags pushed; each screen has a stack of its own."""
        screen = bool(self._changed & _ALTERNATE_SCREENS)
        match parameters[:1]:
            case b">":
                self._kitty[screen] += 1
            case b"<":
                count = int(parameters[1:]) if parameters[1:].isdigit() else 1
                self._kitty[screen] = max(0, self._kitty[screen] - count)
            case b"=":
                self._kitty[screen] = max(1, self._kitty[screen])

    @property
    def is_inside(self) -> bool:
        """Whether the bytes so far end inside a sequence, where nothing else may be written."""
        return bool(self._string or self._tail)

    def resets(self) -> bytes:
        """The bytes that undo what is on, in the order in which they must be sent; empty for nothing."""
        parts = [b"\x1b\\" if self._string else b"\x18" if self._tail else b""]
        parts += [b"\x1b[?%dl" % mode for mode in _RESET_ORDER if mode in self._changed]
        parts += [b"\x1b[<%du" % self._kitty[True] if self._kitty[True] else b""]
        parts += [b"\x1b[?%dl" % mode for mode in sorted(_ALTERNATE_SCREENS & self._changed)]
        parts += [b"\x1b[<%du" % self._kitty[False] if self._kitty[False] else b""]
        # Setting margins moves the cursor home (DECSTBM): keep it where it is.
        parts += [b"\x1b7\x1b[r\x1b8" if self._region else b"", b"\x1b>" if self._keypad else b""]
        parts += [b"\x1b[>4m" if self._other_keys else b"", b"\x1b(B" if self._charset else b""]
        parts += [b"\x1b[0 q" if self._shaped else b"", b"\x1b[0m" if self._styled else b""]
        parts += [b"\x1b[?%dh" % mode for mode in sorted(_DEFAULT_ON & self._changed)]
        return b"".join(parts)


def _is_style(parameters: bytes) -> bool:
    """Whether an SGR sequence turns something on; ``1;0`` counts as well."""
    return bool(parameters.strip(b"0;:"))


# Input from the terminal: the user's keys, and the terminal's own answers to queries of the child.

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
    """The content of one piece of input: whether it held a key, and the newest cursor position reported."""

    keys: bool
    cursor_answer: bytes = b""


class Keyboard:
    """Tells keys from answers, in any chunking. It only looks: the bytes are not held back."""

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
        """Return where in *data* the key *key* is, -1 when it is not or when *key* is negative."""
        before, text = len(self._half_mark), self._half_mark + data
        self._half_mark = b""
        at = 0
        while True:
            mark = self._PASTE_ENDS if self._in_paste else self._PASTE_BEGINS
            stop = text.find(mark, at)
            if key >= 0 and not self._in_paste:
                end = stop if stop >= 0 else len(text)
                position = text.find(bytes([key]), max(at, before), end)
                if position >= 0:
                    return position - before
            if stop < 0:
                halves = (mark[:size] for size in range(len(mark) - 1, 0, -1))
                self._half_mark = next((half for half in halves if text.endswith(half, at)), b"")
                return -1
            self._in_paste = not self._in_paste
            at = stop + len(mark)


def without_answers(data: bytes) -> bytes:
    """Return *data* without complete answers of the terminal: what the user typed."""
    return _ANSWER.sub(b"", data)
