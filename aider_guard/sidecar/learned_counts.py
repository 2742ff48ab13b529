"""What was learned about counting, kept between sessions: numbers of tokens by model, and no text."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from aider_guard.core.counting.learned import MAX_RATIO, Learned
from aider_guard.core.wire import WireError, build

FILE: Final = "tokens.json"
_MAX_MODELS: Final = 40
_MAX_BYTES: Final = 1 << 20


def read_learned(folder: str) -> dict[str, Learned]:
    """What is kept, by canonical name; what is garbage in it is left out."""
    if not folder:
        return {}
    try:
        content = (Path(folder) / FILE).read_bytes()
        found = json.loads(content) if len(content) < _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: learned for name, entry in entries if (learned := _learned(entry)) is not None}


def _learned(entry: object) -> Learned | None:
    try:
        learned: Learned = build(Learned, entry)
    except WireError:
        return None
    ratios, errors = learned.ratios.by_kind.values(), learned.ratios.errors_percent
    sane = all(0.1 <= ratio <= MAX_RATIO for ratio in ratios) and all(
        0 <= error <= 1000 for error in errors
    )
    return learned if sane else None


def keep_learned(folder: str, name: str, learned: Learned) -> None:
    """Keep what was learned of one model. What cannot be written is not kept."""
    if not folder:
        return
    known = {**read_learned(folder)}
    known.pop(name, None)  # the last one learned stands last, and the first is forgotten
    known[name] = learned
    entries = {key: asdict(value) for key, value in [*known.items()][-_MAX_MODELS:]}
    file = Path(folder) / FILE
    # Two sessions may write at once: each writes a file of its own, and the last one wins as a whole.
    draft = file.with_name(f"{FILE}.{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        draft.replace(file)
    with suppress(OSError):
        draft.unlink(missing_ok=True)
