"""Whether Aider is to be used in a browser: known before Aider runs, because the layer of the air gap depends on it.

Its own parser (configargparse, aider/args.py 0.86.2) takes this from the command line, ``AIDER_GUI`` and every
``.aider.conf.yml``. What only a ``.env`` or a file of ``--config`` says is not seen here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_FLAGS = ("--gui", "--browser")
_SHORTEST = ("--gu", "--b")
"""What argparse takes for them: as much of a flag as begins no other one."""
_YES = ("true", "yes", "1")
_CONF = ".aider.conf.yml"


def serves_page(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> bool:
    """Whether Aider, so called in this folder, is used in a browser."""
    return (
        any(map(_is_flag, before_end(arguments)))
        or environment.get("AIDER_GUI", "").lower() in _YES
        or any(map(_conf_says_so, _confs(folder)))
    )


def before_end(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before a ``--``: after it there are names of files only."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _is_flag(argument: str) -> bool:
    return any(
        flag.startswith(argument) and argument.startswith(shortest)
        for flag, shortest in zip(_FLAGS, _SHORTEST, strict=True)
    )


def _confs(folder: Path) -> Iterator[Path]:
    """Where Aider looks for its settings: here, at the top of the repository, at home."""
    yield folder / _CONF
    root = next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)
    if root not in (None, folder):
        yield root / _CONF
    yield Path(os.path.expanduser("~")) / _CONF


def _conf_says_so(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False  # Aider says what it cannot read
    if b"gui" not in content and b"browser" not in content:
        return False
    from aider_guard.launch.conf_file import read_conf  # YAML is not read for nothing

    found = read_conf(path.name, content)
    if not isinstance(found, dict):
        return False
    pages = [value for key, value in found.items() if f"--{str(key).lstrip('-')}" in _FLAGS]
    return any(str(value).lower() in _YES for value in pages)
