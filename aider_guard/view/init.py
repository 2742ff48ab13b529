"""Runs ``aider-guard init``: shows the settings suggested for this card and repository, and writes them on request."""

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
from aider_guard.core.printable import printable
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.conf_file import Extended
from aider_guard.launch.gathering import ask_server, read_memory
from aider_guard.launch.init_files import (
    Change,
    InitFolder,
    ModelAdvice,
    Replaced,
    advise,
    changes,
    extend,
    read_folder,
    replace_files,
)
from aider_guard.launch.model_choice import CandidateModel, ModelPlan
from aider_guard.launch.repository import TestCommand, find_test_commands
from aider_guard.launch.server_runtime import read_corrections
from aider_guard.view.fit_models import cards_here, named_cards, server_address
from aider_guard.view.page import columns_of, wrapped

_LABEL_COLUMNS = 10
_MOST_LEFT_OUT = 4
_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_CHANGED_LINE = re.compile(r"^([-+@]).*", re.MULTILINE)


def header(cards: Sequence[Card]) -> str:
    """The comment above the lines that are added."""
    return (
        f"aider-guard init, for {_sizes(cards)} of GPU memory. Change what you like: init never changes lines that\n"
        "are there. Delete these to let it choose again."
    )


def choice_text(
    target: InitFolder,
    advice: ModelAdvice,
    cards: Sequence[Card],
    report: ServerReport,
    tests: Sequence[TestCommand],
    *,
    columns: int = 0,
) -> str:
    """Models, window and tests, with the reasons, a line each; broken at *columns* where that is not 0."""
    lines = [] if target.in_git else [f"not in a git repository: this is for {target.folder}"]
    lines.append(f"for {_cards(cards)}:")
    if isinstance(report.installed, Unavailable):
        lines.append(f"  {report.installed.reason}; the models are from the catalogue")
    pulls: list[str] = []
    if isinstance(advice.plan, Unavailable):
        lines.append(f"  no window is suggested: {advice.plan.reason}")
    else:
        lines += [f"  {label:<8}{words}" for label, words in _of_plan(advice.plan, cards)]
        pulls = [f"ollama pull {name}" for name in advice.plan.to_pull]
    lines += _left_out(advice.left_out)
    found = "none found, so no test-cmd is suggested"
    if tests:
        others = ", ".join(test.command for test in tests[1:])
        more = f"; also found: {others}" if others else ""
        found = f"{tests[0].command} ({tests[0].evidence}){more}"
    lines.append(f"  {'tests':<8}{found}")
    if advice.better is not None:
        lines.append(f"  a model that is better at code fits too: ollama pull {advice.better.name}")
    lines = [*wrapped(lines, columns, _LABEL_COLUMNS)]
    return _text([*lines, "before the first start:", *pulls] if pulls else lines)


def _text(lines: Iterable[str]) -> str:
    """The lines without control characters, which names of files and models may have."""
    return "".join(printable(line, kept="\t") + "\n" for line in lines)


def _of_plan(plan: ModelPlan, cards: Sequence[Card]) -> Iterator[tuple[str, str]]:
    yield "main", f"{_name(plan.main)}: {plan.reason}"
    if plan.editor is not None:
        yield "editor", f"{_name(plan.editor)}: fits beside the main model, for architect mode"
    role = {plan.editor: "editor", plan.main: "main"}.get(plan.weak)
    yield "weak", f"the {role} model, so that no other is loaded" if role else _name(plan.weak)
    weights = sum(need.weights_bytes for need in plan.fit.needs)
    cache = sum(need.kv_bytes for need in plan.fit.needs)
    free = sum(card.free_bytes for card in cards)
    each = " for each" if len(plan.models) > 1 else ""
    needs = f"weights {size(weights)} and cache {size(cache)} in {size(free)}"
    turns = "" if plan.fit.fits else "; not at once: each hand-over loads a model"
    yield "window", f"{plan.window_tokens:,} tokens{each}: {needs}{turns}"


def _left_out(models: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The first of the installed models that were not chosen, each with the reason, and how many more there are."""
    for number, (name, why) in enumerate(models[:_MOST_LEFT_OUT]):
        yield f"  {'' if number else 'others':<8}{name}: {why}"
    if len(models) > _MOST_LEFT_OUT:
        yield f"  {'':<8}and {len(models) - _MOST_LEFT_OUT} more"


def _name(model: CandidateModel) -> str:
    return model.name if model.installed else f"{model.name} (not installed yet)"


def kept_text(files: Iterable[Extended]) -> str:
    """The user's own settings that differ from the suggestions."""
    lines = []
    for kept in (kept for file in files for kept in file.kept):
        suggestion = "; ".join(filter(None, (f"suggested: {kept.suggested}", kept.problem)))
        lines.append(f"  {kept.key}: {kept.value} in {kept.where} ({suggestion})")
    return _text(["your own settings, which stay:", *lines] if lines else [])


def diff_text(changes: Sequence[Change], *, colour: bool) -> str:
    """The changes as ``diff -u`` shows them."""
    lines: list[str] = []
    for change in changes:
        name = change.path.name
        before = "/dev/null" if change.old is None else name
        for line in unified_diff(_lines(change.old or b""), _lines(change.new), before, name):
            lines.append(line.rstrip("\r\n"))
            if not line.endswith(("\n", "\r")):
                lines.append("\\ No newline at end of file")
    text = _text(lines)
    if not colour:
        return text
    return _CHANGED_LINE.sub(lambda line: f"{_COLOURS[line[1]]}{line[0]}\x1b[0m", text)


def _lines(content: bytes) -> list[str]:
    """The lines with their ends: those that YAML knows, which are fewer than Python's."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", content.decode("utf-8"))


def outcome_text(suggested: Sequence[Change], written: Sequence[Replaced]) -> str:
    """The last lines: what was written, or how to write it."""
    if not suggested:
        return "nothing to add\n"
    if not written:
        return "nothing was written; to write this: aider-guard init --write\n"
    return _text(
        f"{file.path} was written{f'; the old file is {file.backup.name}' if file.backup else ''}"
        for file in written
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
    groups = [(card_size, len(list(equal))) for card_size, equal in groupby(sizes)]
    return " + ".join(
        f"{number}x{card_size}" if number > 1 else card_size for card_size, number in groups
    )


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f}".removesuffix(".0") + " GiB"


def run_init(
    config: Config,
    *,
    vram: Sequence[str] = (),
    write: bool = False,
    folder: Path | None = None,
    home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str], ServerReport] = ask_server,
    memory: Callable[[], MemoryReading] = read_memory,
    state_dir: Path | None = None,
    out: TextIO | None = None,
    colour: bool | None = None,
) -> int:
    """Suggest ``.aider.conf.yml`` and model settings for the git work tree around *folder*; write them with *write*.

    *vram* gives cards by their GiB (``16``, ``2x24``); without it this machine's are taken, with what other programs
    leave free. The exit status is 1 when a file of the user's cannot be read or extended, when no model fits, or when
    the files cannot be written; the files are then as they were.

    Raises:
        ConfigError: *vram* is no size, or there is none and the memory of the GPU is not known.
    """
    out = out or sys.stdout
    cards = named_cards(vram)
    target = read_folder(folder or Path.cwd(), home or Path.home())
    if isinstance(target, Unavailable):
        return _fail(target)
    base = server_address(config, environment)
    report = _no_report(base) if isinstance(base, Unavailable) else ask(base)
    cards = cards or cards_here(report, memory)
    corrections = read_corrections(state_dir or paths.state_dir())
    advice = advise(target, report, cards, corrections)
    if isinstance(advice.plan, Unavailable) and not advice.named:
        return _fail(advice.plan)
    tests = find_test_commands(target.folder)
    extended = extend(target, advice, tests, header(cards))
    if isinstance(extended, Unavailable):
        return _fail(extended)
    out.write(choice_text(target, advice, cards, report, tests, columns=columns_of(out)))
    out.write(kept_text(extended.values()))
    suggested = changes(target, extended)
    out.write(diff_text(suggested, colour=_wants_colour(out) if colour is None else colour))
    written = replace_files(suggested) if write else ()
    if isinstance(written, Unavailable):
        return _fail(written)
    out.write(outcome_text(suggested, written))
    return 0


def _no_report(no: Unavailable) -> ServerReport:
    return ServerReport(
        base="", is_local=False, version=no, installed=no, loaded=no, cloud_disabled=no, process=no
    )


def _fail(problem: Unavailable) -> int:
    sys.stderr.write(f"aider-guard: {printable(problem.reason)}\n")
    return 1


def _wants_colour(out: TextIO) -> bool:
    """Whether a terminal gets colours. As https://no-color.org says, an empty NO_COLOR does not count."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
