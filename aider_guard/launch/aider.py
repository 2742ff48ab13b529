"""Finding Aider and the Python that runs it.

The guard starts ``INTERPRETER inside_aider.py …`` rather than the script ``aider``: the script may belong to pip,
pipx or uv, and only its interpreter can import what it imports.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from aider_guard.errors import LaunchError

_EXEC_LINE = re.compile(
    rb"^'''exec' (?P<quoted>\"[^\"]+\"|'[^']+'|\S+)(?P<flags>(?: -\S+)*) \"\$0\""
)


@dataclass(frozen=True)
class Aider:
    """An installed Aider: its script, and the interpreter (with its flags) from the script's first line."""

    script: str
    interpreter: tuple[str, ...]

    def likely_tokenizers(self) -> str:
        """Where this Aider's litellm probably keeps its encodings: beside its interpreter; "" when not there."""
        prefix = Path(self.interpreter[0]).parent.parent
        found = sorted(
            prefix.glob("lib/python3*/site-packages/litellm/litellm_core_utils/tokenizers")
        )
        return str(found[0]) if found else ""


def find_aider(name_or_path: str, *, search_path: str | None = None) -> Aider:
    """The Aider that the user would run. Raises LaunchError when there is none, or when it is no Python script."""
    script = shutil.which(os.path.expanduser(name_or_path), path=search_path)
    if script is None:
        raise LaunchError(
            f"Aider was not found as {name_or_path!r}: install it (pipx install aider-chat) or name it with --aider"
        )
    try:
        with Path(script).open("rb") as file:
            lines = file.read(4096).split(b"\n", 3)
    except OSError as error:
        raise LaunchError(f"{script} cannot be read: {error.strerror}") from error
    interpreter = _interpreter(lines)
    if interpreter is None:
        raise LaunchError(f"{script} is no Python script{_what_it_is(script, lines[0])}")
    return Aider(script, interpreter)


def _what_it_is(script: str, first: bytes) -> str:
    """The rest of the sentence for what cannot be started: pyenv, asdf and mise put wrappers in Aider's place."""
    if b"/shims/" in os.fsencode(script) or re.match(rb"#!\s*\S*(?:/|/env )\w*sh\b", first):
        return (
            " but starts one by itself; name that one with --aider "
            "(pyenv which aider, asdf which aider or mise which aider tells it)"
        )
    return ", so it is not known which Python runs it; name it with --aider"


def _interpreter(lines: list[bytes]) -> tuple[str, ...] | None:
    """The command after ``#!``; long paths and paths with blanks use two lines of shell (PEP 722's distlib form)."""
    first = lines[0].strip()
    if not first.startswith(b"#!"):
        return None
    words = first[2:].split()
    if words and os.path.basename(words[0]) == b"sh" and len(lines) > 1:
        found = _EXEC_LINE.match(lines[1])
        if not found:
            return None
        words = [found["quoted"].strip(b"\"'"), *found["flags"].split()]
    if words and os.path.basename(words[0]) == b"env":
        words = [word for word in words[1:] if word != b"-S"]
    if not words or (
        b"python" not in os.path.basename(words[0]) and b"pypy" not in os.path.basename(words[0])
    ):
        return None
    return tuple(os.fsdecode(word) for word in words)
