"""A repository and a home at which sessions are held, on whatever Ollama is named."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.people import Guarded
from fakes.ollama_models import CHATML, FakeModel
from fakes.vocabulary import tiny

QUIET = ("--no-show-model-warnings", "--no-gitignore", "--map-tokens", "0", "--chat-mode", "ask")
MIB = 1024**2
COUNTABLE = FakeModel(
    "small:latest",
    size_bytes=300 * MIB,
    vram_bytes=0,
    trained_tokens=8192,
    blob="5a" * 32,
    vocabulary=tiny(),
    template=CHATML,
)
"""A model that can be counted exactly; about one token for each two letters."""
ANOTHER = FakeModel(
    "other:latest", size_bytes=300 * MIB, vram_bytes=0, trained_tokens=8192, blob="0c" * 32
)
_TOO_LARGE = re.compile(
    r"aider-guard: not sent: (exactly|about) (?P<over>[\d,]+) tokens too large for the window of (?P<window>[\d,]+)"
)
_COMMAND = re.compile(
    r"""^ *(/(?:drop|clear|reset)(?: (?:"[^"]+"|[^\s(]+))*)\s+\((?:frees|drops)""", re.MULTILINE
)


@dataclass(frozen=True)
class Desk:
    """A user's working place. ``env`` is the whole environment of the programs started here."""

    aider: Path
    repo: Path
    env: Mapping[str, str] = field(repr=False)

    def session(
        self,
        ollama: str,
        *arguments: str,
        window_tokens: int = 4096,
        options: tuple[str, ...] = (),
        model: str = "ollama_chat/small",
    ) -> Guarded:
        """A guarded session in ask mode, without a map."""
        return Guarded(
            str(self.aider),
            ["--model", model, *QUIET, *arguments],
            options=["--num-ctx", str(window_tokens), *options],
            env={**self.env, "OLLAMA_API_BASE": ollama},
            cwd=self.repo,
            rows=40,
            columns=160,
        )

    def file(self, name: str, functions: int) -> str:
        """A committed Python file, of about 17 of the small model's tokens a function; its name."""
        text = "".join(
            f"def function_{n}(a, b):\n    return a * {n} + b\n" for n in range(functions)
        )
        path = self.repo / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        subprocess.run(["git", "add", "-A"], cwd=self.repo, check=True)
        subprocess.run(["git", "commit", "-qm", "a file"], cwd=self.repo, check=True)
        return name


def insist(person: Guarded, line: str) -> None:
    """Say something, and that it shall be tried although Aider itself thinks that it is too much."""
    prompts = len(person.journal("prompt_shown"))
    person.say(line)
    asked = "Try to proceed anyway"
    person.wait_for(lambda: asked in person.text() or len(person.journal("prompt_shown")) > prompts)
    if len(person.journal("prompt_shown")) == prompts:
        person.type(b"y\r")
    person.wait_for_prompt(prompts + 1)


def refusal(person: Guarded) -> tuple[int, str]:
    """By how many tokens the last prompt was too large, and the command that the door names; both are on the screen."""
    text = person.text()
    found = list(_TOO_LARGE.finditer(text))
    assert found, f"nothing was refused; the screen:\n{text}"
    # On a busy machine Aider leaves a line of an answer's live view below its end: the last one need not be whole.
    commands = [command for one in found if (command := _COMMAND.search(text, one.end()))]
    assert commands, f"no command was named; the screen:\n{text}"
    return int(found[-1]["over"].replace(",", "")), commands[-1][1]


def wait_until(person: Guarded, holds: Callable[[], bool], seconds: float) -> float:
    """Wait for something that is not on the screen; the seconds it took."""
    since = time.monotonic()
    person.wait_for(holds, seconds)
    return time.monotonic() - since
