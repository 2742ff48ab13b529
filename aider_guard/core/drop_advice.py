"""Chooses the one command that makes room in the chat, and tells what it frees."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aider_guard.core.readings import ContextReading, ContextRow

# File names as words of Aider's own commands, and the files that ``/drop`` really drops.
#
# From Aider 0.86.2, commands.py. ``parse_quoted_filenames`` splits by ``"(.+?)"|(\S+)``: there is no escape. ``/add``
# and ``/read-only`` take a name literally when such a file exists; ``/read-only`` expands ``~`` first. ``/drop``
# expands ``~``, and then a word drops
#
# * every read-only file whose absolute path CONTAINS the word, or that is the same file;
# * every editable file whose absolute path CONTAINS the word; but a word with one of ``*?[]`` is a glob below the root;
#   and only when nothing matched, the editable file of exactly that name.
#
# So ``/drop a.py`` also drops ``data.py``, but ``/drop ./a.py`` does not: no absolute path contains ``./``, unless a
# folder's name ends in a dot.

_GLOB = re.compile(r"[*?\[\]]")


@dataclass(frozen=True)
class ChatFile:
    """A file in the chat. ``name`` is its path as Aider prints it: from the root, or absolute."""

    name: str
    read_only: bool = False


def why_not(name: str) -> str:
    """Return why ``name`` cannot be given to Aider's commands, "" when it can."""
    if not name:
        return "it is empty"
    if re.search(r"[\n\r]", name):
        return "it holds a line break"
    if name.startswith('"'):
        return "it begins with a double quote"
    if '"' in name and re.search(r"\s", name):
        return "it holds a double quote and a blank"
    return ""


def quote_for_aider(name: str) -> str | None:
    """Return the word that Aider's commands read back as this name, None if there is none.

    A leading ``~`` would become the home folder, so such a name gets ``./`` before it.
    """
    if why_not(name):
        return None
    plain = f"./{name}" if name.startswith("~") else name
    return f'"{plain}"' if re.search(r"\s", plain) else plain


def dropped_by(name: str, files: Sequence[ChatFile], root: str = "") -> frozenset[ChatFile]:
    """Return the files of the chat that ``/drop`` with this word drops: unquoted, and not beginning with ``~``.

    ``root`` is the folder that names are relative to, absolute, links resolved; "" when unknown: then matches inside
    the root's own path are not seen.

    A glob is tried on the files in the chat only. Where another file of the repository matches it, Aider drops nothing
    for a word like ``[a].py``, which cannot be known here.
    """
    exact, paths = _absolute(name, root), {f: _absolute(f.name, root) for f in files}
    read_only = {f for f in files if f.read_only and (name in paths[f] or paths[f] == exact)}
    if _GLOB.search(name):
        matched = {f for f in files if _glob_matches(name, f.name)}
    else:
        matched = {f for f in files if not f.read_only and name in paths[f]}
    if not matched:
        matched = {f for f in files if paths[f] == exact}
    return frozenset(read_only | {f for f in matched if not f.read_only})


def word_for_drop(file: ChatFile, files: Sequence[ChatFile], root: str = "") -> str | None:
    """Return the (unquoted) word that drops ``file`` and the fewest others, its name where possible.

    None when no word drops it, or none can be written.
    """
    words = [word for word in _spellings(file, root) if not why_not(word)]
    useful = [word for word in words if file in dropped_by(word, files, root)]
    return min(useful, key=lambda word: len(dropped_by(word, files, root)), default=None)


def _spellings(file: ChatFile, root: str) -> Iterable[str]:
    plain = f"./{file.name}" if file.name.startswith("~") else file.name
    yield plain
    # A read-only file: Aider resolves the word against its current folder, maybe not the root.
    if not (file.read_only or posixpath.isabs(plain)):
        yield f"./{file.name}"
    if _GLOB.search(plain):
        yield re.sub(r"([*?\[])", r"[\1]", plain)
    if root:
        yield _absolute(file.name, root)


@cache
def _absolute(name: str, root: str) -> str:
    return posixpath.normpath(posixpath.join(root or "/", name))


def _glob_matches(pattern: str, name: str) -> bool:
    wanted, parts = posixpath.normpath(pattern).split("/"), name.split("/")
    return len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))


_WORTHWHILE = 0.9
"""When nothing suffices, the files that free this share of all that can be freed are named."""


@dataclass(frozen=True)
class Advice:
    """A command for the user to type, and what it frees.

    ``files`` and ``frees_tokens`` include the files that Aider drops along because their paths contain the word.
    ``frees_tokens`` is Aider's own estimate, below the counts of most models. Aider may fill some of the room with a
    larger map of the repository, which cannot be foreseen here.
    """

    command: str
    files: tuple[str, ...]
    frees_tokens: int
    fill_after_percent: float
    alternatives: tuple[Advice, ...] = ()

    @property
    def line(self) -> str:
        """The command with what it frees, as a line of a notice."""
        after = f"then {self.fill_after_percent:.0f} %"
        return f"{self.command}   (frees about {self.frees_tokens:,} tokens, {after})"


def advise(
    reading: ContextReading,
    *,
    window_tokens: int,
    used_tokens: int,
    last_seen: Mapping[str, int],
    turn: int,
    aim_percent: float,
    root: str = "",
) -> Advice | None:
    """Return the command that brings the fill below ``aim_percent`` of the window with the least harm.

    It is None when the fill is below that already, or nothing can be freed. ``used_tokens`` are those of the last
    request and its answer, ``last_seen`` has the turn of each file's last mention or edit (a missing one: never),
    ``turn`` is the last finished one, and ``root`` the folder that names are relative to (absolute, links resolved; ""
    when unknown).

    It names the fewest files that suffice; among as many, those that were not mentioned or edited for longest.
    Read-only files (conventions) are named only when the others do not suffice, and files of the last turn only when
    ``/clear`` does not suffice either. ``/clear`` comes first when the history is larger than all files together. When
    nothing suffices, it is the command that frees most.
    """
    need = used_tokens - aim_percent * window_tokens / 100
    if need < 0:
        return None
    drops = _possible_drops(reading, last_seen, turn, root)
    history = sum(row.tokens for row in reading.rows if row.kind == "history")
    files = sum(row.tokens for row in reading.rows if row.kind == "file")

    def costed(command: str, names: tuple[str, ...], frees_tokens: int) -> Advice:
        after = max(0, used_tokens - frees_tokens)
        return Advice(command, names, frees_tokens, 100 * after / window_tokens)

    clear = [costed("/clear", (), history)] if history else []
    pools = [[drop for drop in drops if drop.tier <= tier] for tier in (0, 1)]
    gentle, rough = (
        [costed(*_spelled(chosen))] if (chosen := _choose(some, need)) else []
        for some in (pools, [drops])
    )
    first, second = (clear, gentle) if history > files else (gentle, clear)
    enough = [a for a in (*first, *second, *rough) if a.frees_tokens > need]
    most = sorted([*first, *second] or rough, key=lambda a: -a.frees_tokens)
    ranked = list(dict.fromkeys(enough or most))
    return replace(ranked[0], alternatives=tuple(ranked[1:])) if ranked else None


@dataclass(frozen=True)
class _Drop:
    """One word for ``/drop`` and the rows that it drops. A higher ``tier`` does more harm."""

    word: str
    rows: frozenset[ContextRow]
    tier: int
    idle_turns: int

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)


def _possible_drops(
    reading: ContextReading, last_seen: Mapping[str, int], turn: int, root: str
) -> tuple[_Drop, ...]:
    """Return every drop that frees something and that the user can type, the least harmful first."""
    rows = {ChatFile(r.name, r.read_only): r for r in reading.rows if r.kind == "file"}
    seen = {row: last_seen.get(row.name, -1) for row in rows.values()}
    drops: list[_Drop] = []
    for file, row in rows.items():
        word = word_for_drop(file, tuple(rows), root)
        if word is None or not row.tokens or any(unicodedata.category(c) == "Cc" for c in word):
            continue
        gone = frozenset(rows[f] for f in dropped_by(word, tuple(rows), root))
        recent = any(seen[r] >= turn for r in gone)
        tier = 2 if recent else int(any(r.read_only for r in gone))
        drops.append(_Drop(word, gone, tier, turn - max(seen[r] for r in gone)))
    return tuple(sorted(drops, key=lambda d: (d.tier, -d.idle_turns, -d.tokens, d.word)))


def _choose(pools: Sequence[Sequence[_Drop]], need: float) -> tuple[_Drop, ...]:
    """Return the fewest drops that free more than ``need``, from the first pool that can.

    If the last one is too small as well, return the ones of it that are worthwhile.
    """
    pool: Sequence[_Drop] = ()
    for pool in pools:
        if _freed(pool) > need:
            return _fewest(pool, need)
    return _fewest(pool, _WORTHWHILE * _freed(pool))


def _fewest(pool: Sequence[_Drop], need: float) -> tuple[_Drop, ...]:
    """Return the fewest of ``pool`` that free more than ``need``; among as many, the first ones of ``pool``."""
    by_size = sorted(pool, key=lambda drop: -drop.tokens)
    count = next((n for n in range(1, len(pool)) if _freed(by_size[:n]) > need), len(pool))
    chosen: list[_Drop] = []
    for drop in pool:
        others = [other for other in by_size if other is not drop]
        # With the largest of the others it must still suffice; a drop that fails now fails later, too.
        if _freed([*chosen, drop, *others[: count - len(chosen) - 1]]) > need:
            chosen.append(drop)
            by_size = others
        if len(chosen) == count:
            break
    return tuple(sorted(chosen, key=lambda drop: -drop.tokens))


def _freed(drops: Iterable[_Drop]) -> int:
    return sum(row.tokens for row in {row for drop in drops for row in drop.rows})


def _spelled(drops: Sequence[_Drop]) -> tuple[str, tuple[str, ...], int]:
    """Return the command, the names of all files that it drops, and the tokens that it frees."""
    words = [quote_for_aider(drop.word) or "" for drop in drops]
    rows = {row: None for drop in drops for row in sorted(drop.rows, key=lambda r: -r.tokens)}
    return " ".join(["/drop", *words]), tuple(row.name for row in rows), _freed(drops)
