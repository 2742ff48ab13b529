"""The commands that the texts tell a user to type, and what each must print.

They are read out of the texts: lines of code blocks, and code within a sentence, that begin with the name of a program.
What stands for something of the user's is filled in. Each is in one of two tables below: what a new user sees who types
it (``e2e/test_newcomer.py`` does), or why it is not typed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"))
    if path.name != "CHANGELOG.md"  # it tells of what was, also in earlier versions
)
PROGRAMS = (
    *("aider-guard", "make", "ollama", "docker", "git", "eval", "tmux-layout.sh", "command"),
    *("pip", "pipx", "uv", "brew", "python", "python3", "PYTHONPATH=tests"),
)
"""What a command begins with."""
MODEL = "qwen3:8b"
_FILLED = {
    r" \[-- AIDER ARGS\]": f" -- --model ollama_chat/{MODEL}",
    r" AIDER ARGS": f" --model ollama_chat/{MODEL}",
    r" \[(SESSION\\\|)?FOLDER\]": "",
    r" MODEL(\.\.\.)?(?= |$)": f" {MODEL}",
    r" SHELL| bash\\\|zsh\\\|fish": " bash",
    r" show\\\|init": " show",
}
"""What a user puts in the place of a word in capitals, or of a choice."""
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)

When = Literal["while the demo runs", "after the demo", "at last"]


@dataclass(frozen=True)
class Shown:
    """What a command must print, as a regular expression, and its exit status; with keys, it is run at a terminal."""

    when: When
    prints: str
    status: int | None = 0
    """None where it depends on the machine."""
    keys: str = ""


def pasted(texts: list[Path] = TEXTS) -> set[str]:
    """Every command of the texts, filled in, in one line without what is said behind it."""
    found = (filled(line) for path in texts for line in _commands(path.read_text(encoding="utf-8")))
    return {line for line in found if " " in line}


def filled(line: str) -> str:
    """A command as a user types it."""
    line = re.split(r"\s#\s|\s{2,}", line.removeprefix("$ "))[0]
    line = " ".join(line.split())
    for words, instead in _FILLED.items():
        line = re.sub(words, instead, line)
    return line


def _commands(text: str) -> Iterator[str]:
    for block in _BLOCK.findall(text):
        yield from (line for line in block.splitlines() if _is_command(line.removeprefix("$ ")))
    sentences = " ".join(_BLOCK.sub("", text).split())
    yield from filter(_is_command, re.findall(r"(?<!`)`([^`]+)`(?!`)", sentences))


def _is_command(line: str) -> bool:
    first, _, more = line.partition(" ")
    return first in PROGRAMS and bool(more.strip())


_LEAVE = "/exit\r"
_NO_GPU = r"it fits|does not fit|no GPU was found here"
"""What this machine has is not this project's to say."""

PRINTS: dict[str, Shown] = {
    "aider-guard status": Shown("while the demo runs", r"\btill\b"),
    "aider-guard status --json": Shown("while the demo runs", r'"model": "small'),
    "aider-guard top": Shown("while the demo runs", r"till +prompt\n(.*\n)*.* % full"),
    "aider-guard restart": Shown("while the demo runs", r"restart"),
    "aider-guard --version": Shown("after the demo", r"^aider-guard, version \d"),
    "aider-guard config show": Shown("after the demo", r"^max-turns +20 +default$"),
    "aider-guard config init": Shown("after the demo", r"^wrote .*/config\.toml"),
    "aider-guard completion bash": Shown("after the demo", r"complete .* aider-guard$"),
    'eval "$(aider-guard completion bash)"': Shown("after the demo", r"\A\Z"),
    f"aider-guard fit {MODEL}": Shown("after the demo", _NO_GPU, None),
    f"aider-guard fit {MODEL} --vram 16": Shown("after the demo", r"^it fits: "),
    f"aider-guard fit {MODEL} --vram 4": Shown("after the demo", rf"^{MODEL} does not fit: ", 1),
    "aider-guard init": Shown(
        "after the demo", rf"ollama_chat/{MODEL}|no GPU was found here", None
    ),
    "aider-guard doctor": Shown("after the demo", r"^stop +no model is named", 1),
    f"aider-guard doctor -v -- --model ollama_chat/{MODEL}": Shown(
        "after the demo", r"^info +the kernel blocks|^warn +nothing is blocked", None
    ),
    "aider-guard doctor --report": Shown("after the demo", r"^aider-guard +\d", 1),
    f"aider-guard -- --model ollama_chat/{MODEL}": Shown(
        "after the demo", r"nothing tried to leave|asked to behave", keys=_LEAVE
    ),
    "aider-guard sessions": Shown("after the demo", rf"{MODEL}(.*\n)*.*small"),
    "aider-guard sessions --last": Shown("after the demo", rf"{MODEL}(.*\n)*.*small"),
    "aider-guard report": Shown("after the demo", r"^/.*\.html$"),
    "aider-guard resume": Shown("after the demo", r"resumed the session of", keys=_LEAVE),
    "aider-guard demo --remove": Shown("at last", r"^Removed /.*aider-guard-demo-"),
}
"""What a new user sees, by command, in the order in which they are typed."""

NOT_TYPED: dict[str, str] = {
    r"make demo": "test_newcomer.py begins with it",
    r"aider-guard demo": "what `make demo` runs",
    r"make .+": "for contributors; `make test` runs this, test_makefile.py looks at the others",
    r"(PYTHONPATH=tests )?python3? -m .+": "for contributors; a measurement takes minutes",
    r"(pipx|uv tool|pip) .+": "needs a release, or a program that is not here; test_release.py installs the archives",
    r"docker .+": "a container is not started in a test",
    r"(ollama|git) .+": "not this project's program",
    r"command aider|tmux-layout\.sh .+": "test_examples.py runs it",
    r"aider-guard --help": "test_cli.py runs it",
    r"aider-guard fit": "the name of a command, in a table",
    r"aider-guard doctor( -v|( --)( --model .+)?)": "two of its forms are typed",
    r"aider-guard (.+ )?-- --model \S+( src/main\.py)?": "one session and one that is resumed are enough",
}
"""Why a command is not typed, by a regular expression for it."""
