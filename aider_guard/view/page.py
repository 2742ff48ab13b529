"""Lays findings out as lines of a terminal: wrapped at words, in the theme's colours, commands left whole."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from aider_guard.core.findings import Finding
from aider_guard.core.printable import printable

_WORD_COLUMNS = 9
_COLOURS = {"stop": "\x1b[31m", "warn": "\x1b[33m", "unknown": "\x1b[36m", "info": ""}
_DIM = "\x1b[2m"
_RESET = "\x1b[0m"
_WIDEST_COLUMNS = 100
_NARROWEST_COLUMNS = 30


def columns_of(out: TextIO) -> int:
    """The width of the terminal that is written to; 0 where there is none, and lines may have any length."""
    return shutil.get_terminal_size().columns if out.isatty() else 0


def wrapped(lines: Iterable[str], columns: int, indent: int) -> Iterator[str]:
    """The lines, broken between words where they are longer than *columns*, if that is not 0; the rest is indented."""
    for line in lines:
        if columns and len(line) > columns:
            yield from textwrap.wrap(
                line,
                max(columns, _NARROWEST_COLUMNS),
                subsequent_indent=" " * indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
        else:
            yield line


@dataclass(frozen=True)
class Page:
    """The size of the terminal, and whether it gets colours; with no rows a page may be of any length."""

    columns: int
    rows: int = 0
    colour: bool = False

    def holds(self, lines: Sequence[str]) -> bool:
        """Whether all lines and the next prompt fit on one screen."""
        return not self.rows or len(lines) < self.rows

    def headline(self, what: str, evidence: str) -> list[str]:
        """One program that runs, with where it is: beside it, or below where the line would be too long."""
        text, where = self.printable(what), self.printable(evidence)
        if not where or len(text) + 2 + len(where) > self.columns:
            lines = [*wrapped([text], self.columns, 2)]
            return lines + [
                self._dim(line) for line in wrapped([f"  {where}"], self.columns, 2) if where
            ]
        return [f"{text}  {self._dim(where)}"]

    def finding(self, finding: Finding, *, with_fix: bool) -> list[str]:
        """The severity, what was found, the evidence beside or below it, and the fix on a line of its own."""
        width = max(_NARROWEST_COLUMNS, min(self.columns, _WIDEST_COLUMNS)) - _WORD_COLUMNS
        lines = textwrap.wrap(self.printable(finding.what), width, break_on_hyphens=False) or [""]
        evidence = f"({self.printable(finding.evidence)})" if finding.evidence else ""
        if evidence and len(lines[-1]) + 2 + len(evidence) <= width:
            lines[-1] += "  " + self._dim(evidence)
        else:
            wrapped = textwrap.wrap(evidence, width, break_on_hyphens=False)
            lines += [self._dim(line) for line in wrapped]
        if with_fix and finding.fix:
            lines.append(self.printable(finding.fix))
        word = f"{finding.severity:<{_WORD_COLUMNS}}"
        colour = _COLOURS[finding.severity]
        first = f"{colour}{word}{_RESET}" if self.colour and colour else word
        return [first + lines[0], *(" " * _WORD_COLUMNS + line for line in lines[1:])]

    def _dim(self, text: str) -> str:
        return f"{_DIM}{text}{_RESET}" if self.colour else text

    @staticmethod
    def printable(line: str) -> str:
        """The line without control characters: names of models, files and processes may have some."""
        text = " ".join(line.split()) if "\n" in line else line
        return printable(text)
