"""How often the next prompt is what was read ahead: sessions of real Aider, guarded, on a model that follows a script.

``python -m bench.predicted --turns 300``. The script of each session is drawn from its seed: messages with and without
an edit, files added and dropped, edits undone, made outside or by a command, other modes, summaries, with commits and
without. Of each message the journal tells how much of the expected prompt the real one began with, and where they part.
With ``--repository`` they work on a copy of one, whose map cannot hold all of it and follows the names in a message.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.people import Guarded
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

from aider_guard.demo.layout import Rig, cache_folder, rig_in
from aider_guard.demo.sample import make_sample

MODEL = "scripted"
TURNS_OF_A_SESSION = 30
PAUSE_SECONDS = 4.0
"""How long a user reads and types, at least: the fake model needs no time, but Aider needs some to make the prompt."""
FILES = ("till/prices.py", "till/__init__.py", "tests/test_prices.py")
_LARGEST_BYTES = 4000
_USED_IN_FILES = 3
"""Of names that are used in fewer files the map shows none more for being named in a message."""
_WORDS = ("price", "basket", "total", "cent", "rounding", "quantity", "test", "file", "name")
_STEPS = {
    "ask": 30,
    "edit": 30,
    "add": 7,
    "drop": 5,
    "read-only": 3,
    "undo": 5,
    "outside": 6,
    "run": 4,
    "mode": 5,
    "one question in another mode": 3,
    "clear": 1,
    "tokens": 1,
}
"""What a user does, and how often of a hundred times. The first two, and a question in another mode, are messages."""


@dataclass
class Script:
    """What the model answers: an edit of a file where the message asks for one, else words."""

    edited: str = ""
    count: itertools.count[int] = field(default_factory=itertools.count)

    def answer(self, body: Mapping[str, Any]) -> str:
        """Answer one request."""
        messages = body.get("messages") or [{"content": body.get("prompt", "")}]
        if "commit messages" in messages[0]["content"]:
            return "refactor: change a line"
        if "*Briefly* summarize" in messages[0]["content"]:
            return "I asked you about the till, and we changed some lines of it."
        number = next(self.count)
        name, self.edited = self.edited, ""
        if not name:
            return f"That is answer {number}. " + "It is as it should be. " * (number % 7)
        path = Path(name)
        old = path.read_text().splitlines()[0] if path.exists() else ""
        new = f"# line {number}"
        replaced = new if re.fullmatch(r"# line \d+", old) else f"{new}\n{old}"
        short = "/".join(path.parts[-2:])
        block = f"<<<<<<< SEARCH\n{old}\n=======\n{replaced}\n>>>>>>> REPLACE"
        return f"I change it.\n\n{short}\n```python\n{block}\n```\n"


@dataclass
class Session:
    """One session's steps, drawn from its seed."""

    person: Guarded
    repo: Path
    script: Script
    dice: random.Random
    pause_seconds: float
    files: tuple[str, ...]
    words: tuple[str, ...]
    in_chat: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)

    def run(self, turns: int) -> None:
        """Take steps until so many messages were sent."""
        asked = 0
        while asked < turns:
            step = self.dice.choices(list(_STEPS), list(_STEPS.values()))[0]
            line = self._line(step)
            if not line:
                continue
            self.done[step] += 1
            asked += step in ("ask", "edit", "one question in another mode")
            self._say(line)

    def _say(self, line: str) -> None:
        """Type the first word after half of the pause, and the others in the rest of it, as a user does who thinks."""
        ahead = len(self.person.journal("prompt_shown"))
        first, *others = re.findall(r"\S+\s*", line)
        self._pass(self.pause_seconds / 2)
        self.person.type(first.encode())
        for word in others:
            self._pass(self.pause_seconds / 2 / len(others))
            self.person.type(word.encode())
        self.person.say("")
        self.person.wait_for(lambda: len(self.person.journal("prompt_shown")) > ahead)

    def _pass(self, seconds: float) -> None:
        over = time.monotonic() + seconds
        self.person.wait_for(lambda: time.monotonic() > over)

    def _line(self, step: str) -> str:
        words = " and the ".join(self.dice.sample(self.words, 2))
        outside = sorted(set(self.files) - self.in_chat)
        match step:
            case "ask":
                return f"Is the {words} right, as far as you can see it here?"
            case "edit" if self.in_chat:
                self.script.edited = str(self.repo / self.dice.choice(sorted(self.in_chat)))
                return f"Mark the {words}."
            case "add" if outside:
                self.in_chat.add(name := self.dice.choice(outside))
                return f"/add {name}"
            case "drop" if len(self.in_chat) > 1:
                self.in_chat.remove(name := self.dice.choice(sorted(self.in_chat)))
                return f"/drop {name}"
            case "read-only" if outside:
                return f"/read-only {self.dice.choice(outside)}"
            case "outside" if self.in_chat:
                path = self.repo / self.dice.choice(sorted(self.in_chat))
                path.write_text(path.read_text() + f"# by hand {self.dice.random():.4f}\n")
                return "/ls"
            case "mode":
                return f"/chat-mode {self.dice.choice(['ask', 'code', 'code'])}"
            case "one question in another mode":
                return f"/ask Why is the {words} so?"
            case "undo" | "clear" | "tokens":
                return f"/{step}"
            case "run":
                return "/run true"
        return ""


@dataclass
class Tally:
    """What the journals of all sessions tell."""

    compared: list[tuple[int, str]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    messages: int = 0

    def add(self, session: Session) -> None:
        """Take in a session."""
        for line in session.person.journal("next_prompt_compared"):
            self.compared.append((line["matched_percent"], line["parted_in"]))
        for line in session.person.journal("next_prompt_unknown"):
            self.unknown[line["reason"]] += 1
        self.steps += session.done
        self.messages += sum(
            line["purpose"] == "chat" for line in session.person.journal("request_started")
        )

    def rows(self) -> Iterator[str]:
        """The table."""
        whole = sum(not parted for _, parted in self.compared)
        share = 100 * whole / max(len(self.compared), 1)
        yield f"{len(self.compared)} prompts compared of {self.messages} requests, {dict(self.steps)}"
        yield f"began with all that was expected: {whole} ({share:.1f} %; aim: 95 %)"
        for parted, count in Counter(parted for _, parted in self.compared if parted).most_common():
            percents = sorted(percent for percent, at in self.compared if at == parted)
            middle = percents[len(percents) // 2]
            yield f"  parted in {parted}: {count}, with {middle} % the same in the median"
        for reason, count in self.unknown.items():
            yield f"  not told: {reason}: {count}"


def measure(rig: Rig, options: argparse.Namespace) -> Tally:
    """Run sessions until so many messages were sent."""
    tally = Tally()
    for number, before in enumerate(range(0, options.turns, TURNS_OF_A_SESSION)):
        of_this = min(options.turns - before, TURNS_OF_A_SESSION)
        dice = random.Random(options.seed + number)  # to repeat it
        with tempfile.TemporaryDirectory(prefix="aider-guard-predicted-") as name:
            tally.add(run_session(rig, Path(name), of_this, dice, options))
        print(f"{before + of_this} of {options.turns} messages", flush=True)
    return tally


def _work_on(repository: str, folder: Path, dice: random.Random) -> tuple[tuple[str, ...], ...]:
    """Make the sample in a folder, or a copy of a repository; return files for the chat, and words for messages."""
    if not repository:
        make_sample(folder)
        return FILES, _WORDS
    subprocess.run(["git", "clone", "--quiet", repository, str(folder)], check=True)
    paths = sorted(folder.rglob("*.py"))
    small = [path for path in paths if 0 < path.stat().st_size < _LARGEST_BYTES]
    texts = [path.read_text(errors="replace") for path in paths]
    names = {name for text in texts for name in re.findall(r"^ *def (\w+)", text, re.MULTILINE)}
    used = Counter(word for text in texts for word in set(re.findall(r"\w+", text)))
    names = {name for name in names if used[name] >= _USED_IN_FILES}
    files = tuple(str(path.relative_to(folder)) for path in dice.sample(small, 3))
    return files, tuple(dice.sample(sorted(names), 20))


def run_session(
    rig: Rig, folder: Path, turns: int, dice: random.Random, options: argparse.Namespace
) -> Session:
    """Run one session; half of them make commits."""
    script, repo = Script(), folder / "till"
    files, words = _work_on(options.repository, repo, dice)
    (folder / "home").mkdir()
    model = FakeModel(f"{MODEL}:latest", trained_tokens=32768)
    talking = Talking(says=script.answer)
    with FakeOllama(models=(model,), talking=talking, version="0.35.0") as ollama:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "AIDER_GUARD_STATE_DIR": str(folder / "state"),
            "OLLAMA_API_BASE": ollama.url,
        }
        commits = () if dice.random() < 0.5 else ("--no-auto-commits",)
        given = (
            *("--model", f"ollama_chat/{MODEL}", "--edit-format", "diff", "--no-gitignore"),
            *("--no-show-model-warnings", "--yes-always", *commits),
            *("--map-refresh", options.map_refresh, files[0]),
        )
        guarded = ("--num-ctx", "16384", "--max-turns", "0", "--read-ahead", "on")
        aider = os.environ.get("AIDER_GUARD_BENCH_AIDER") or str(rig.aider_command)
        with Guarded(aider, given, options=guarded, env=env, cwd=repo, rows=40) as person:
            person.wait_for_prompt()
            pause = options.pause_seconds
            session = Session(person, repo, script, dice, pause, files, words, {files[0]})
            session.run(turns)
            person.type(b"/exit\r")
            person.end()
    return session


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.predicted", description=__doc__)
    parser.add_argument("--turns", type=int, default=300, help="messages in all sessions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--map-refresh", default="auto", help="Aider's, which decides the map")
    parser.add_argument(
        "--repository", default="", help="to work on a copy of it; else on the sample"
    )
    parser.add_argument("--pause-seconds", type=float, default=PAUSE_SECONDS, help="before a line")
    options = parser.parse_args()
    for row in measure(rig_in(cache_folder()), options).rows():
        print(row, flush=True)


if __name__ == "__main__":
    main()
