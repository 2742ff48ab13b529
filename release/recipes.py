"""Writes the Homebrew formula and the PKGBUILD of a release from its source archive and a lock (PEP 751).

``python -m release.recipes LOCK ARCHIVE URL FOLDER``: the release workflow makes the lock with ``uv export --format
pylock.toml`` and gives the address at which the archive will be. The addresses of all other files are the lock's.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.13"
"""The Python of the formula."""
_SYSTEMS = (
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
)
# Arch names the packages of libraries python-NAME, but for these.
_ARCH_NAMES = {"pyyaml": "python-yaml", "uvicorn": "uvicorn"}


def requirements() -> list[Requirement]:
    """What the package requires on the Python of the recipes, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        one for one in map(Requirement, project["dependencies"]) if _holds(str(one.marker or ""))
    ]


def formula(lock: Mapping[str, Any], url: str, sha256: str, homepage: str) -> str:
    """The Homebrew formula: the archive, and each locked library as a resource. Raises as ``resources`` does."""
    lines = [
        "class AiderGuard < Formula",
        "  include Language::Python::Virtualenv",
        "",
        f'  desc "{_description()}"',
        f'  homepage "{homepage}"',
        f'  url "{url}"',
        f'  sha256 "{sha256}"',
        '  license "MIT"',
        "",
        '  depends_on "rust" => :build # tiktoken',
        '  depends_on "libyaml"',
        f'  depends_on "python@{PYTHON}"',
    ]
    for name, address, digest in resources(lock):
        lines += ["", f'  resource "{name}" do', f'    url "{address}"', f'    sha256 "{digest}"']
        lines.append("  end")
    lines += [
        "",
        "  def install",
        "    virtualenv_install_with_resources",
        "  end",
        "",
        "  test do",
        '    assert_match "it fits", shell_output("#{bin}/aider-guard fit qwen3:8b --vram 16")',
        "  end",
        "end",
    ]
    return "".join(f"{line}\n" for line in lines)


def resources(lock: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, address and SHA-256 of each locked library: its source, or its wheel where that runs everywhere.

    Raises:
        ValueError: a library has neither, or one that the package requires is not locked.
    """
    found = set()
    for package in lock["packages"]:
        if "directory" in package or not _holds(package.get("marker", "")):
            continue
        wheels = (
            each for each in package.get("wheels", ()) if each["url"].endswith("-none-any.whl")
        )
        archive = package.get("sdist") or next(wheels, None)
        if archive is None:
            raise ValueError(f"the lock has no source of {package['name']}")
        found.add(package["name"])
        yield package["name"], archive["url"], archive["hashes"]["sha256"]
    missing = {one.name.lower() for one in requirements()} - found
    if missing:
        raise ValueError(f"the lock lacks {', '.join(sorted(missing))}: make it anew")


def pkgbuild(version: str, url: str, sha256: str, homepage: str) -> str:
    """The PKGBUILD: libraries are Arch's own packages, of the versions that pyproject.toml asks for."""
    depends = "".join(
        f"  '{_ARCH_NAMES.get(one.name, f'python-{one.name}')}{one.specifier}'\n"
        for one in requirements()
    )
    return f"""pkgname=aider-guard
pkgver={version}
pkgrel=1
pkgdesc='{_description()}'
arch=('any')
url='{homepage}'
license=('MIT')
depends=(
  'python>=3.10'
{depends})
makedepends=('python-build' 'python-installer' 'python-hatchling')
optdepends=('ollama: models on this machine')
source=('{url}')
sha256sums=('{sha256}')

build() {{
  cd "aider_guard-$pkgver"
  python -m build --wheel --no-isolation
}}

package() {{
  cd "aider_guard-$pkgver"
  python -m installer --destdir="$pkgdir" dist/*.whl
  install -Dm644 LICENSE "$pkgdir/usr/share/licenses/$pkgname/LICENSE"
}}
"""


def _holds(marker: str) -> bool:
    """Whether a marker holds for the Python of the recipes, on macOS or Linux."""
    python = {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return not marker or any(Marker(marker).evaluate({**python, **each}) for each in _SYSTEMS)


def _description() -> str:
    """One sentence without an article and a full stop, as Homebrew wants it."""
    return "Launcher for Aider on local Ollama models, offline and within the window"


def main(arguments: Sequence[str]) -> None:
    """Write both recipes."""
    lock, archive, url, folder = arguments
    found = re.fullmatch(r"aider_guard-(.+)\.tar\.gz", Path(archive).name)
    if found is None:
        raise SystemExit(f"{archive} is no source archive of aider-guard")
    digest = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    homepage = url.partition("/releases/")[0]
    locked = tomllib.loads(Path(lock).read_text(encoding="utf-8"))
    Path(folder, "aider-guard.rb").write_text(formula(locked, url, digest, homepage), "utf-8")
    Path(folder, "PKGBUILD").write_text(pkgbuild(found[1], url, digest, homepage), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
