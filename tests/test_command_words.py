"""Words of the command line: misspelt ones, the settings and their sources, and completion by the shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import User

from aider_guard import config


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


MISSPELT: list[tuple[list[str], str]] = [
    (
        ["statsu"],
        "no such command: statsu; did you mean status? A file of that name: aider-guard -- statsu",
    ),
    (
        ["dcotor", "--json"],
        "no such command: dcotor; did you mean doctor? A file of that name: aider-guard -- dcotor",
    ),
    (
        ["--warnat", "70"],
        "no such option: --warnat; did you mean --warn-at? One of Aider's goes behind a --",
    ),
    (
        ["--model", "m", "--max_turn=3"],
        "no such option: --max_turn; did you mean --max-turns? One of Aider's goes behind a --",
    ),
    (
        ["--model", "m", "--max-turns", "3"],
        "--max-turns is an option of aider-guard: it goes before Aider's arguments",
    ),
    (
        ["status", "--jsn"],
        "no such option '--jsn'. Did you mean '--json'? aider-guard status --help shows what it takes",
    ),
    (
        ["doctor", "--reprot", "--model", "m"],
        "no such option: --reprot; did you mean --report? One of Aider's goes behind a --",
    ),
    (
        ["doctor", "--num-ctx", "4096"],
        "--num-ctx is an option of aider-guard: it goes before Aider's arguments",
    ),
    (
        ["completion"],
        (
            "missing argument 'bash|zsh|fish'. Choose from: bash, zsh, fish;"
            " aider-guard completion --help shows what it takes"
        ),
    ),
    (["fit"], "missing argument 'MODEL...'; aider-guard fit --help shows what it takes"),
]


@pytest.mark.parametrize(("words", "said"), MISSPELT, ids=[" ".join(m[0]) for m in MISSPELT])
def test_a_misspelt_word_is_refused_with_what_was_meant(
    user: User, words: list[str], said: str
) -> None:
    """Aider would create a file of that name in the repository, or print its own 80 lines of usage."""
    done = user.run(*words)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.replace(": --jsn", " '--jsn'") == f"aider-guard: {said}\n"


def test_a_file_that_is_there_is_no_misspelt_command(user: User) -> None:
    """Aider edits it."""
    (user.home / "statsu").write_text("")
    assert json.loads(user.run("statsu").stdout)[-1] == "statsu"


def test_settings_are_shown_with_their_sources(user: User) -> None:
    """A flag wins over a variable, a variable over the file."""
    folder = user.home / ".config" / "aider-guard"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('keep = 0.3\nwarn-at = 60\nallow = ["a.b:1"]\n')
    flags = ("--max-turns", "7", "config", "show")
    variables = {"AIDER_GUARD_WARN_AT": "70", "XDG_CONFIG_HOME": str(user.home / ".config")}
    rows = [line.split(maxsplit=2) for line in user.run(*flags, **variables).stdout.splitlines()]
    shown = {name: (value, source) for name, value, source in rows}
    assert list(shown) == list(config.SETTINGS)
    assert shown["max-turns"] == ("7", "the flag --max-turns")
    assert shown["warn-at"] == ("70", "AIDER_GUARD_WARN_AT")
    assert shown["keep"] == ("0.3", str(folder / "config.toml"))
    assert shown["allow"] == ("a.b:1", str(folder / "config.toml"))
    assert shown["num-ctx"] == ("auto", "default")
    facts = json.loads(user.run(*flags, "--json", **variables).stdout)
    assert facts["max-turns"] == {"value": 7, "source": "the flag --max-turns"}
    assert facts["allow"]["value"] == ["a.b:1"]


def test_a_settings_file_is_written_once(user: User) -> None:
    """It changes nothing as it stands, and one that is there is left alone."""
    variables = {"XDG_CONFIG_HOME": str(user.home / "new")}
    path = user.home / "new" / "aider-guard" / "config.toml"
    assert user.run("config", "init", **variables).stdout.startswith(f"wrote {path}")
    assert set(config.load_with_sources({}, environment={}, user_file=path)[1].values()) == {
        "default"
    }
    path.write_text("keep = 0.2\n")
    again = user.run("config", "init", **variables)
    said = f"aider-guard: {path} is there already, and was left as it is\n"
    assert (again.returncode, again.stderr, path.read_text()) == (64, said, "keep = 0.2\n")
    assert "show" in user.run("config", **variables).stdout


COMPLETED: list[tuple[list[str], list[str]]] = [
    (["aider-guard", "st"], ["status"]),
    (["aider-guard", "--max"], ["--max-turns"]),
    (["aider-guard", "fit", "m", "--kv", "q"], ["q8_0", "q4_0"]),
    (["aider-guard", "completion", "z"], ["zsh"]),
    (["aider-guard", "resume", "2026"], ["20260301-101500-4242"]),
    (["aider-guard", "--", "--ye"], ["--yes-always"]),
    (["aider-guard", "--keep", "0.2", "--", "-m", "x", "--no-gu"], ["--no-gui"]),
    (["aider-guard", "--", "st"], []),
]


@pytest.mark.parametrize(("words", "found"), COMPLETED, ids=[" ".join(c[0]) for c in COMPLETED])
def test_bash_completes(user: User, words: list[str], found: list[str]) -> None:
    """By the very script that the program prints; behind the dashes with the options of the Aider that is there."""
    options = user.script.parent.parent.parent / "lib" / "python3.12" / "site-packages" / "aider"
    options.mkdir(parents=True)
    (options / "args.py").write_text(
        'p.add_argument("--yes-always", action="store_true")\n'
        'p.add_argument("--gui", "--browser", action=argparse.BooleanOptionalAction)\n'
    )
    (user.home / "bin" / "python3").symlink_to(sys.executable)
    user.script.write_text(f"#!{user.home / 'bin' / 'python3'}\n")
    (user.state / "sessions" / "20260301-101500-4242").mkdir(parents=True)
    program = user.home / "bin" / "aider-guard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m aider_guard "$@"\n')
    program.chmod(0o755)
    asked = " ".join(words)
    script = (
        'eval "$(aider-guard completion bash)"; compopt() { :; }; '
        f"COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _aider_guard_completion aider-guard; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = user.environment()
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_a_script(user: User, shell: str) -> None:
    """It asks the same program."""
    assert f"_AIDER_GUARD_COMPLETE={shell}_complete" in user.run("completion", shell).stdout
