"""One conversation on a private Ollama, by each way: bare Aider, guarded, and its requests sent straight to Ollama."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from e2e.bare import UNASKED, Bare
from e2e.people import Guarded, Onlooker

from aider_guard.core.readings import Unavailable
from aider_guard.counting.vocabulary import FACTS, Vocabulary, vocabulary_of
from aider_guard.demo.layout import Rig
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama
from aider_guard.demo.sample import make_sample
from bench.tap import Asked, Tap, tap

MODEL = "terse"
WINDOW_TOKENS = 4096
ARGUMENTS = (
    *("--model", f"ollama_chat/{MODEL}", "--chat-mode", "ask", "--map-tokens", "512"),
    *("--no-show-model-warnings", "--no-gitignore", "till/prices.py", "tests/test_prices.py"),
)
TURNS = (
    "What does the first function do?",
    "And the second one?",
    "Is there anything that is not tested?",
    "Which of the tests is the shortest?",
    "What would you call that file, if you could choose?",
    "Thank you. What is a whole cent?",
    "Why are no floats used here?",
    "What is printed for a price of five cents?",
    "And for a price of nothing at all?",
    "What is the one thing that you would change?",
)
_LOAD = re.compile(r'msg="starting (?:llama[ -]server|runner)"')
_EVALUATED = re.compile(r'msg="loading cache slot".* remaining=(\d+)')


@dataclass
class Talk:
    """One way's session. Seconds of a turn are from Enter to the next prompt."""

    turn_seconds: list[float] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    evaluated_tokens: list[int] = field(default_factory=list)
    """Of each prompt that Ollama took, what was not in its cache."""
    loads: int = 0

    @property
    def seconds(self) -> float:
        """All turns."""
        return sum(self.turn_seconds)

    @property
    def ollama_seconds(self) -> float:
        """What of it was Ollama's."""
        return sum(asked.seconds for asked in self.asked)


@dataclass(frozen=True)
class Bench:
    """A private Ollama that tells what it evaluates, and the relay before it."""

    rig: Rig
    ollama: PrivateOllama
    tap: Tap
    folder: Path
    turns: Sequence[str]

    def bare(self, name: str) -> Talk:
        """Aider alone."""

        def session(env: dict[str, str], repo: Path) -> list[float]:
            command = [str(self.rig.aider_command), *ARGUMENTS, *UNASKED]
            with Bare(command, env=env, cwd=repo, rows=40) as person:
                person.wait_for(person.is_asked)
                seconds = [timed(person, line, person.is_asked) for line in self.turns]
                person.say("/exit")
                person.end()
            return seconds

        return self._measure(name, session)

    def guarded(self, name: str) -> Talk:
        """The same under the guard."""

        def session(env: dict[str, str], repo: Path) -> list[float]:
            options = ["--num-ctx", str(WINDOW_TOKENS)]
            aider = str(self.rig.aider_command)
            with Guarded(aider, ARGUMENTS, options=options, env=env, cwd=repo, rows=40) as person:
                person.wait_for_prompt()

                seconds = [
                    timed(person, line, prompted(person, seen + 1))
                    for seen, line in enumerate(self.turns, 1)
                ]
                person.type(b"/exit\r")
                person.end()
            return seconds

        return self._measure(name, session)

    def floor(self, talk: Talk) -> Talk:
        """What the guarded session asked for, asked again without it."""
        bodies = [asked.body for asked in talk.asked]

        def session(_env: dict[str, str], _repo: Path) -> list[float]:
            with httpx.Client(base_url=self.tap.url, timeout=600, trust_env=False) as client:
                return [replayed(client, body) for body in bodies]

        return self._measure("floor", session)

    def _measure(self, name: str, session: Callable[[dict[str, str], Path], list[float]]) -> Talk:
        repo = make_sample(self.folder / name / "till")
        (self.folder / name / "home").mkdir()
        self._unload()
        place, before = self.ollama.log_path.stat().st_size, len(self.tap.asked)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / name / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "AIDER_GUARD_STATE_DIR": str(self.folder / name / "state"),
            "OLLAMA_API_BASE": self.tap.url,
        }
        seconds = session(env, repo)
        with self.ollama.log_path.open("rb") as file:
            file.seek(place)
            log = file.read().decode(errors="replace")
        evaluated = list(map(int, _EVALUATED.findall(log)))
        return Talk(seconds, self.tap.asked[before:], evaluated, len(_LOAD.findall(log)))

    def _unload(self) -> None:
        self.ollama.unload(MODEL)
        deadline = time.monotonic() + 30
        while self.ollama.loaded():
            assert time.monotonic() < deadline, "the model is not unloaded"
            time.sleep(0.1)

    def vocabulary(self) -> Vocabulary:
        """The small model's own."""
        body = {"model": MODEL, "verbose": True}
        shown = httpx.post(f"{self.ollama.url}/api/show", json=body, timeout=60, trust_env=False)
        facts = shown.json()["model_info"]
        found = vocabulary_of({name: facts.get(name) for name in FACTS})
        assert not isinstance(found, Unavailable)
        return found


def prompted(person: Guarded, count: int) -> Callable[[], bool]:
    """Tells whether the main prompt was shown so often."""
    return lambda: len(person.journal("prompt_shown")) >= count


def timed(person: Onlooker, line: str, is_asked: Callable[[], bool]) -> float:
    """Seconds from Enter to the next prompt."""
    person.type(line.encode())
    person.wait_for(lambda: line in person.text())
    started = time.monotonic()
    person.type(b"\r")
    person.wait_for(is_asked, seconds=600)
    return time.monotonic() - started


def replayed(client: httpx.Client, body: dict[str, Any]) -> float:
    """Seconds of one request."""
    started = time.monotonic()
    client.post("/api/chat", json=body).raise_for_status()
    return time.monotonic() - started


@contextlib.contextmanager
def place(rig: Rig, turns: Sequence[str]) -> Iterator[Bench]:
    """An Ollama of its own with the model that stops after a sentence."""
    with tempfile.TemporaryDirectory(prefix="aider-guard-turns-") as name:
        folder = Path(name)
        models = folder / "models"
        link_tree(rig.models, models)
        program = telling(rig.ollama, folder / "program")
        with private_ollama(program, models, folder=folder) as ollama, tap(ollama.url) as before:
            parameters = {"stop": [".", "<|im_end|>"], "temperature": 0, "seed": 1}
            body = {"model": MODEL, "from": "small", "parameters": parameters, "stream": False}
            made = httpx.post(f"{ollama.url}/api/create", json=body, timeout=60, trust_env=False)
            made.raise_for_status()
            yield Bench(rig, ollama, before, folder, turns)


def link_tree(source: Path, target: Path) -> None:
    """The same folders, with links to the files."""
    for path in source.rglob("*"):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(path)


def telling(program: Path, folder: Path) -> Path:
    """The server, made to write into its log what it evaluates of each prompt."""
    link_tree(program, folder)
    command = folder / "server" / "ollama-lib"
    command.unlink()
    real = program / "server" / "ollama-lib"
    command.write_text(f'#!/bin/sh\nOLLAMA_DEBUG=1 exec "{real}" "$@"\n')
    command.chmod(0o755)
    return folder
