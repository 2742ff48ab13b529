"""Opens a kept session again: finds it, looks where its files are now, and selects the exchanges to carry on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aider_guard.core.actions import CountTexts, Notice
from aider_guard.core.chatlog import Exchange, last_exchanges
from aider_guard.core.events import TextsCounted
from aider_guard.core.messages import count
from aider_guard.core.printable import printable
from aider_guard.counting.files import FileCounter
from aider_guard.errors import ConfigError
from aider_guard.paths import work_tree
from aider_guard.session.kept_sessions import (
    KeptSession,
    kept_sessions,
    local_time,
    read_chat,
    still_runs,
)
from aider_guard.session.launches import Resumed, estimate_tokens, limit_tokens

_GIT_SECONDS: Final = 5.0
_FILE_OPTIONS: Final = ("--file", "--read")
"""The options of Aider's that take a file of the chat (args.py 0.86.2); other files stand alone."""
# The repository may be a stranger's: nothing that its configuration names may run outside the air gap.
_GIT: Final = (
    *("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false"),
    *("-c", "core.quotePath=false"),
)
_MOST_CHANGES: Final = 4
_RENAMES: Final = ("-M", "--diff-filter=R", "--name-status", "-z")


def kept_in(sessions: Path, place: str | None) -> list[KeptSession]:
    """Return the sessions with this name, or those of the folder or its work tree, the newest first.

    Without a place it is the working folder.
    """
    kept = kept_sessions(sessions)
    named = [session for session in kept if session.id == place]
    return named or [session for session in kept if is_of(session.folder, place)]


def is_of(folder: str, place: str | None) -> bool:
    """Return whether a session's folder is in the work tree of a place, by default of the working folder.

    A place that is no folder has no work tree: it may be a misspelt name, which must not open another session of the
    repository that it is typed in. Only sessions of that very folder are its own, for one that was removed.
    """
    where = os.path.realpath(os.path.expanduser(place or "."))
    if not os.path.isdir(where):
        return os.path.realpath(folder) == where
    return _work_tree_of(folder) == _work_tree_of(where)


def _work_tree_of(folder: str) -> str:
    """Return the top folder of the work tree that a folder belongs to, else the folder."""
    real = os.path.realpath(folder)
    return str(work_tree(Path(real)) or real)


def choose(sessions: Path, place: str | None) -> KeptSession:
    """Return the session to resume: the one that is named, or the newest of a folder that ended.

    Raises ConfigError where there is none.
    """
    found = kept_in(sessions, place)
    ended = [session for session in found if not still_runs(sessions, session)]
    if ended:
        return ended[0]
    if found:
        raise ConfigError(
            f"the session {found[0].id} still runs; aider-guard status shows it, and /exit in its terminal ends it"
        )
    others = kept_sessions(sessions)
    if not others:
        raise ConfigError("no session was kept; aider-guard -- starts one")
    ids = ", ".join(session.id for session in others[:5])
    where = f"of {place}" if place else "of this folder"
    raise ConfigError(f"no session {where} was kept; the newest of others are: {ids}")


# Files


@dataclass(frozen=True)
class FoundFiles:
    """The files of a chat as they are now: those that are there, those renamed (old and new name), those gone.

    ``arguments`` are Aider's, with the names that files have now.
    """

    editable: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    gone: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def find_files(kept: KeptSession) -> FoundFiles:
    """Look for the files of a chat, under their new names where git knows that they were renamed since."""
    handoff, root = kept.handoff, kept.root or kept.folder
    names = (*handoff.editable, *handoff.read_only)
    missing = [name for name in names if not os.path.lexists(os.path.join(root, name))]
    given = {word: os.path.join(kept.folder, word) for word in kept.files_given}
    lost = {word: path for word, path in given.items() if not os.path.lexists(path)}
    moves = renames_since(root, kept.saved_at) if missing or lost else {}
    moved = {word: _moved(os.path.relpath(path, root), moves, root) for word, path in lost.items()}
    now = {
        word: new and os.path.relpath(os.path.join(root, new), kept.folder)
        for word, new in moved.items()
    }
    renamed = {name: new for name in missing if (new := _moved(name, moves, root))}
    gone = tuple(name for name in missing if name not in renamed)
    editable, read_only = (
        tuple(dict.fromkeys(renamed.get(name, name) for name in listed if name not in gone))
        for listed in (handoff.editable, handoff.read_only)
    )
    arguments = with_files_now(kept.arguments, now)
    return FoundFiles(editable, read_only, tuple(renamed.items()), gone, arguments)


def with_files_now(arguments: Sequence[str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return Aider's arguments with the new names of files that were renamed, and without those that are gone.

    Aider would create an empty file for a name that is gone. *now* has the new name of each, "" where there is none.
    """
    kept: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument in now:
            if now[argument]:
                kept.append(now[argument])
            elif kept and kept[-1] in _FILE_OPTIONS:
                kept.pop()
        elif option in _FILE_OPTIONS and equals and value in now:
            kept += [f"{option}={now[value]}"] if now[value] else []
        else:
            kept.append(argument)
    return tuple(kept)


def _moved(name: str, moves: Mapping[str, str], root: str) -> str:
    """Return where a file is now, after any number of renames; "" where it is gone."""
    seen = set()
    while name in moves and name not in seen:
        seen.add(name)
        name = moves[name]
    return name if seen and os.path.lexists(os.path.join(root, name)) else ""


def renames_since(root: str, seconds: float) -> dict[str, str]:
    """Return the new name of each file that git saw renamed since a time, in commits and in the index.

    Empty where git cannot tell.
    """
    since = f"--since=@{int(seconds)}"
    commits = _git(root, "log", since, "--reverse", "--format=", *_RENAMES)
    index = _git(root, "diff-index", "--cached", *_RENAMES, "HEAD")
    return {**_pairs(commits), **_pairs(index)}


def _pairs(fields: Sequence[str]) -> dict[str, str]:
    """Return the new names by the old ones: git writes a status such as ``R100``, the old and the new name for each."""
    words = [field.lstrip("\n") for field in fields if field.lstrip("\n")]
    return dict(zip(words[1::3], words[2::3], strict=False))


def _git(root: str, *arguments: str) -> list[str]:
    environment = {
        **os.environ,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }
    try:
        done = subprocess.run(
            [*_GIT, "-C", root, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return os.fsdecode(done.stdout).split("\0")


# Exchanges


def select_exchanges(
    chat: Sequence[Exchange], keep: float, window_tokens: int | None, tokenizers: str
) -> tuple[Exchange, ...]:
    """Return the last exchanges within *keep* of the window, as Aider counts; estimated where that cannot be."""
    counter = FileCounter(tokenizers)
    try:
        texts = tuple(f"{exchange.user}\n{exchange.assistant}" for exchange in chat)
        counted = counter.count(CountTexts(0, texts)) if texts else None
    finally:
        counter.close()
    tokens = counted.tokens if isinstance(counted, TextsCounted) else ()
    if not isinstance(tokens, tuple) or len(tokens) != len(chat):
        tokens = tuple(estimate_tokens(exchange) for exchange in chat)
    return last_exchanges(chat, tokens, limit_tokens(keep, window_tokens))


def resume(
    sessions: Path, kept: KeptSession, *, keep: float, tokenizers: str
) -> tuple[tuple[str, ...], Resumed]:
    """Return the arguments for Aider, and what a new session takes over from a kept one; it runs in its folder."""
    chat = read_chat(sessions, kept)
    files = find_files(kept)
    carried = select_exchanges(chat.exchanges, keep, kept.window_tokens, tokenizers)
    handoff = replace(kept.handoff, editable=files.editable, read_only=files.read_only)
    lines = notice_lines(kept, files, len(carried))
    notice = Notice("resumed", lines)
    return files.arguments, Resumed(handoff, carried, chat.announced, chat.has_git, notice)


def notice_lines(kept: KeptSession, files: FoundFiles, exchanges: int) -> tuple[str, ...]:
    """Return what is said above the first prompt: what came back, and what did not."""
    known = count(len(files.editable) + len(files.read_only), "file")
    what = known if kept.handoff.known else "the files of the command line"
    spoken = "no exchange"
    if exchanges:
        spoken = f"the last {f'{exchanges} exchanges' if exchanges > 1 else 'exchange'}"
    lines = [f"resumed the session of {local_time(kept.saved_at)}: {what} and {spoken}"]
    changed = [f"{old} is {new} now" for old, new in files.renamed]
    changed += [f"{name} is gone, and was left out" for name in files.gone]
    lines += changed[:_MOST_CHANGES]
    if len(changed) > _MOST_CHANGES:
        lines.append(f"and {count(len(changed) - _MOST_CHANGES, 'other file')} renamed or gone")
    if kept.left_out:
        lines.append(f"not kept, as it may be secret: {', '.join(kept.left_out)}")
    return tuple(map(printable, lines))
