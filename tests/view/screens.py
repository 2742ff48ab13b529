"""Compares what a command prints with the file in ``screens/`` that was read by eye."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).with_name("screens")
REWRITE = "AIDER_GUARD_TEST_REWRITE_SCREENS"
"""With this variable set, the files are written instead; read the difference by eye."""


def check_screen(name: str, printed: str) -> None:
    """Assert that this is what stands in ``screens/NAME.txt``."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get(REWRITE):
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")
