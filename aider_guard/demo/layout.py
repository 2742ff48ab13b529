"""Where the parts of the rig lie.

The folder of a part carries the versions it was made from, so a newer guard builds beside an
older one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping

AIDER_VERSION = "0.86.2"
AIDER_FOLDER = f"aider-{AIDER_VERSION}"
# The server's version, the build that carries it, and which of its files are kept (2: without AMX).
OLLAMA_FOLDER = "ollama-0.9.3-b20260110-2"
MODELS_FOLDER = "models-smollm2-135m-0.1.2"
LLAMA_FOLDER = "llama-server-2026.10.11549"
GEMMA_FOLDER = "model-gemma3-270m-1.0.0"
FORMER_FOLDERS = ("ollama-0.9.3-b20260110",)  # of older versions; `removal` takes them along
PART_FOLDERS = (
    *(AIDER_FOLDER, OLLAMA_FOLDER, MODELS_FOLDER, LLAMA_FOLDER, GEMMA_FOLDER),
    *FORMER_FOLDERS,
)
SMALL, SMALL_Q4 = "small", "small-q4"


class RigError(LaunchError):
    """A part of the rig cannot be installed or started; the sentence says why and what helps."""


@dataclass(frozen=True)
class Rig:
    """The three parts, complete.

    ``aider`` is a virtual environment, ``ollama`` the folder with ``server/`` and ``lib/``,
    ``models`` what ``OLLAMA_MODELS`` names: it holds the models ``small`` (Q8_0) and ``small-q4``
    (Q4_1).
    """

    aider: Path
    ollama: Path
    models: Path

    @property
    def aider_command(self) -> Path:
        """The ``aider`` script of the private Aider."""
        return self.aider / "bin" / "aider"

    @property
    def checked(self) -> Path:
        """The folder with the answers of these models that this Ollama was found to compute rightly."""
        return self.ollama / f"checked-{self.models.name}"

    def is_complete(self) -> bool:
        """Return whether every part is there, and the models' answers were checked."""
        return all(part.is_dir() for part in (self.aider, self.ollama, self.models, self.checked))


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``AIDER_GUARD_CACHE_DIR``, else the user's cache folder (with ``XDG_CACHE_HOME``).

    It needs the standard library only: `make` asks before anything is installed (machine.py).
    """
    chosen = environ.get("AIDER_GUARD_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    users = environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(users).expanduser().absolute() / "aider-guard"


def rig_in(cache: Path) -> Rig:
    """Return where the parts are, or will be, in the folder ``cache``."""
    return Rig(cache / AIDER_FOLDER, cache / OLLAMA_FOLDER, cache / MODELS_FOLDER)
