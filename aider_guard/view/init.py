"""``aider-guard init``: what is suggested for this card and repository, as a diff; written only when told."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.serverfacts import ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.initial import advise, cards_for, changes, extend, look
from aider_guard.launch.rewriting import replace_files
from aider_guard.launch.surroundings import ask_server, read_memory
from aider_guard.launch.test_commands import find_test_commands
from aider_guard.sidecar.names import DEFAULT_BASE
from aider_guard.view import init_text as text

_VRAM = re.compile(r"(?:([1-9]\d?)[x*])?(\d{1,4}(?:\.\d{1,3})?)", re.ASCII)


def run_init(
    *,
    vram_gib: Sequence[float],
    write: bool,
    folder: Path,
    ollama: str = DEFAULT_BASE,
    server: Callable[[str], ServerReport] = ask_server,
    memory: Callable[[], MemoryReading] = read_memory,
    corrections: Mapping[str, int] | None = None,
    home: Path | None = None,
    out: TextIO | None = None,
    colour: bool | None = None,
) -> int:
    """Suggest, and with *write* write, ``.aider.conf.yml`` and model settings for the git work tree around *folder*.

    *vram_gib* has one size for each card, none for the cards that are found; *ollama* is the server's URL and
    *corrections* are bytes by canonical name (launch/learned.py). The exit status is 1 when a file of the user's
    cannot be read or extended, when no model fits, or when the files cannot be written; they are as they were then.
    Raises ConfigError when the memory of the GPU is not known.
    """
    out = out or sys.stdout
    place = look(folder, home or Path.home())
    if isinstance(place, Unavailable):
        return _refused(place)
    report = server(ollama)
    cards = cards_for(vram_gib, report, memory)
    if isinstance(cards, Unavailable):
        raise ConfigError(
            f"the GPU's memory is not known ({cards.reason}): name it in GiB, for example --vram 16"
        )
    advised = advise(place, report, cards, corrections or {})
    if isinstance(advised.plan, Unavailable) and not advised.named:
        return _refused(advised.plan)
    tests = find_test_commands(place.folder)
    extended = extend(place, advised, tests, text.header(cards))
    if isinstance(extended, Unavailable):
        return _refused(extended)
    out.write(text.chosen(place, advised, cards, report, tests))
    out.write(text.kept(extended.values()))
    wanted = changes(place, extended)
    out.write(text.diffs(wanted, colour=_wants_colour(out, colour)))
    done = replace_files(wanted) if write else ()
    if isinstance(done, Unavailable):
        return _refused(done)
    out.write(text.ending(wanted, done))
    return 0


def parse_vram(sizes: Sequence[str]) -> tuple[float, ...]:
    """The sizes of cards in GiB: ``16``, ``7.5``, ``2x24`` for two of them. Raises ConfigError."""
    found: list[float] = []
    for written in sizes:
        match = _VRAM.fullmatch(written.strip().lower())
        if match is None or not float(match[2]):
            raise ConfigError(
                f"--vram: {written!r} is no size of a card in GiB; write 16, or 2x24 for two cards"
            )
        found += [float(match[2])] * int(match[1] or 1)
    return tuple(found)


def _refused(why: Unavailable) -> int:
    sys.stderr.write(f"aider-guard: {why.reason}\n")
    return 1


def _wants_colour(out: TextIO, asked: bool | None) -> bool:
    """As https://no-color.org has it: NO_COLOR holds when it is not empty."""
    if asked is not None:
        return asked
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
