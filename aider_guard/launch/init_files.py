"""Decides what ``init`` suggests, from the user's files, the cards and the models, and replaces files safely."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from aider_guard.catalogue import catalogue_entries, find
from aider_guard.core.fit import Card
from aider_guard.core.model_memory import Candidate
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch import model_choice
from aider_guard.launch.conf_file import (
    CONF_NAME,
    SETTINGS_NAME,
    Extended,
    Setting,
    extend_conf,
    extend_entries,
    pinned_windows,
    read_conf,
    read_entries,
)
from aider_guard.launch.model_choice import (
    CandidateModel,
    ModelPlan,
    candidate_models,
    choose,
    left_out,
    plan_for,
)
from aider_guard.launch.repository import TestCommand
from aider_guard.launch.server_runtime import candidates_of, runtime_of
from aider_guard.paths import work_tree


@dataclass(frozen=True)
class Change:
    """A file's new content; ``old`` is its content before, None for a file that was not there."""

    path: Path
    old: bytes | None
    new: bytes


@dataclass(frozen=True)
class Replaced:
    """A file that has its new content; ``backup`` holds the old, None for a new file."""

    path: Path
    backup: Path | None


def read_file(path: Path) -> bytes | Unavailable | None:
    """Read a file; None when there is none. A link is followed."""
    try:
        if path.exists() and not path.is_file():
            return Unavailable(f"{path} is not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unavailable(f"{path} cannot be read ({(error.strerror or str(error)).lower()})")


def replace_files(changes: Sequence[Change]) -> tuple[Replaced, ...] | Unavailable:
    """Write all files, or none when one cannot be written. Backups never replace a file.

    Everything is on the disk before the first file is renamed into its place. A file that is a link stays one: its
    target is replaced. The mode is kept.
    """
    finished: list[Replaced] = []
    with ExitStack() as undo:
        try:
            stacks = [undo.enter_context(ExitStack()) for _ in changes]
            staged = [_stage(*pair) for pair in zip(changes, stacks, strict=True)]
            for stack, (temporary, replaced) in zip(stacks, staged, strict=True):
                temporary.replace(replaced.path)
                stack.pop_all()  # its backup stays
                finished.append(replaced)
        except OSError as error:
            reason = error.strerror.lower() if error.strerror else str(error)
            file = f"{error.filename}: " if error.filename else ""
            names = ", ".join(str(replaced.path) for replaced in finished)
            outcome = f"only {names} was written" if finished else "nothing was written"
            return Unavailable(f"{file}{reason}; {outcome}")
    return tuple(finished)


def _stage(change: Change, undo: ExitStack) -> tuple[Path, Replaced]:
    """Write the new content into a file beside the old one, and the backup. Raises OSError."""
    target = Path(os.path.realpath(change.path))
    mode = None if change.old is None else stat.S_IMODE(target.stat().st_mode)
    if change.old is not None and target.read_bytes() != change.old:
        raise OSError(f"{change.path} was changed by another program meanwhile")
    if change.old is None and target.exists():
        raise OSError(f"{change.path} was made by another program meanwhile")
    backup = None
    if change.old is not None:
        backup = _write_new(target, ".bak", change.old, mode, undo)
    temporary = _write_new(target, ".new", change.new, mode, undo)
    return temporary, Replaced(target, backup)


def _write_new(
    target: Path, suffix: str, content: bytes, mode: int | None, undo: ExitStack
) -> Path:
    """Write a file that was not there, under the first free name."""
    for number in count():
        path = target.with_name(f"{target.name}{suffix}{f'.{number}' if number else ''}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode or 0o666)
        except FileExistsError:
            continue
        undo.callback(_remove, path)
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


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # renamed into its place, or on a disk that takes nothing
        path.unlink()


_HOME = "~/"


@dataclass(frozen=True)
class InitFolder:
    """The folder that is written to, and the settings in the user's files there and in the home folder."""

    folder: Path
    in_git: bool
    contents: Mapping[str, bytes | None]
    conf: Mapping[object, Any]
    entries: Sequence[Mapping[str, Any]]
    home_conf: Mapping[object, Any]
    home_entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ModelAdvice:
    """The suggested models. ``named`` are the user's own by role; ``better`` is a preferred one to pull.

    ``left_out`` are installed models that were not chosen, each with the reason.
    """

    plan: ModelPlan | Unavailable
    named: Mapping[str, str]
    better: CandidateModel | None = None
    left_out: tuple[tuple[str, str], ...] = ()


def read_folder(start: Path, home: Path) -> InitFolder | Unavailable:
    """Read the settings that Aider would read in the git work tree around *start*, else in *start* itself."""
    start = start.absolute()
    root = work_tree(start)
    folder = root or start
    is_home = home.resolve() == folder.resolve()
    contents: dict[str, bytes | None] = {}
    settings: list[Any] = []
    for prefix, place in (("", folder), (_HOME, home)):
        for name, read in ((CONF_NAME, read_conf), (SETTINGS_NAME, read_entries)):
            content = None if prefix and is_home else read_file(place / name)
            if isinstance(content, Unavailable):
                return content
            parsed: Any = read(prefix + name, content)
            if isinstance(parsed, Unavailable):
                return parsed
            contents[prefix + name] = content
            settings.append(parsed)
    return InitFolder(folder, root is not None, contents, *settings)


def advise(
    target: InitFolder,
    report: ServerReport,
    cards: Sequence[Card],
    corrections: Mapping[str, int],
) -> ModelAdvice:
    """Suggest models: those that the user's files name, with the window for them; else the ones that suit the cards."""
    users_models = model_choice.named_models({**target.home_conf, **target.conf})
    ollama_names = model_choice.names_for_ollama(users_models)
    if ollama_names is None:
        why = f"not all of your models run on Ollama: {', '.join(users_models.values())}"
        return ModelAdvice(Unavailable(why), users_models)
    runtime = runtime_of(report)
    models = _models_to_choose_from(report, corrections, ollama_names.values())
    choice = choose(models, cards, runtime)
    if not ollama_names:
        best = choose([replace(model, installed=False) for model in models], cards, runtime)
        better = None
        others: tuple[tuple[str, str], ...] = ()
        if isinstance(choice, ModelPlan):
            others = left_out(choice, models, cards, runtime)
        if isinstance(choice, ModelPlan) and isinstance(best, ModelPlan):
            better = next(model for model in models if model.name == best.main.name)
            better = None if better == choice.main else better
        return ModelAdvice(choice, users_models, better, others)
    if "main" not in ollama_names:
        if isinstance(choice, Unavailable):
            return ModelAdvice(choice, users_models)
        ollama_names = {"main": choice.main.name, **ollama_names}
    return ModelAdvice(plan_for(ollama_names, models, cards, runtime), users_models)


def _models_to_choose_from(
    report: ServerReport, corrections: Mapping[str, int], users_names: Iterable[str]
) -> tuple[CandidateModel, ...]:
    """The installed models whose needs can be computed (those of a stub of a cloud model cannot), all models of the
    catalogue, and these again under the user's own names for them.
    """
    installed: list[Candidate] = []
    for name, facts in report.models.items():
        answer = candidates_of(replace(report, models={name: facts}), corrections)
        installed += () if isinstance(answer, Unavailable) else answer
    catalogue = [entry.candidate for entry in catalogue_entries()]
    named = ((name, find(name)) for name in users_names)
    catalogue += [replace(entry.candidate, name=name) for name, entry in named if entry]
    return candidate_models(installed, catalogue)


def extend(
    target: InitFolder, advice: ModelAdvice, tests: Sequence[TestCommand], header: str
) -> dict[str, Extended] | Unavailable:
    """Both files by name, extended by the suggestions about which the user decided nothing."""
    plan = advice.plan if isinstance(advice.plan, ModelPlan) else None
    settings = extend_entries(
        SETTINGS_NAME,
        target.contents[SETTINGS_NAME],
        model_choice.window_entries(plan.window_tokens) if plan else [],
        header=header,
        elsewhere=[(_HOME + SETTINGS_NAME, target.home_entries)],
    )
    if isinstance(settings, Unavailable):
        return settings
    conf = extend_conf(
        CONF_NAME,
        target.contents[CONF_NAME],
        _for_models(target, plan, advice) + model_choice.habits(tests[0] if tests else None),
        header=header,
        elsewhere=[(_HOME + CONF_NAME, target.home_conf)],
    )
    if isinstance(conf, Unavailable):
        return conf
    return {CONF_NAME: conf, SETTINGS_NAME: settings}


def _for_models(target: InitFolder, plan: ModelPlan | None, advice: ModelAdvice) -> list[Setting]:
    if plan is None:
        return []
    entries = [*target.home_entries, *target.entries]
    pinned = pinned_windows(entries, [model.name for model in plan.models])
    window = min([plan.window_tokens, *pinned])
    return model_choice.model_settings(plan, architect=not advice.named, window_tokens=window)


def changes(target: InitFolder, extended: Mapping[str, Extended]) -> tuple[Change, ...]:
    """The files that get new content."""
    return tuple(
        Change(target.folder / name, target.contents[name], file.content)
        for name, file in extended.items()
        if file.added
    )
