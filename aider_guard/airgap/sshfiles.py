"""The files of ssh's settings that it reads only when they are root's or the user's own (readconf.c of OpenSSH).

In a user namespace with one user, root's files belong to nobody, and ssh ends with "Bad owner or permissions". That is
asked of the user's own file and of every file that is included, not of the system's file itself.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
from collections.abc import Iterator
from typing import Final

_SYSTEM: Final = ("/etc/ssh", "/usr/etc/ssh")  # the second one is where openSUSE has it
_INCLUDE: Final = re.compile(r"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
_MOST_DEPTH: Final = 16  # ssh goes no deeper


def checked_files(system: tuple[str, ...] = _SYSTEM) -> tuple[str, ...]:
    """Real paths of the files that this user's ssh reads and whose owner it looks at, each once."""
    own = os.path.expanduser("~/.ssh")
    found = [os.path.realpath(f"{own}/config"), *_included(f"{own}/config", own)]
    for folder in system:
        found += _included(f"{folder}/ssh_config", "/etc/ssh")
    return tuple(dict.fromkeys(path for path in found if os.path.isfile(path)))


def _included(path: str, folder: str, depth: int = 1) -> Iterator[str]:
    """What this file includes, and what that includes in turn; a relative name is one in *folder*."""
    for line in _lines(path) if depth <= _MOST_DEPTH else ():
        match = _INCLUDE.match(line)
        for word in _words(match[1]) if match else ():
            for name in glob.iglob(os.path.join(folder, os.path.expanduser(word))):  # noqa: PTH207  # ssh's patterns are of whole paths
                yield os.path.realpath(name)
                yield from _included(name, folder, depth + 1)


def _lines(path: str) -> Iterator[str]:
    with (
        contextlib.suppress(OSError),  # ssh, too, goes on without a file that it cannot read
        open(path, encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield from file


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # an open quote: ssh will say so
        return []
