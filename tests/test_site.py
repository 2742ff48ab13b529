"""The site of the documentation builds, with all of its pages and without a dead link."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from release.site_pages import OUTSIDE, gather, in_site

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the pages in a folder."""
    shutil.copy(ROOT / "zensical.toml", folder)
    command = (Path(sys.executable).with_name("zensical"), "build", "--strict")
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def listed(entries: list[Any]) -> Iterator[str]:
    """The pages of a menu and of the menus in it."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from listed(below)


def test_each_page_is_in_the_menu() -> None:
    """Once; the text for GitHub's first page is beside them."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(OUTSIDE.values())
    assert sorted(listed(site["project"]["nav"])) == sorted(pages - {"readme.md"})


def test_each_document_is_in_the_index() -> None:
    """docs/index.md names every other page of its folder."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in index] == []


@pytest.mark.parametrize(
    ("link", "turned"),
    [
        ("[a](docs/fit.md#gpus)", "[a](fit.md#gpus)"),
        ("[a](../SECURITY.md#report)", "[a](security.md#report)"),
        ("[a](examples/README.md)", "[a](examples.md)"),
        ("[a](../README.md)", "[a](readme.md)"),
        ("[a](https://ollama.com/docs/x.md)", "[a](https://ollama.com/docs/x.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site(link: str, turned: str) -> None:
    """From docs/ and from the texts beside it."""
    assert in_site(link) == turned


@pytest.mark.xdist_group("release")
def test_the_site_builds_and_asks_no_other_server(tmp_path: Path) -> None:
    """No dead link or heading; and no fonts or scripts from elsewhere, which would tell who reads."""
    gather(ROOT, tmp_path / "build" / "pages")
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    readme = (site / "readme" / "index.html").read_text(encoding="utf-8")
    pictures = [part.partition('"')[0] for part in readme.split('src="../pictures/')[1:]]
    assert [name for name in pictures if not (site / "pictures" / name).exists()] == []
    assert len(pictures) == len([*(ROOT / "docs" / "pictures").iterdir()])
    page = (site / "doctor" / "index.html").read_text(encoding="utf-8")
    assert "for a bug report" in page.lower()
    loaded = [part for mark in ("src=", 'rel="stylesheet" href=') for part in page.split(mark)[1:]]
    assert loaded
    assert [part[:60] for part in loaded if part.strip("\"'").startswith(("http", "//"))] == []


@pytest.mark.xdist_group("release")
@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    """To a page as to a heading."""
    pages = tmp_path / "build" / "pages"
    pages.mkdir(parents=True)
    (pages / "index.md").write_text(f"# Page\n\n[dead]({link})\n", encoding="utf-8")
    assert build(tmp_path).returncode != 0
