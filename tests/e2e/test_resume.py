"""A session that ended, or was killed, is opened again with its files, mode and last exchanges."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from e2e.people import Guarded, Onlooker
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama
from session.guards import CHECKOUT

if TYPE_CHECKING:
    from e2e.desk import Desk

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)


class Resuming(Guarded):
    """A person who types ``aider-guard resume``."""

    def __init__(
        self, desk: Desk, ollama: str, *words: str, size: tuple[int, int] = (40, 160)
    ) -> None:
        self.state = desk.repo.parent / "state"
        argv = [sys.executable, "-m", "aider_guard", "--aider", str(desk.aider), "resume", *words]
        env = {**desk.env, "OLLAMA_API_BASE": ollama}
        rows, columns = size
        Onlooker.__init__(self, argv, rows=rows, columns=columns, env=env, cwd=desk.repo)


def said(desk: Desk, *words: str) -> str:
    """What a command prints in another terminal."""
    command = [sys.executable, "-m", "aider_guard", *words]
    environment = {**desk.env, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, env=environment, cwd=desk.repo, capture_output=True, text=True, check=True
    )
    return done.stdout


def leave(person: Guarded) -> None:
    """Leave Aider."""
    person.type(b"/exit\r")
    assert person.end() == 0


def test_a_session_comes_back_after_its_end_and_after_a_kill(desk: Desk) -> None:
    """Two files, one renamed since, a read-only one, the mode and the exchange; then the same after kill -9."""
    one, two = desk.file("one.py", 2), desk.file("lib/two words.py", 3)
    talking = Talking(says="It is well.")
    with FakeOllama(models=(MODEL,), talking=talking) as ollama:
        with desk.session(ollama.url, one) as person:
            person.wait_for_prompt()
            person.ask(f'/add "{two}"')
            person.ask("/read-only README.md")
            person.ask("How is the till?")
            shown = said(desk, "top", "--once")
            assert f"  {desk.repo.name}  prompt\n" in shown
            assert "small" in shown
            assert "1 turn, restart in 19" in shown
            leave(person)
        assert "1 turn\n" in said(desk, "report", "--text").splitlines(keepends=True)[0]
        subprocess.run(["git", "mv", one, "first.py"], cwd=desk.repo, check=True)

        with Resuming(desk, ollama.url) as person:
            screen = person.wait_for(r"^ask>$")
            assert "3 files and the last exchange" in screen
            assert "one.py is first.py now" in screen
            assert not (desk.repo / one).exists()
            assert "Readonly: README.md" in screen
            assert "Editable: first.py lib/two words.py" in screen
            person.ask("And now?")
            person.process.send_signal(signal.SIGKILL)
            person.process.wait()

        with Resuming(desk, ollama.url) as person:
            screen = person.wait_for(r"^ask>$")
            assert "3 files and the last 2 exchanges" in screen
            assert "Editable: first.py lib/two words.py" in screen
            person.ask("Still there?")
            sent = json.dumps(ollama.chats[-1])
            assert "How is the till?" in sent
            assert "And now?" in sent
            leave(person)
    history = (desk.repo / ".aider.chat.history.md").read_text()
    assert history.count("#### How is the till?") == 1
    assert history.count("#### And now?") == 1
