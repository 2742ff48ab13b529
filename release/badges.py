"""Draws the README's badges from pyproject.toml, as one picture (SVG) that loads nothing from a badge server."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
BADGES = ROOT / "docs" / "pictures" / "badges.svg"
LETTER_WIDTH, HEIGHT, PADDING, GAP = 6.6, 20, 6, 6
"""In pixels; ``textLength`` makes letters of any font as wide."""
FONTS = "Verdana, 'DejaVu Sans', sans-serif"
_PYTHON = "Programming Language :: Python :: "
_SYSTEMS = {"Operating System :: POSIX :: Linux": "Linux", "Operating System :: MacOS": "macOS"}


def facts(pyproject: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each badge, from what stands in pyproject.toml."""
    project = pyproject["project"]
    kinds = project["classifiers"]
    versions = [kind.removeprefix(_PYTHON) for kind in kinds if kind.startswith(_PYTHON)]
    yield "Python", f"{versions[0]} to {versions[-1]}"
    yield "systems", ", ".join(name for kind, name in _SYSTEMS.items() if kind in kinds)
    yield "license", project["license"]
    if pyproject["tool"]["mypy"]["strict"]:
        yield "types", "mypy --strict"


def badges(pyproject: Mapping[str, Any]) -> str:
    """Return the text of an SVG file with the badges side by side."""
    drawn, at = "", 0
    for name, value in facts(pyproject):
        left, right = (round(len(text) * LETTER_WIDTH) + 2 * PADDING for text in (name, value))
        drawn += _box(at, left, name, "#4b5563") + _box(at + left, right, value, "#1f6f43")
        at += left + right + GAP
    title = ", ".join(f"{name} {value}" for name, value in facts(pyproject))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{at - GAP}" height="{HEIGHT}" role="img"'
        f' font-family="{FONTS}" font-size="11" fill="#ffffff">\n'
        f"<title>{escape(title)}</title>\n{drawn}</svg>\n"
    )


def _box(at: int, width: int, text: str, colour: str) -> str:
    return (
        f'<rect x="{at}" width="{width}" height="{HEIGHT}" fill="{colour}"/>\n'
        f'<text x="{at + PADDING}" y="14" textLength="{width - 2 * PADDING}">{escape(text)}</text>\n'
    )


def read_pyproject() -> dict[str, Any]:
    """Return what stands in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def main() -> None:
    """Write the picture."""
    BADGES.write_text(badges(read_pyproject()), encoding="utf-8")


if __name__ == "__main__":
    main()
