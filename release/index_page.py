"""Makes the README fit for the package index: ``python -m release.index_page REPOSITORY_URL TAG``.

Links between files work on a page of the repository, and nowhere else. The release workflow runs this in its checkout,
before it builds: it alone knows the address of the repository.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def absolute_links(text: str, repository: str, tag: str) -> str:
    """The text with its links to files, and its pictures, as addresses in the repository at a tag."""
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{repository}/raw/{tag}/", text)
    return re.sub(
        r"(?<!!)(\[(?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*\]\()(?![a-z]+:|#)",
        rf"\1{repository}/blob/{tag}/",
        text,
    )


def with_urls(project: str, repository: str, tag: str) -> str:
    """The text of pyproject.toml with the addresses that the index shows beside the page."""
    urls = {
        "Repository": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return project.replace(
        "[project.scripts]\n", f"[project.urls]\n{lines}\n[project.scripts]\n", 1
    )


def main(arguments: Sequence[str], root: Path = ROOT) -> None:
    """Rewrite README.md and pyproject.toml of a checkout."""
    repository, tag = arguments
    for name, rewrite in (("README.md", absolute_links), ("pyproject.toml", with_urls)):
        path = root / name
        path.write_text(rewrite(path.read_text(encoding="utf-8"), repository, tag), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
