"""Versions as numbers."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, ``0.9.3-rc1`` is (0, 9, 3); empty when it begins with none."""
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,6})*)(?![0-9])", version.strip())
    return tuple(int(part) for part in found[1].split(".")) if found else ()
