"""Compares what is printed with a file of the repository. ``RENEW=1`` writes the files anew: read them by eye then."""

from __future__ import annotations

import os
from pathlib import Path

SCREENS = Path(__file__).parent / "view" / "screens"


def assert_is_kept(path: Path, text: str) -> None:
    """Fail where the file holds another text, unless the files are to be written anew."""
    if os.environ.get("RENEW"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == kept, f"{path.name} is another; RENEW=1 python -m pytest writes it anew"


def assert_is_screen(name: str, text: str) -> None:
    """Fail where what a command shows is not what stands in ``view/screens/NAME.txt``, which was read by eye."""
    assert_is_kept(SCREENS / f"{name}.txt", text)
