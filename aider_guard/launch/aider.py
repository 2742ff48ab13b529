"""Finds Aider and the Python that runs it.

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
        pattern = "lib/python3*/site-packages/litellm/litellm_core_utils/tokenizers"
        folders = sorted(Path(self.interpreter[0]).parent.parent.glob(pattern))
        return str(folders[0]) if folders else ""


def find_aider(name_or_path: str, *, search_path: str | None = None) -> Aider:
    """Find the Aider that the user would run.

    Raises LaunchError when there is none, or when it is not a Python script.
    """
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
    if interpreter is not None:
        return Aider(script, interpreter)
    hint = ", so it is not known which Python runs it; name Aider's own script with --aider"
    # pyenv, asdf and mise put a wrapper of their own in Aider's place.
    if "/shims/" in script or re.match(rb"#!\s*\S*(?:/|/env )\w*sh\b", lines[0]):
        hint = (
            " but a wrapper that starts one; name the real one with --aider "
            "(pyenv which aider, asdf which aider or mise which aider shows it)"
        )
    raise LaunchError(f"{script} is not a Python script{hint}")


def _interpreter(lines: list[bytes]) -> tuple[str, ...] | None:
    """The command after ``#!``. Long paths and paths with blanks use two lines of shell (distlib's form)."""
    first = lines[0].strip()
    if not first.startswith(b"#!"):
        return None
    words = first[2:].split()
    if words and os.path.basename(words[0]) == b"sh" and len(lines) > 1:
        match = _EXEC_LINE.match(lines[1])
        if not match:
            return None
        words = [match["quoted"].strip(b"\"'"), *match["flags"].split()]
    if words and os.path.basename(words[0]) == b"env":
        words = [word for word in words[1:] if word != b"-S"]
    if not words or not re.search(rb"python|pypy", os.path.basename(words[0])):
        return None
    return tuple(os.fsdecode(word) for word in words)
