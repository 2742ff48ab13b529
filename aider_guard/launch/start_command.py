"""The command that starts Aider, and which calls of it are no session. Nothing heavy is imported before Aider runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aider_guard.config import Config
from aider_guard.core.egress import Place
from aider_guard.launch.aider import Aider
from aider_guard.ollama.names import connectable_base

# Whether Aider is to be used in a browser: known before Aider runs, because the layer of the air gap depends on it.
#
# Its own parser (configargparse, aider/args.py 0.86.2) takes this from the command line, ``AIDER_GUI`` and every
# ``.aider.conf.yml``. What only a ``.env`` or a file of ``--config`` says is not seen here.

_FLAGS = ("--gui", "--browser")
_SHORTEST = ("--gu", "--b")
"""What argparse takes for them: as much of a flag as begins no other one."""
_YES = ("true", "yes", "1")
_CONF = ".aider.conf.yml"


def serves_page(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> bool:
    """Whether Aider, so called in this folder, is used in a browser."""
    return (
        any(map(_is_flag, before_end(arguments)))
        or environment.get("AIDER_GUI", "").lower() in _YES
        or any(map(_conf_says_so, _confs(folder)))
    )


def before_end(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before a ``--``: after it there are names of files only."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _is_flag(argument: str) -> bool:
    return any(
        flag.startswith(argument) and argument.startswith(shortest)
        for flag, shortest in zip(_FLAGS, _SHORTEST, strict=True)
    )


def _confs(folder: Path) -> Iterator[Path]:
    """Where Aider looks for its settings: here, at the top of the repository, at home."""
    yield folder / _CONF
    root = next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)
    if root not in (None, folder):
        yield root / _CONF
    yield Path(os.path.expanduser("~")) / _CONF


def _conf_says_so(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False  # Aider says what it cannot read
    if b"gui" not in content and b"browser" not in content:
        return False
    from aider_guard.launch.conf_file import read_conf  # YAML is not read for nothing

    found = read_conf(path.name, content)
    if not isinstance(found, dict):
        return False
    pages = [value for key, value in found.items() if f"--{str(key).lstrip('-')}" in _FLAGS]
    return any(str(value).lower() in _YES for value in pages)


DEFAULT_OLLAMA = "http://127.0.0.1:11434"
INSIDE_AIDER = Path(__file__).with_name("inside_aider.py")

# Aider ends by itself after these (aider/args.py 0.86.2), or shows no prompt in this terminal.
_ONE_SHOT = (
    "--message", "--msg", "-m", "--message-file", "-f", "--exit", "--version", "--help", "-h", "--commit", "--lint",
    "--test", "--apply", "--apply-clipboard-edits", "--list-models", "--models", "--show-repo-map", "--show-prompts",
    "--gui", "--browser", "--just-check-update", "--upgrade", "--update", "--install-main-branch",
    "--shell-completions",
)  # fmt: skip


def is_one_shot(arguments: Sequence[str]) -> bool:
    """Whether Aider, so called, does one thing and ends."""
    return any(argument.partition("=")[0] in _ONE_SHOT for argument in before_end(arguments))


def aider_command(
    aider: Aider,
    channel: socket.socket,
    arguments: Sequence[str],
    *,
    report_fd: int = -1,
    allowed: Sequence[Place] = (),
) -> list[str]:
    """The command line of an Aider that asks on *channel* before it begins.

    Its Python reports its attempts to connect on *report_fd*, unless that is -1, and may reach only the *allowed*
    places.
    """
    channels = str(channel.fileno())
    if report_fd >= 0:
        channels += f"/{report_fd}/{','.join(map(str, allowed))}"
    return [*aider.interpreter, str(INSIDE_AIDER), channels, aider.script, *arguments]


def aider_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, and what keeps Aider from asking the network.

    litellm reads its list of prices from the net at import unless told not to, and looks for Ollama without a time
    limit of its own when OLLAMA_API_BASE is not set (its llms/ollama). A ``.env`` still overrides the address. Of
    ``OLLAMA_HOST``, which Ollama's own command reads, neither of them knows.
    """
    asked = connectable_base(config.ollama) if config.ollama else ""
    host = connectable_base(environment["OLLAMA_HOST"]) if environment.get("OLLAMA_HOST") else ""
    ollama = asked or environment.get("OLLAMA_API_BASE") or host or DEFAULT_OLLAMA
    ours = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AIDER_GUARD": "1", "OLLAMA_API_BASE": ollama}
    return {**environment, **ours}
