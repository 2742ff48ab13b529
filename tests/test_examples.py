"""The examples do what their own comments say: each is run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from aider_guard import config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
TEMPLATE = ROOT / "aider_guard/view/settings_template.toml"
"""What ``aider-guard config init`` writes."""
CAP_SECONDS = 30.0

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def uncommented(text: str) -> str:
    """The settings file as it is when every setting in it is taken."""
    lines = (line.removeprefix("# ") for line in text.splitlines())
    return "\n".join(line for line in lines if line.partition(" = ")[0] in config.SETTINGS)


def load(text: str, folder: Path) -> config.Config:
    """What these lines of a settings file make."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return config.load({}, environment={}, user_file=path)


def test_the_settings_file_as_it_stands_changes_nothing(tmp_path: Path) -> None:
    """It is copied first and edited later."""
    text = TEMPLATE.read_text(encoding="utf-8")

    assert load(text, tmp_path) == config.Config()


def test_the_settings_file_holds_every_setting_with_its_default(tmp_path: Path) -> None:
    """Each setting is there once, and what it says is the default; for ``ollama`` that is nothing one can write."""
    settings = uncommented(TEMPLATE.read_text(encoding="utf-8"))
    names = [line.partition(" = ")[0] for line in settings.splitlines()]

    assert sorted(names) == sorted(config.SETTINGS)
    defaults = config.Config(ollama="http://127.0.0.1:11434")
    assert load(settings, tmp_path) == defaults


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH: ``aider-guard`` answers status itself and else prints its arguments, ``aider`` likewise."""
    folder = tmp_path / "programs"
    folder.mkdir()
    python = shlex.quote(sys.executable)
    scripts = {
        "aider-guard": f'case $1 in status) exec {python} -m aider_guard "$@";; esac\n'
        'printf "guarded:"; printf " [%s]" "$@"; printf "\\n"; read -r answer; exit 7',
        "aider": 'printf "bare:"; printf " [%s]" "$@"; printf "\\n"',
    }
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    return folder


@pytest.fixture
def environment(programs: Path, tmp_path: Path) -> dict[str, str]:
    """The whole environment of an example: no tmux around it, no sessions but its own."""
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ("aider --model 'a b'", "guarded: [--] [--model] [a b]"),
        ("aider", "guarded: [--]"),
        ("command aider --model x", "bare: [--model] [x]"),
    ],
)
def test_the_alias_guards_aider_and_leaves_a_way_around(
    environment: dict[str, str], typed: str, runs: str
) -> None:
    """The alias puts the guard before Aider's arguments, which stay words; ``command aider`` is Aider alone."""
    script = f"shopt -s expand_aliases\n. {shlex.quote(str(EXAMPLES / 'alias.sh'))}\n{typed}\n"
    process = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CAP_SECONDS,
        check=False,
    )

    assert (process.stdout.strip(), process.stderr) == (runs, "")


@pytest.mark.parametrize("name", ["alias.sh", "tmux-status.sh", "tmux-layout.sh"])
def test_the_scripts_are_sh(name: str) -> None:
    """No script needs more than sh."""
    subprocess.run(["sh", "-n", str(EXAMPLES / name)], timeout=CAP_SECONDS, check=True)


@pytest.fixture
def tmux(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment for tmux servers of this test's own, of which none outlives it."""
    # Not in tmp_path: a socket's path holds about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="ag-") as folder:
        private = {**environment, "TMUX_TMPDIR": folder}
        try:
            yield private
        finally:
            for name in ("default", "examples"):
                ask_tmux(private, "-L", name, "kill-server")


def ask_tmux(environment: dict[str, str], *words: str) -> str:
    """What one tmux command prints."""
    process = subprocess.run(
        ["tmux", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=CAP_SECONDS,
        check=False,
    )
    return process.stdout


def terminal_with(environment: dict[str, str], *command: str) -> pexpect.spawn[str]:
    """A terminal of 100 columns in which the user runs a command."""
    return pexpect.spawn(
        command[0],
        list(command[1:]),
        env=environment,
        dimensions=(30, 100),
        encoding="utf-8",
        timeout=CAP_SECONDS,
    )


@needs_tmux
def test_the_layout_shows_the_status_below_the_session(
    tmux: dict[str, str], tmp_path: Path
) -> None:
    """Inside tmux: the session above with its arguments, seven lines of status below, and both end together."""
    folder, ended = tmp_path / "with space", tmp_path / "ended"
    shutil.copytree(EXAMPLES, folder)
    server = ("tmux", "-L", "examples", "-f", "/dev/null")
    inside = ("sh", "-c", 'sh "$@"; echo $? > "$0"', str(ended), str(folder / "tmux-layout.sh"))
    with terminal_with(tmux, *server, "new-session", *inside, "--model", "a b") as terminal:
        terminal.expect_exact("guarded: [--] [--model] [a b]")
        terminal.expect_exact("no session is running")
        form = "#{pane_top} #{pane_height} #{pane_active}"
        panes = ask_tmux(tmux, *server[1:], "list-panes", "-F", form)
        terminal.send("\r")
        terminal.expect(pexpect.EOF)

    assert panes.splitlines() == ["0 21 1", "22 7 0"]
    assert ended.read_text() == "7\n"


@needs_tmux
def test_outside_tmux_the_layout_starts_tmux(tmux: dict[str, str]) -> None:
    """One command from a plain terminal gives both panes, and when the session ends, the terminal is back."""
    with terminal_with(tmux, "sh", str(EXAMPLES / "tmux-layout.sh"), "file.py") as terminal:
        terminal.expect_exact("guarded: [--] [file.py]")
        terminal.expect_exact("no session is running")
        terminal.send("\r")
        terminal.expect(pexpect.EOF)


@needs_tmux
def test_the_status_line_of_tmux_shows_the_sessions(tmux: dict[str, str]) -> None:
    """With the lines for ~/.tmux.conf, tmux's own status line says what runs."""
    conf = str(EXAMPLES / "aider-guard.tmux.conf")
    server = ("tmux", "-L", "examples", "-f", conf)
    with terminal_with(tmux, *server, "new-session", "cat") as terminal:
        terminal.expect_exact("no session")


def test_every_example_is_listed() -> None:
    """The folder's README names every file in it."""
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    assert {name for name in names if f"`{name}`" not in text} == set()
