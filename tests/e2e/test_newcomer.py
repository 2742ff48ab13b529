"""A new user on a new account: a clone, ``make demo``, and every command of the texts, with what it must print."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.account import Account
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama
from pasted_commands import MODEL, PRINTS, ROOT, Shown, When

from aider_guard.demo.layout import Rig

if TYPE_CHECKING:
    from e2e.people import Onlooker

PROMPT = r"^\w*> *$"
INSTALLATION_SECONDS = 600
"""The package index may be slow."""
SMALL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)


@pytest.fixture
def account(rig: Rig, tmp_path: Path) -> Account:
    """The new user, who has cloned the repository, with what is not committed yet."""
    assert rig.is_complete()
    if not (ROOT / ".git").exists():
        pytest.skip("these files are no clone")
    new = Account.make(tmp_path)
    done = new.run(f"git clone --quiet {ROOT} {new.clone}", new.home, {})
    assert done.returncode == 0, done.stdout
    for name in uncommitted():
        target = new.clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return new


def uncommitted() -> list[str]:
    """The files of this checkout that are changed or new."""
    ways = (("diff", "--name-only", "-z", "HEAD"), ("ls-files", "-z", "-o", "--exclude-standard"))
    names: list[str] = []
    for words in ways:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        names += done.stdout.split("\0")[:-1]
    return [name for name in names if (ROOT / name).is_file()]


def commands(when: When) -> Iterator[tuple[str, Shown]]:
    """The commands that are typed then, in the order of the table."""
    return ((line, shown) for line, shown in PRINTS.items() if shown.when == when)


def type_all(account: Account, when: When, folder: Path, more: Mapping[str, str]) -> list[str]:
    """Type the commands of a time, one after the other; what went wrong, in words."""
    wrong = []
    for line, shown in commands(when):
        if shown.keys:
            with account.at_terminal(line, folder, more) as person:
                person.wait_for(PROMPT)
                person.type(shown.keys.encode())
                status, text = person.end(), bytes(person.shown).decode()
        else:
            done = account.run(line, folder, more)
            status, text = done.returncode, done.stdout
        is_right = shown.status in {status, None} and re.search(shown.prints, text, re.MULTILINE)
        if not is_right:
            wrong.append(f"{line}: status {status}, printed:\n{text}")
    return wrong


def wait_for_demo(person: Onlooker, account: Account) -> Path:
    """Wait for the prompt of the demo's session; the sample repository."""
    person.wait_for(r"^guarded: offline [^$]*^\w*> *$", INSTALLATION_SECONDS)
    said = bytes(person.shown).decode()
    found = re.search(r"A repository to try things in, which stays:\s+(\S+)", said)
    assert found, said
    assert (account.clone / ".venv" / "bin" / "aider-guard").exists()
    return Path(found[1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_new_user_follows_the_texts(account: Account, rig: Rig) -> None:
    """In the order of a first hour: the demo, another terminal beside it, then an Aider and Ollama of one's own."""
    with account.at_terminal("make demo", account.clone, {}) as person:
        folder = wait_for_demo(person, account)
        person.type(b"/add till/catalogue.py\r")
        person.wait_for(r"aider-guard: context about \d+ % full")
        person.wait_for(r"^  /drop till/catalogue.py")
        wrong = type_all(account, "while the demo runs", folder, {})
        person.wait_for(PROMPT)
        person.type(b"/exit\r")
        assert person.end() == 0, person.text()
        assert "To take away what the demo installed" in person.text()

    programs = account.home / ".local" / "bin"
    programs.mkdir(parents=True)
    (programs / "aider").symlink_to(rig.aider_command)
    with FakeOllama(models=(FakeModel(MODEL), SMALL)) as ollama:
        own = {"OLLAMA_API_BASE": ollama.url}
        wrong += type_all(account, "after the demo", folder, own)
    wrong += type_all(account, "at last", account.clone, {})
    assert wrong == [], "\n".join(wrong)
    assert not folder.exists()
    assert rig.is_complete()
