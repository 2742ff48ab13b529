"""Parses Aider's chat history file into exchanges and announcements, and writes one for the next launch to restore.

From Aider 0.86.2, io.py. The user's text has ``#### `` before and two blanks after each line, and an empty line before
the first; a tool's line has ``> `` before and two blanks after; an answer stands between empty lines, as it came. A
heading or a quote inside an answer has no two blanks after it, which tells the two apart. With
``--restore-chat-history`` Aider reads the file by a simpler rule (utils.py ``split_chat_history_markdown``): a line
with ``# `` is dropped, with ``> `` is a tool's, with ``#### `` is the user's, everything else is the answer.
``render_for_restore`` writes for that rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SEED = "# aider-guard: the last exchanges of the launch before"
_STARTED = re.compile(r"# aider chat started at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_CLEARED = re.compile(r"^> All (?:files dropped and )?chat history cleared\.", re.MULTILINE)
# Aider accepts any beginning of a command that fits one alone.
_CLEARING = ("/cl", "/cle", "/clea", "/clear", "/res", "/rese", "/reset")
_WATCHED = re.compile(r"^> Processing your request\.\.\.", re.MULTILINE)
_ANNOUNCED = re.compile(
    r"^> Aider v.*\n"
    r"> (?:Main model|Model): (?P<main>.+) with (?P<format>\S+) edit format.*"
    r"(?:\n> Editor model: (?P<editor>.+) with (?P<editor_format>\S+) edit format *)?"
    r"(?:\n> Weak model: (?P<weak>.+?) *$)?",
    re.MULTILINE,
)
_Kind = Literal["start", "carried", "user", "tool", "answer", "gap"]
# At the start of a line of an answer these would have a meaning for Aider's reader.
_MARKUP = ("# ", "> ", "#### ")


@dataclass(frozen=True)
class Exchange:
    """One message of the user and the model's whole answer to it."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Announced:
    """The models and the edit format that Aider announced last; without a weak model it is the main one."""

    main_model: str
    edit_format: str
    weak_model: str
    editor_model: str | None = None
    editor_edit_format: str | None = None


def exchanges(text: str) -> tuple[Exchange, ...]:
    """Return every answered message since the last ``/clear`` or ``/reset``, oldest first.

    Commands are no messages, but the message in ``/ask`` and its like is one. A message without an answer, and an
    answer to a comment that ``--watch-files`` saw, are left out.
    """
    builder = _ExchangeBuilder()
    for block in _blocks(text):
        builder.add(block)
    builder.close()
    return tuple(builder.exchanges)


def render_for_restore(exchanges: Sequence[Exchange]) -> str:
    """Return a chat history file from which Aider, and ``exchanges`` here, read these exchanges back.

    A line of an answer that has a meaning for Aider's reader gets one blank before it: to Markdown and to a comment in
    code that makes no difference. The user's text loses trailing blanks, and all kinds of line breaks in it become
    newlines, as when Aider logs it.
    """
    parts = [f"{_SEED}\n"]
    for exchange in exchanges:
        if exchange.user.strip() and exchange.assistant.strip():
            parts += [f"#### {line}\n" for line in exchange.user.rstrip().splitlines()]
            lines = exchange.assistant.splitlines(keepends=True)
            parts += [f" {line}" if line.startswith(_MARKUP) else line for line in lines]
            parts += [] if exchange.assistant.endswith("\n") else ["\n"]
    return "".join(parts)


def last_exchanges(
    exchanges: Sequence[Exchange], tokens_of: Sequence[int], limit_tokens: int
) -> tuple[Exchange, ...]:
    """Return the newest exchanges, whole and without a gap, that fit in ``limit_tokens`` together."""
    room = limit_tokens
    first = len(exchanges)
    while first > 0 and tokens_of[first - 1] <= room:
        first -= 1
        room -= tokens_of[first]
    return tuple(exchanges[first:])


def announcements(text: str) -> Announced | None:
    """Return Aider's last announcement of its models, None if there is none.

    Only lines after a start of Aider or a command count, as an answer may imitate them. The editor that works for an
    architect is skipped (``--verbose`` announces it).
    """
    newest: Announced | None = None
    aider_speaks = True
    for block in _blocks(text):
        if block.kind != "tool":
            aider_speaks = block.kind == "start" or block.is_command
        elif aider_speaks:
            for match in _ANNOUNCED.finditer(block.text):
                main, edit_format, editor = match["main"], match["format"], match["editor"]
                if not edit_format.startswith("editor-"):
                    weak = match["weak"] or main
                    newest = Announced(main, edit_format, weak, editor, match["editor_format"])
    return newest


def works_with_git(text: str) -> bool:
    """Whether the Aider that wrote *text* works with git (base_coder.py, ``get_announcements``)."""
    return "\n> Git repo: none" not in text


def chat_was_cleared(text: str) -> bool:
    """Whether Aider reported in ``text`` that it cleared the chat."""
    return bool(_CLEARED.search(text))


def files_mentioned(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``names`` that are in ``text`` as whole words, by path or by last part alone."""
    mentioned = []
    for name in names:
        parts = dict.fromkeys((name, name.rpartition("/")[2]))
        spellings = "|".join(map(re.escape, parts))
        # "./a.py" and "a.py." mention a.py; "lib/a.py", "my-a.py", "a.pyc" and "a.py.bak" do not.
        if re.search(rf"(?<![\w/.\-])(?:\./)?(?:{spellings})(?![\w/]|\.\w)", text):
            mentioned.append(name)
    return tuple(mentioned)


@dataclass(frozen=True)
class _Block:
    """Neighbouring lines of one kind; a tool's keep ``> ``, the user's have lost ``#### ``."""

    kind: _Kind
    text: str

    @property
    def is_command(self) -> bool:
        return self.kind == "user" and self.text.startswith(("/", "!"))


class _ExchangeBuilder:
    """Joins messages and answers to exchanges."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._message: str | None = None
        self._answers: list[str] = []

    def add(self, block: _Block) -> None:
        match block.kind:
            case "user":
                # The architect's answer is logged once more, as the editor's message; neither that nor the
                # editor's answer stays in Aider's own chat (coders/architect_coder.py).
                repeated = bool(self._answers) and _flat(block.text) == _flat(self._answers[-1])
                self.close()
                if block.is_command and block.text.split()[0] in _CLEARING:
                    self._clear()
                elif not block.is_command and not repeated:
                    self._message = block.text
            case "carried":
                self.close()
                self._message = block.text
            case "answer" if self._message is not None:
                self._answers.append(block.text)
            case "start":
                self.close()
            case "tool" if _CLEARED.search(block.text):
                self._clear()
            case "tool" if _WATCHED.search(block.text):
                self.close()

    def close(self) -> None:
        if self._message is not None and self._answers:
            self.exchanges.append(Exchange(self._message, "\n\n".join(self._answers)))
        self._message, self._answers = None, []

    def _clear(self) -> None:
        self.close()
        self.exchanges.clear()


def _flat(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _blocks(text: str) -> Iterator[_Block]:
    """Split a chat history file into blocks of one writer each, without the gaps between."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    seeded = lines[0] == _SEED
    kind: _Kind = "gap"
    block: list[str] = []
    previous = ""
    for line in lines[1:] if seeded else lines:
        seeded = seeded and not _STARTED.fullmatch(line)
        # ``render_for_restore`` marks the user's lines only.
        seed_kind: _Kind = "carried" if line.startswith("#### ") else "answer"
        new = seed_kind if seeded else _kind(line, kind, previous)
        if new != kind:
            yield from _finished(kind, block)
            block = []
        block.append(line)
        kind, previous = new, line
    yield from _finished(kind, block)


def _kind(line: str, kind: _Kind, previous: str) -> _Kind:
    """Return the writer of a ``line`` in Aider's file; ``kind`` is the writer of the line before."""
    if _STARTED.fullmatch(line):
        return "start"
    if line.startswith("> ") and line.endswith("  "):
        return "tool"
    if line.startswith("#### ") and line.endswith("  ") and (not previous or kind == "user"):
        return "user"
    if not line and kind != "answer":
        return "gap"
    return "tool" if kind == "tool" else "answer"  # only a tool's first line has the sign


def _finished(kind: _Kind, lines: Sequence[str]) -> Iterator[_Block]:
    if kind == "user":
        yield _Block(kind, "\n".join(line.removesuffix("  ")[5:] for line in lines))
    elif kind == "carried":
        yield _Block(kind, "\n".join(line[5:] for line in lines))
    elif kind == "answer":
        # Aider strips what it logs of an answer.
        yield _Block(kind, "\n".join(lines).strip("\n"))
    elif kind != "gap":
        yield _Block(kind, "\n".join(lines))
