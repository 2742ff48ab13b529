"""Remembers between sessions how much more memory models needed than was computed. Losing the file costs little."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from aider_guard.core.model_names import canonical_name

FILE = "needs.json"
_MAX_BYTES = 1 << 40


def read_corrections(folder: Path) -> Mapping[str, int]:
    """Read the differences in bytes by canonical name; empty when there are none or they cannot be read."""
    try:
        corrections = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(corrections, dict):
        return {}
    return {
        name: error
        for name, error in corrections.items()
        if type(error) is int and abs(error) < _MAX_BYTES
    }


def remember(folder: Path, name: str, error_bytes: int) -> None:
    """Write one model's difference. Raises OSError when it cannot be written; the file is then as it was."""
    corrections = {**read_corrections(folder), canonical_name(name): error_bytes}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two sessions may write at once: each writes a file of its own, and the last one wins as a whole.
    draft = folder / f"{FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(corrections, indent=1, sort_keys=True), encoding="utf-8")
        draft.replace(folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
