"""What is released: the archives install and run by themselves, and the workflows and forms are valid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from golden import assert_is_kept

from aider_guard import __version__
from release import index_page, man_page

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
SCHEMAS = {
    "vendor.github-workflows": sorted(GITHUB.glob("workflows/*.yml")),
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.github-issue-forms": [
        path for path in sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")) if path.name != "config.yml"
    ],
}


def run(*command: str | Path, folder: Path) -> str:
    """What a program prints; its words are shown where it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the source archive, made as a release makes them."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("release")
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_an_archive_installs_and_runs(archives: Path, tmp_path: Path, pattern: str) -> None:
    """In an environment of its own, without the repository."""
    (archive,) = archives.glob(pattern)
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", archive, folder=tmp_path)
    shown = run(programs / "aider-guard", "--version", folder=tmp_path)
    assert shown == f"aider-guard, version {__version__}\n"
    assert "qwen3" in run(
        programs / "aider-guard", "fit", "qwen3:8b", "--vram", "16", folder=tmp_path
    )
    assert "num-ctx" in run(programs / "aider-guard", "config", "show", folder=tmp_path)
    assert (tmp_path / "venv" / "share" / "man" / "man1" / "aider-guard.1").exists()


@pytest.mark.xdist_group("release")
@pytest.mark.timeout(600)
def test_the_wheel_holds_the_package_and_nothing_else(archives: Path) -> None:
    """With its data, the mark that it is typed, and the manual page."""
    (wheel,) = archives.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    data = f"aider_guard-{__version__}.data"
    assert tops == {"aider_guard", f"aider_guard-{__version__}.dist-info", data}
    manual = f"{data}/data/share/man/man1/aider-guard.1"
    assert [name for name in names if name.startswith(data)] == [manual]
    assert {"aider_guard/py.typed", "aider_guard/view/settings_template.toml"} <= set(names)


@pytest.mark.xdist_group("release")
@pytest.mark.timeout(600)
def test_the_source_archive_holds_what_a_packager_needs(archives: Path) -> None:
    """The tests and documents as well; no caches."""
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {
        "Makefile",
        "LICENSE",
        "docs/air-gap.md",
        "release/aider-guard.1",
        "tests/test_release.py",
    } <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith(".venv")]


def test_the_manual_page_is_what_the_commands_say() -> None:
    """And roff, where there is one, has nothing to say about it."""
    assert_is_kept(man_page.PAGE, man_page.page())
    if groff := shutil.which("groff"):
        check = (groff, "-man", "-ww", "-z", man_page.PAGE)
        done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""


def test_links_of_the_readme_work_on_the_package_index(tmp_path: Path) -> None:
    """Each leads to a file of the repository at the released version."""
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    at = "https://github.com/ada/aider-guard"
    index_page.main([at, "v9.9.9"], root=tmp_path)
    targets = re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for kind in ("blob", "raw"):  # raw: pictures
        start = f"{at}/{kind}/v9.9.9/"
        files = [each.removeprefix(start).partition("#")[0] for each in targets if start in each]
        assert files
        assert [file for file in files if not (ROOT / file).exists()] == []
    assert f'Issues = "{at}/issues"' in (tmp_path / "pyproject.toml").read_text(encoding="utf-8")


def test_a_picture_is_shown_and_links() -> None:
    """A link may be around a picture."""
    shown = index_page.absolute_links(
        "[![a](docs/a.svg)](docs/a.md) [b](#c) [d](http://e/f)", "R", "T"
    )
    assert shown == "[![a](R/raw/T/docs/a.svg)](R/blob/T/docs/a.md) [b](#c) [d](http://e/f)"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_workflows_and_forms_are_valid(schema: str) -> None:
    """By the published schemas, which the checker brings with it."""
    files = SCHEMAS[schema]
    assert files
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema)
    run(*check, *files, folder=ROOT)


def test_ci_tries_each_python_that_is_named() -> None:
    """The versions of the workflow are those of the classifiers."""
    named = [
        line.rpartition(" :: ")[2].rstrip('",')
        for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
        if line.strip().startswith('"Programming Language :: Python :: ')
    ]
    workflow = (GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8")
    listed = ", ".join(f'"{version}"' for version in named)
    assert f"python: [{listed}]" in workflow
