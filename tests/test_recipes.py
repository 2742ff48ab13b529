"""The recipes for other package managers hold what the package requires, and follow from a lock alone."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from release import recipes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCK = Path(__file__).parent / "captures" / "release" / "pylock.toml"
URL = "https://github.com/ada/aider-guard/releases/download/v9.9.9/aider_guard-9.9.9.tar.gz"


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    """A lock as the release workflow makes it."""
    return tomllib.loads(LOCK.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both recipes."""
    folder = tmp_path_factory.mktemp("recipes")
    archive = folder / "aider_guard-9.9.9.tar.gz"
    archive.write_bytes(b"archive")
    recipes.main([str(LOCK), str(archive), URL, str(folder)])
    return folder


def test_the_formula_has_each_library_with_its_checksum(
    written: Path, lock: dict[str, Any]
) -> None:
    """Of the formula's Python: none that only another Python or Windows needs."""
    text = (written / "aider-guard.rb").read_text(encoding="utf-8")
    names = re.findall(
        r'resource "([^"]+)" do\n    url "https://[^"]+"\n    sha256 "[0-9a-f]{64}"', text
    )
    required = {one.name for one in recipes.requirements()}
    assert required <= set(names)
    assert {"certifi", "h11", "idna"} <= set(names)
    assert not {"tomli", "exceptiongroup", "colorama", "aider-guard"} & set(names)
    assert len(names) == len(set(names)) < len(lock["packages"])
    assert f'url "{URL}"\n  sha256 "{hashlib.sha256(b"archive").hexdigest()}"' in text
    assert 'homepage "https://github.com/ada/aider-guard"' in text
    assert text.count(" do\n") == text.count("  end\n") - 1  # and the method's


def test_the_pkgbuild_asks_for_what_the_package_requires(written: Path) -> None:
    """Under Arch's names, with the lowest versions; and it is a script that bash can read."""
    recipe = written / "PKGBUILD"
    text = recipe.read_text(encoding="utf-8")
    for name in ("python-click>=8.1", "python-yaml>=6.0.2", "uvicorn>=0.53", "python-tiktoken>="):
        assert f"  '{name}" in text
    assert text.count(">=") == 1 + len(recipes.requirements())
    shown = subprocess.run(
        (
            shutil.which("bash") or "bash",
            "-c",
            f'. "{recipe}"; echo "$pkgname $pkgver $sha256sums"',
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout == f"aider-guard 9.9.9 {hashlib.sha256(b'archive').hexdigest()}\n"


def test_a_lock_that_lacks_a_library_is_refused(lock: dict[str, Any]) -> None:
    """One that was made before it was required, or without its source."""
    without = [package for package in lock["packages"] if package["name"] != "httpx"]
    with pytest.raises(ValueError, match="the lock lacks httpx"):
        list(recipes.resources({"packages": without}))
    with pytest.raises(ValueError, match="no source of httpx"):
        list(recipes.resources({"packages": [{"name": "httpx", "version": "1"}]}))


def test_no_recipe_is_kept_with_an_address_of_an_index() -> None:
    """They are written when a release is made."""
    root = Path(__file__).resolve().parents[1]
    assert not [*root.glob("release/*.rb"), *root.glob("release/PKGBUILD")]
    assert set(re.findall(r"https://([^/]+)/", LOCK.read_text(encoding="utf-8"))) == {
        "index.invalid"
    }
