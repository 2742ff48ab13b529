"""``aider-guard init``: what is suggested for this card and repository, as a diff; written only when told."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import unified_diff
from itertools import groupby
from pathlib import Path
from typing import TextIO

from aider_guard import paths
from aider_guard.config import Config
from aider_guard.core.fit import Card
from aider_guard.core.messages import size
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.conf_file import Extended, Kept
from aider_guard.launch.detect_tests import TestCommand, find_test_commands
from aider_guard.launch.gathering import ask_server, read_memory_within
from aider_guard.launch.init_files import (
    Change,
    InitFolder,
    ModelAdvice,
    Replaced,
    advise,
    changes,
    extend,
    gpus_here,
    look,
    replace_files,
)
from aider_guard.launch.learned import read_corrections
from aider_guard.launch.model_choice import CandidateModel, ModelPlan
from aider_guard.launch.ollama_address import may_be_asked, ollama_address
from aider_guard.view.fit_models import named_cards

# The words of ``aider-guard init``: what was chosen and why, what is kept, the diff, what was written.

_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_PLAIN = "\x1b[0m"


def header(cards: Sequence[Card]) -> str:
    """The comment above the lines that are added."""
    return (
        f"aider-guard init, for {_sizes(cards)} of GPU memory. Change what you like: lines that are there are never\n"
        "touched again. Without these lines, init chooses anew."
    )


def chosen(
    place: InitFolder,
    advised: ModelAdvice,
    cards: Sequence[Card],
    report: ServerReport,
    tests: Sequence[TestCommand],
) -> str:
    """Models, window and tests, with the reasons, a line each."""
    lines = [] if place.in_git else [f"not in a git repository: this is for {place.folder}"]
    lines.append(f"for {_cards(cards)}:")
    if isinstance(report.installed, Unavailable):
        lines.append(f"  {report.installed.reason}; the models are from the catalogue")
    match advised.plan:
        case Unavailable(reason):
            lines.append(f"  no window is suggested: {reason}")
        case plan:
            lines += [f"  {label:<8}{words}" for label, words in _of_plan(plan, cards)]
    lines.append(f"  {'tests':<8}{_tests(tests)}")
    if advised.better is not None:
        lines.append(f"  a preferred model would fit as well: ollama pull {advised.better.name}")
    if isinstance(advised.plan, ModelPlan):
        pulls = [f"ollama pull {name}" for name in advised.plan.to_pull]
        lines += ["before the first start:", *pulls] if pulls else []
    return _text(lines)


def _text(lines: Iterable[str]) -> str:
    """The lines; what moves the cursor is shown as a sign, since names of files and models may hold it."""
    return "".join(
        "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line)
        + "\n"
        for line in lines
    )


def _of_plan(plan: ModelPlan, cards: Sequence[Card]) -> Iterator[tuple[str, str]]:
    yield "main", f"{_offer(plan.main)}: {plan.reason}"
    if plan.editor is not None:
        yield "editor", f"{_offer(plan.editor)}: fits beside it, so the architect has an editor"
    shared = next(
        (
            role
            for role, offer in (("main", plan.main), ("editor", plan.editor))
            if offer == plan.weak
        ),
        None,
    )
    same = f"the {shared} model, so that no other is loaded" if shared else _offer(plan.weak)
    yield "weak", same
    weights = sum(need.weights_bytes for need in plan.fit.needs)
    cache = sum(need.kv_bytes for need in plan.fit.needs)
    free = sum(card.free_bytes for card in cards)
    each = " for each" if len(plan.offers) > 1 else ""
    takes = f"weights {size(weights)} and cache {size(cache)} in {size(free)}"
    turns = "" if plan.fit.fits else "; not at once: a model is loaded at each hand-over"
    yield "window", f"{plan.window_tokens:,} tokens{each}: {takes}{turns}"


def _offer(offer: CandidateModel) -> str:
    return offer.name if offer.installed else f"{offer.name} (not installed yet)"


def _tests(tests: Sequence[TestCommand]) -> str:
    if not tests:
        return "none found, so no test-cmd is suggested"
    first, *others = tests
    more = f"; also found: {', '.join(other.command for other in others)}" if others else ""
    return f"{first.command} ({first.evidence}){more}"


def kept(files: Iterable[Extended]) -> str:
    """What the user has set otherwise, each with what is suggested."""
    found = [one for file in files for one in file.kept]
    lines = [f"  {_kept(one)}" for one in found]
    return _text(["yours, kept:", *lines] if lines else [])


def _kept(one: Kept) -> str:
    problem = f"; {one.problem}" if one.problem else ""
    return f"{one.key}: {one.value} in {one.where} (suggested: {one.suggested}{problem})"


def diffs(changes: Sequence[Change], *, colour: bool) -> str:
    """What would change, as ``diff -u`` shows it."""
    text = _text(line for change in changes for line in _diff(change))
    if not colour:
        return text
    return "".join(f"{_coloured(line)}\n" for line in text.splitlines())


def _diff(change: Change) -> Iterator[str]:
    name = change.path.name
    before = "/dev/null" if change.old is None else name
    for line in unified_diff(_lines(change.old or b""), _lines(change.new), before, name):
        yield line.rstrip("\r\n")
        if not line.endswith(("\n", "\r")):
            yield "\\ No newline at end of file"


def _lines(content: bytes) -> list[str]:
    """The lines with their ends, which are those of YAML and not all that Python knows."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", content.decode("utf-8"))


def _coloured(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return f"{colour}{line}{_PLAIN}" if colour else line


def ending(wanted: Sequence[Change], done: Sequence[Replaced]) -> str:
    """What was written, or how to have it written."""
    if not wanted:
        return "nothing to add\n"
    if not done:
        return "nothing is written; aider-guard init --write writes it\n"
    return "".join(
        f"{one.path} is written{f'; as it was: {one.backup.name}' if one.backup else ''}\n"
        for one in done
    )


def _cards(cards: Sequence[Card]) -> str:
    if all(card.free_bytes == card.total_bytes for card in cards):
        return f"{_sizes(cards)} of GPU memory that nothing else uses"
    return ", ".join(
        f"{card.name} ({size(card.free_bytes)} of {_gib(card.total_bytes)} free for Ollama)"
        for card in cards
    )


def _sizes(cards: Sequence[Card]) -> str:
    """``24 GiB``, ``2x24 GiB``."""
    sizes = [_gib(card.total_bytes) for card in cards]
    groups = [(one, len(list(same))) for one, same in groupby(sizes)]
    return " + ".join(f"{number}x{one}" if number > 1 else one for one, number in groups)


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f}".removesuffix(".0") + " GiB"


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
    extended = extend(place, advised, tests, header(cards))
    if isinstance(extended, Unavailable):
        return _refused(extended)
    out.write(chosen(place, advised, cards, report, tests))
    out.write(kept(extended.values()))
    wanted = changes(place, extended)
    out.write(diffs(wanted, colour=_wants_colour(out, colour)))
    done = replace_files(wanted) if write else ()
    if isinstance(done, Unavailable):
        return _refused(done)
    out.write(ending(wanted, done))
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
