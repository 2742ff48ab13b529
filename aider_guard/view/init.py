"""``aider-guard init``: what is suggested for this card and repository, as a diff; written only when told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from aider_guard import paths
from aider_guard.config import Config
from aider_guard.core.fit import Card
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.detect_tests import find_test_commands
from aider_guard.launch.gathering import ask_server, read_memory_within
from aider_guard.launch.init_files import advise, changes, extend, gpus_here, look, replace_files
from aider_guard.launch.learned import read_corrections
from aider_guard.launch.ollama_address import may_be_asked, ollama_address
from aider_guard.view import init_text as text
from aider_guard.view.fit_models import named_cards

GIVE_VRAM = "give the card's memory in GiB: --vram 16"
_NO_AIDER = Unavailable("Aider is not asked")


def run_init(
    config: Config,
    *,
    vram: Sequence[str] = (),
    write: bool = False,
    folder: Path | None = None,
    home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str], ServerReport] = ask_server,
    memory: Callable[[], MemoryReading] = read_memory_within,
    state_dir: Path | None = None,
    out: TextIO | None = None,
    colour: bool | None = None,
) -> int:
    """Suggest, and with *write* write, ``.aider.conf.yml`` and model settings for the git work tree around *folder*.

    *vram* names cards by their GiB (``16``, ``2x24``), else those of this machine are taken, with what others leave
    free. The exit status is 1 when a file of the user's cannot be read or extended, when no model fits, or when the
    files cannot be written; they are as they were then.

    Raises:
        ConfigError: *vram* is no size, or there is none and the memory of the GPU is not known.
    """
    out = out or sys.stdout
    cards = named_cards(vram)
    place = look(folder or Path.cwd(), home or Path.home())
    if isinstance(place, Unavailable):
        return _refused(place)
    report = _server(config, environment, ask)
    cards = cards or _cards_here(report, memory)
    corrections = read_corrections(state_dir or paths.state_dir())
    advised = advise(place, report, cards, corrections)
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


def _server(
    config: Config, environment: Mapping[str, str], ask: Callable[[str], ServerReport]
) -> ServerReport:
    """The server where the guard would look for it without Aider's help."""
    if may_be_asked(config, _NO_AIDER, environment):
        return ask(ollama_address(config, _NO_AIDER, environment))
    no = Unavailable("Ollama's own cloud is not asked")
    return ServerReport(
        base="",
        is_local=False,
        version=no,
        installed=no,
        loaded=no,
        cloud_disabled=no,
        process=no,
    )


def _cards_here(report: ServerReport, memory: Callable[[], MemoryReading]) -> tuple[Card, ...]:
    cards = gpus_here(report, memory)
    if isinstance(cards, Unavailable):
        raise ConfigError(f"{cards.reason}; {GIVE_VRAM}")
    return cards


def _refused(why: Unavailable) -> int:
    sys.stderr.write(f"aider-guard: {why.reason}\n")
    return 1


def _wants_colour(out: TextIO, asked: bool | None) -> bool:
    """As https://no-color.org has it: NO_COLOR holds when it is not empty."""
    if asked is not None:
        return asked
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
