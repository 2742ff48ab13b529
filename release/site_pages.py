"""Gathers the pages of the site: ``python -m release.site_pages`` copies docs/ and the texts beside it to build/pages.

The site's builder (zensical.toml) reads one folder; links between the texts are turned accordingly.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "readme.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
"""The names, as pages of the site, of the texts that lie outside docs/."""


def gather(root: Path, folder: Path) -> None:
    """Write the pages of the project in *root* to a folder, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = {path: path.name for path in (root / "docs").glob("*.md")}
    sources |= {root / name: page for name, page in OUTSIDE.items()}
    for path, page in sources.items():
        (folder / page).write_text(in_site(path.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(root / "docs" / "pictures", folder / "pictures")


def in_site(text: str) -> str:
    """The text with its links to files of the project as links to pages of the site."""
    for name, page in OUTSIDE.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}(#[^)]*)?\)", rf"]({page}\1)", text)
    return re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", text)


if __name__ == "__main__":
    gather(ROOT, ROOT / "build" / "pages")
