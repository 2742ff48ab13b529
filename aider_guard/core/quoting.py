r"""File names as words of Aider's own commands, and what ``/drop`` really takes away.

From Aider 0.86.2, commands.py. ``parse_quoted_filenames`` splits by ``"(.+?)"|(\S+)``: there is no
escape. ``/add`` and ``/read-only`` take a name literally when such a file exists; ``/read-only``
expands ``~`` first. ``/drop`` expands ``~``, and then a word drops

* every read-only file whose absolute path CONTAINS the word, or that is the same file;
* every editable file whose absolute path CONTAINS the word; but a word with one of ``*?[]`` is a
  glob below the root; and only when nothing matched, the editable file of exactly that name.

So ``/drop a.py`` takes ``data.py`` along, but ``/drop ./a.py`` does not: no absolute path contains
``./``, unless a folder's name ends in a dot.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GLOB = re.compile(r"[*?\[\]]")


@dataclass(frozen=True)
class ChatFile:
    """A file in the chat. ``name`` is its path as Aider prints it: from the root, or absolute."""

    name: str
    read_only: bool = False


def why_not(name: str) -> str:
    """Why ``name`` cannot be given to Aider's commands, or "" when it can."""
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
    """The word that Aider's commands read back as this one name, or None if there is none.

    A leading ``~`` would become the home folder, so such a name gets ``./`` before it.
    """
    if why_not(name):
        return None
    plain = f"./{name}" if name.startswith("~") else name
    return f'"{plain}"' if re.search(r"\s", plain) else plain


def dropped_by(name: str, files: Sequence[ChatFile], root: str = "") -> frozenset[ChatFile]:
    """The files that ``/drop`` with this one (unquoted) word takes out of the chat.

    Args:
        name: The word, already without quotes; it must not begin with ``~``.
        files: Every file in the chat.
        root: The folder that names are relative to, absolute, links resolved; "" when unknown: then
            matches inside the root's own path are not seen.

    A glob is tried on the files in the chat only. Where another file of the repository matches it,
    Aider drops nothing for a word like ``[a].py``, which cannot be known here.
    """
    read_only = {f for f in files if f.read_only and _is_or_contains(name, f, root)}
    if _GLOB.search(name):
        matched = {f for f in files if _glob_matches(name, f.name)}
    else:
        matched = {f for f in files if not f.read_only and name in _absolute(f.name, root)}
    if not matched:
        exact = _absolute(name, root)
        matched = {f for f in files if _absolute(f.name, root) == exact}
    return frozenset(read_only | {f for f in matched if not f.read_only})


def word_for_drop(file: ChatFile, files: Sequence[ChatFile], root: str = "") -> str | None:
    """The (unquoted) word that drops ``file`` and the fewest others: its name where that will do.

    Returns None when no word drops it, or none can be written.
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


@lru_cache(maxsize=1024)
def _absolute(name: str, root: str) -> str:
    return posixpath.normpath(posixpath.join(root or "/", name))


def _is_or_contains(word: str, file: ChatFile, root: str) -> bool:
    path = _absolute(file.name, root)
    return word in path or _absolute(word, root) == path


def _glob_matches(pattern: str, name: str) -> bool:
    wanted, parts = posixpath.normpath(pattern).split("/"), name.split("/")
    if len(wanted) != len(parts):
        return False
    return all(fnmatchcase(part, one) for part, one in zip(parts, wanted, strict=True))
