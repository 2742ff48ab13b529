"""By how much models needed more memory than was computed, kept between sessions. A cache: losing it costs little."""

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
    """The kept differences in bytes by canonical name; empty when there are none or they cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: error
        for name, error in found.items()
        if type(error) is int and abs(error) < _MAX_BYTES
    }


def remember(folder: Path, name: str, error_bytes: int) -> None:
    """Keep one difference. Raises OSError when it cannot be written; the old file is then as it was."""
    known = {**read_corrections(folder), canonical_name(name): error_bytes}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two sessions may write at once: each writes a file of its own, and the last one wins as a whole.
    draft = folder / f"{FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        draft.replace(folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
