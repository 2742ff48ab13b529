"""Whether Aider serves its page, by all that its own parser takes it from (tried with 0.86.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from aider_guard.launch.start_command import serves_page

FLAGS = {
    "--gui": True,
    "--gu": True,
    "--browser": True,
    "--bro": True,
    "--b": True,
    "--g": False,  # --git, --gitignore
    "--": False,
    "gui": False,
    "--guides": False,
    "--git": False,
    "-b": False,
}
SETTINGS = {
    "gui: true": True,
    "browser: true": True,
    "gui: yes": True,
    'gui: "true"': True,
    "gui: 1": True,
    "--gui: true": True,
    "gui: on": True,
    "gui: false": False,
    "browser:": False,
    "# gui: true": False,
    "gu: true": False,
    "model: gui": False,
    "gui: [": False,
    "- gui": False,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A folder below the top of a repository."""
    assert home.is_dir()
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    path = tmp_path / "repo" / "src" / "deep"
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(("flag", "is_page"), FLAGS.items())
def test_flags_as_argparse_takes_them(flag: str, is_page: bool, folder: Path) -> None:
    """Whole or cut short, before a ``--``."""
    assert serves_page(["--model", "m", flag], {}, folder) is is_page
    assert not serves_page(["--model", "m", "--", flag], {}, folder)


@pytest.mark.parametrize(
    ("value", "is_page"),
    [("true", True), ("1", True), ("Yes", True), ("false", False), ("", False)],
)
def test_the_variable(value: str, is_page: bool, folder: Path) -> None:
    """As configargparse reads it."""
    assert serves_page([], {"AIDER_GUI": value}, folder) is is_page


@pytest.mark.parametrize(("text", "is_page"), SETTINGS.items())
def test_a_settings_file(text: str, is_page: bool, folder: Path) -> None:
    """Its key by either name; a file that cannot be read says nothing."""
    (folder / ".aider.conf.yml").write_text(f"dark-mode: true\n{text}\n" if ":" in text else text)
    assert serves_page([], {}, folder) is is_page


def test_the_settings_files_that_aider_reads(folder: Path, home: Path) -> None:
    """At the top of the repository and at home, too; others not."""
    root = folder.parents[1]
    assert not serves_page([], {}, folder)
    (folder.parent / ".aider.conf.yml").write_text("gui: true\n")
    assert not serves_page([], {}, folder)
    for place in (root, home):
        conf = place / ".aider.conf.yml"
        conf.write_text("gui: true\n")
        assert serves_page([], {}, folder)
        conf.unlink()
