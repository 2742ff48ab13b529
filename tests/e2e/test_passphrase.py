"""A signed commit asks for its passphrase on Aider's own terminal, with the real gpg and pinentry-curses."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from airgap.layers import guard_program
from e2e.desk import QUIET, Desk
from e2e.people import Guarded, Onlooker
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

PASSPHRASE = "correct horse"
MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)
FILE = "till/prices.py"


@pytest.fixture
def keys() -> Iterator[Path]:
    """A GnuPG home with one key, whose passphrase is asked for on a terminal. Its agent ends with the test."""
    programs = ("gpg", "gpgconf", "pinentry-curses")
    if missing := [program for program in programs if not shutil.which(program)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:  # a socket's path is 108 bytes at most
        folder = Path(home)
        (folder / "gpg-agent.conf").write_text(f"pinentry-program {shutil.which(programs[2])}\n")
        env = {**os.environ, "GNUPGHOME": home}
        make = ["gpg", "--batch", "--passphrase", PASSPHRASE, "--pinentry-mode", "loopback"]
        make += ["--quick-gen-key", "A User <user@example.com>", "ed25519", "sign", "never"]
        subprocess.run(make, env=env, check=True, capture_output=True)
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=True)
        yield folder
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=True)


class WithTerminalName(Guarded):
    """A person whose shell names the terminal in GPG_TTY, as gpg-agent(1) says."""

    def __init__(self, desk: Desk, ollama: str, keys: Path) -> None:
        self.state = Path(desk.env["AIDER_GUARD_STATE_DIR"])
        guard = [*guard_program(None), "--aider", str(desk.aider), "--num-ctx", "4096"]
        aider = ["--", "--model", "ollama_chat/small", *QUIET, FILE]
        shell = ["sh", "-c", 'GPG_TTY=$(tty) && export GPG_TTY && exec "$@"', "sh"]
        env = {**desk.env, "OLLAMA_API_BASE": ollama, "GNUPGHOME": str(keys)}
        Onlooker.__init__(
            self, [*shell, *guard, *aider], rows=40, columns=120, env=env, cwd=desk.repo
        )


def git(desk: Desk, *words: str) -> str:
    """Run git in the repository; what it prints."""
    return subprocess.run(
        ["git", *words], cwd=desk.repo, check=True, capture_output=True, text=True
    ).stdout


def enter_passphrase(person: Guarded) -> None:
    """Type it at pinentry's dialog, which shows a star for each letter.

    Ctrl-U first: on a busy machine the terminal's answer to Aider's prompt may have come to the dialog.
    """
    person.wait_for("Passphrase:")
    person.type(b"\x15" + PASSPHRASE.encode())
    person.wait_for(rf"Passphrase: \*{{{len(PASSPHRASE)}}}(?!\*)")
    person.type(b"\r")


def test_a_signed_commit(desk: Desk, keys: Path) -> None:
    """The passphrase reaches gpg whole, no letter of it is shown or sent, and the commit is signed."""
    git(desk, "config", "commit.gpgsign", "true")
    git(desk, "config", "user.signingkey", "user@example.com")
    with FakeOllama(models=(MODEL,)) as server, WithTerminalName(desk, server.url, keys) as person:
        person.wait_for_prompt()
        (desk.repo / FILE).write_text("x = 1\n")
        person.say("/commit signed")
        enter_passphrase(person)
        person.wait_for_prompt(2)
        person.type(b"/exit\r")
        assert person.end() == 0
        assert b"correct" not in person.shown
        assert not server.chats
    commit = git(desk, "cat-file", "commit", "HEAD")
    assert "-----BEGIN PGP SIGNATURE-----" in commit
    assert commit.endswith("signed\n")
