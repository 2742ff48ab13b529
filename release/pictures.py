"""Records the pictures of the README: ``make pictures`` plays two sessions and draws what was on the screen.

Aider, the guard and Ollama are real, and what is typed is below.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.conftest import create
from e2e.people import Onlooker
from e2e.shallow import BRIEF, upload

from aider_guard.demo.model import TEMPLATE
from aider_guard.demo.ollama_server import private_ollama
from aider_guard.demo.rig import ensure_rig
from aider_guard.demo.sample import BUGGY_FILE, LARGE_FILE, make_sample
from release import badges
from release.terminal_picture import picture

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SESSION, TOP = FOLDER / "session.svg", FOLDER / "top.svg"
COLUMNS = 90
SHELL, PROMPT = r"^\$$", r"^> *$"
MODEL = "tiny"
"""The demo's model with one of its layers, which answers at once; what it says means nothing."""
START = f"aider-guard -- --model ollama_chat/{MODEL} {BUGGY_FILE}\r"

PATIENCE_SECONDS = 600
"""The longest wait: the model reads the first prompt, and answers."""

PARAMETERS = {**BRIEF, "stop": ["ns", "ro", "\u00a0"]}

Steps = Sequence[tuple[str, str]]
"""What is waited for on the screen, as a regular expression, and what is typed then."""

IN_THE_SESSION: Steps = (
    (SHELL, START),
    (PROMPT, f"/add {LARGE_FILE}\r"),
    (rf"^  /drop {LARGE_FILE}[^$]*^> *$", f"/drop {LARGE_FILE}\r"),
    (r"^Removed[^$]*^> *$", "!curl -sS https://api.openai.com\r"),
    (r"\[Yes\]:", "n\r"),
    (r"^aider-guard: blocked api[^$]*^> *$", "/exit\r"),
)
BEFORE_TOP: Steps = (
    (SHELL, START),
    (PROMPT, "What does total() return?\r"),
    (r"^Tokens: [^$]*^> *$", "And what does discounted() do?\r"),
    (r"discounted\(\)[^$]*^Tokens: [^$]*^> *$", f"/add {LARGE_FILE}\r"),
    (rf"^  /drop {LARGE_FILE}[^$]*^> *$", ""),
)


def play(person: Onlooker, steps: Steps) -> None:
    """Type the steps, each when what it waits for is on the screen."""
    for pattern, keys in steps:
        person.wait_for(pattern, PATIENCE_SECONDS)
        person.type(keys.encode())


def record(url: str, folder: Path, aider: Path) -> tuple[str, str]:
    """Play the sessions; the picture of the first at its end, and that of ``top`` beside the second."""
    home = folder / "home"
    home.mkdir()
    programs = os.pathsep.join((str(Path(sys.executable).parent), str(aider.parent)))
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PS1": "$ ",
        "AIDER_GUARD_STATE_DIR": str(folder / "state"),
        "AIDER_GUARD_GREETING": "on",
        "OLLAMA_API_BASE": url,
    }
    with shell(folder / "first" / "till", environment, rows=60) as person:
        play(person, IN_THE_SESSION)
        person.wait_for(r"^aider-guard: blocked by the kernel[^$]*^\$$")
        session = drawn(person, "A session of Aider under aider-guard")
    with shell(folder / "second" / "till", environment, rows=60) as person:
        play(person, BEFORE_TOP)
        beside = Onlooker(
            ["aider-guard", "top"], rows=12, columns=COLUMNS, env=environment, cwd=folder
        )
        with beside as watcher:
            watcher.wait_for(r"% full[^$]*answers ")
            top = drawn(watcher, "aider-guard top beside a session")
            watcher.type(b"q")
            watcher.end()
        person.type(b"/exit\r")
        person.wait_for(SHELL)
    return session, top


def drawn(person: Onlooker, title: str) -> str:
    """The picture of what a person's terminal showed."""
    size = person.screen
    return picture(bytes(person.shown), size.columns, size.lines, title)


def shell(folder: Path, environment: Mapping[str, str], rows: int) -> Onlooker:
    """A terminal with a shell in a sample repository."""
    repository = make_sample(folder)
    command = ("bash", "--norc", "--noprofile")
    return Onlooker(command, rows=rows, columns=COLUMNS, env=environment, cwd=repository)


def main() -> None:
    """Write the pictures, and the badges."""
    badges.main()
    rig = ensure_rig()
    with tempfile.TemporaryDirectory(prefix="aider-guard-pictures-") as name:
        folder = Path(name)
        models = folder / "models"
        shutil.copytree(rig.models, models, copy_function=os.symlink)
        with private_ollama(rig.ollama, models) as server:
            file = {f"{MODEL}.gguf": upload(rig, server)}
            create(server, MODEL, files=file, template=TEMPLATE, parameters=PARAMETERS)
            session, top = record(server.url, folder, rig.aider_command)
    FOLDER.mkdir(exist_ok=True)
    for path, text in ((SESSION, session), (TOP, top)):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
