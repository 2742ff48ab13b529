"""What ``init`` would write, and why: the user's files, the cards and the models put together. Writes nothing."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from aider_guard.catalogue import find, published
from aider_guard.core.fit import Candidate, Card
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch import model_choice
from aider_guard.launch.conf_file import (
    CONF_NAME,
    SETTINGS_NAME,
    Extended,
    Setting,
    extend_conf,
    extend_entries,
    read_conf,
    read_entries,
    windows_pinned,
)
from aider_guard.launch.detect_tests import TestCommand
from aider_guard.launch.model_choice import CandidateModel, ModelPlan, choose, offers_of, plan_for
from aider_guard.launch.server_runtime import candidates_of, cards_of, runtime_of

# Giving files new content, all at once or not at all, with a copy of what was there.


@dataclass(frozen=True)
class Change:
    """A file's new content; ``old`` is what it was made from, None for a file that was not there."""

    path: Path
    old: bytes | None
    new: bytes


@dataclass(frozen=True)
class Replaced:
    """A file that has its new content; ``backup`` holds the old, None for a new file."""

    path: Path
    backup: Path | None


def read_file(path: Path) -> bytes | Unavailable | None:
    """A file's content, None when there is none; a link is followed."""
    try:
        if path.exists() and not path.is_file():
            return Unavailable(f"{path} is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unavailable(f"{path} cannot be read ({(error.strerror or str(error)).lower()})")


def replace_files(changes: Sequence[Change]) -> tuple[Replaced, ...] | Unavailable:
    """Write all files, or none when one cannot be written; backups never replace a file.

    Everything is on the disk before the first file is renamed into its place. A file that is a link stays one: what
    it leads to is replaced. The mode is kept.
    """
    done: list[Replaced] = []
    with ExitStack() as undo:
        try:
            staged = [(own := undo.enter_context(ExitStack()), *_stage(c, own)) for c in changes]
            for own, temporary, replaced in staged:
                temporary.replace(replaced.path)
                own.pop_all()  # its backup stays
                done.append(replaced)
        except OSError as error:
            said = error.strerror.lower() if error.strerror else str(error)
            names = ", ".join(str(replaced.path) for replaced in done)
            written = f"only {names} was written" if done else "nothing was written"
            return Unavailable(
                f"{f'{error.filename}: ' if error.filename else ''}{said}; {written}"
            )
    return tuple(done)


def _stage(change: Change, undo: ExitStack) -> tuple[Path, Replaced]:
    """The new content in a file beside its place, and the backup. Raises OSError."""
    place = Path(os.path.realpath(change.path))
    mode = None if change.old is None else stat.S_IMODE(place.stat().st_mode)
    if change.old is not None and place.read_bytes() != change.old:
        raise OSError(f"{change.path} was changed by another program meanwhile")
    if change.old is None and place.exists():
        raise OSError(f"{change.path} was made by another program meanwhile")
    backup = None
    if change.old is not None:
        backup = _first_free(place, ".bak", change.old, mode, undo)
    temporary = _first_free(place, ".new", change.new, mode, undo)
    return temporary, Replaced(place, backup)


def _first_free(
    place: Path, suffix: str, content: bytes, mode: int | None, undo: ExitStack
) -> Path:
    for number in count():
        path = place.with_name(f"{place.name}{suffix}{f'.{number}' if number else ''}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode or 0o666)
        except FileExistsError:
            continue
        undo.callback(_forget, path)
        _fill(descriptor, path, content, mode)
        return path
    raise AssertionError("count() does not end")


def _fill(descriptor: int, path: Path, content: bytes, mode: int | None) -> None:
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:  # a full disk's error names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # renamed into its place, or on a disk that takes nothing
        path.unlink()


_HOME = "~/"


@dataclass(frozen=True)
class InitFolder:
    """The folder that is written to, and what the user's files there and in the home folder hold."""

    folder: Path
    in_git: bool
    contents: Mapping[str, bytes | None]
    conf: Mapping[object, Any]
    entries: Sequence[Mapping[str, Any]]
    home_conf: Mapping[object, Any]
    home_entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ModelAdvice:
    """The models for this place. ``named`` are the user's own by role; ``better`` is a preferred one to pull."""

    plan: ModelPlan | Unavailable
    named: Mapping[str, str]
    better: CandidateModel | None = None


def look(start: Path, home: Path) -> InitFolder | Unavailable:
    """The git work tree around *start*, else *start* itself, and the settings that Aider would read there."""
    start = start.absolute()
    root = next((one for one in (start, *start.parents) if (one / ".git").exists()), None)
    folder = root or start
    contents: dict[str, bytes | None] = {}
    for name in (CONF_NAME, SETTINGS_NAME):
        for prefix, place in (("", folder), (_HOME, home)):
            same = prefix == _HOME and place.resolve() == folder.resolve()
            content = None if same else read_file(place / name)
            if isinstance(content, Unavailable):
                return content
            contents[prefix + name] = content
    confs = [read_conf(name, contents[name]) for name in (CONF_NAME, _HOME + CONF_NAME)]
    lists = [read_entries(name, contents[name]) for name in (SETTINGS_NAME, _HOME + SETTINGS_NAME)]
    for problem in (*confs, *lists):
        if isinstance(problem, Unavailable):
            return problem
    conf, home_conf = (one for one in confs if not isinstance(one, Unavailable))
    entries, home_entries = (one for one in lists if not isinstance(one, Unavailable))
    return InitFolder(folder, root is not None, contents, conf, entries, home_conf, home_entries)


def gpus_here(
    report: ServerReport, memory: Callable[[], MemoryReading]
) -> tuple[Card, ...] | Unavailable:
    """The cards that Ollama can use on this machine; main memory is no card."""
    if not report.is_local:
        return Unavailable("Ollama is on another machine, whose memory cannot be read")
    reading = memory()
    if isinstance(reading.gpus, Unavailable):
        return Unavailable(f"no GPU was found here ({reading.gpus.reason})")
    return cards_of(report, reading)


def advise(
    place: InitFolder, report: ServerReport, cards: Sequence[Card], corrections: Mapping[str, int]
) -> ModelAdvice:
    """The models: those that the user's files name, with the window for them; else the ones that suit the cards."""
    named = model_choice.named_models({**place.home_conf, **place.conf})
    names = model_choice.names_for_ollama(named)
    if names is None:
        listed = ", ".join(named.values())
        return ModelAdvice(Unavailable(f"your models are not all Ollama's: {listed}"), named)
    runtime = runtime_of(report)
    offers = offers_of(_installed(report, corrections), _catalogue(names.values()))
    chosen = choose(offers, cards, runtime)
    if not names:
        best = choose([replace(offer, installed=False) for offer in offers], cards, runtime)
        return ModelAdvice(chosen, named, _better(chosen, best, offers))
    if "main" not in names:
        if isinstance(chosen, Unavailable):
            return ModelAdvice(chosen, named)
        names = {"main": chosen.main.name, **names}
    return ModelAdvice(plan_for(names, offers, cards, runtime), named)


def _installed(report: ServerReport, corrections: Mapping[str, int]) -> list[Candidate]:
    """The models that Ollama has and whose needs can be computed; a stub of a cloud's has none."""
    answers = (
        candidates_of(replace(report, models={name: facts}), corrections)
        for name, facts in report.models.items()
    )
    return [one for answer in answers if not isinstance(answer, Unavailable) for one in answer]


def _catalogue(names: Iterable[str]) -> list[Candidate]:
    """All that is published, and entries that the user means by another name."""
    meant = [replace(entry.candidate, name=name) for name in names if (entry := find(name))]
    return [*(entry.candidate for entry in published()), *meant]


def _better(
    chosen: ModelPlan | Unavailable, best: ModelPlan | Unavailable, offers: Sequence[CandidateModel]
) -> CandidateModel | None:
    if isinstance(chosen, Unavailable) or isinstance(best, Unavailable):
        return None
    by_name = {offer.name: offer for offer in offers}
    main = by_name[best.main.name]
    return None if main == chosen.main else main


def extend(
    place: InitFolder, advised: ModelAdvice, tests: Sequence[TestCommand], header: str
) -> dict[str, Extended] | Unavailable:
    """Both files by name, with what is suggested and not decided by the user."""
    plan = advised.plan if isinstance(advised.plan, ModelPlan) else None
    settings = extend_entries(
        SETTINGS_NAME,
        place.contents[SETTINGS_NAME],
        model_choice.window_entries(plan.window_tokens) if plan else [],
        header=header,
        elsewhere=[(_HOME + SETTINGS_NAME, place.home_entries)],
    )
    conf = extend_conf(
        CONF_NAME,
        place.contents[CONF_NAME],
        [*_for_models(place, plan, advised), *model_choice.habits(tests[0] if tests else None)],
        header=header,
        elsewhere=[(_HOME + CONF_NAME, place.home_conf)],
    )
    for problem in (settings, conf):
        if isinstance(problem, Unavailable):
            return problem
    assert isinstance(settings, Extended)
    assert isinstance(conf, Extended)
    return {CONF_NAME: conf, SETTINGS_NAME: settings}


def _for_models(place: InitFolder, plan: ModelPlan | None, advised: ModelAdvice) -> list[Setting]:
    if plan is None:
        return []
    entries = [*place.home_entries, *place.entries]
    pinned = windows_pinned(entries, [offer.name for offer in plan.offers])
    window = min([plan.window_tokens, *pinned])
    return model_choice.model_settings(plan, architect=not advised.named, window_tokens=window)


def changes(place: InitFolder, extended: Mapping[str, Extended]) -> tuple[Change, ...]:
    """What would be written."""
    return tuple(
        Change(place.folder / name, place.contents[name], file.content)
        for name, file in extended.items()
        if file.added
    )
