"""Builds the command that starts Aider, and tells which calls of Aider are not a session.

Nothing heavy is imported here: this runs before Aider starts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from aider_guard.config import Config
from aider_guard.core.egress import Place
from aider_guard.launch.aider import Aider
from aider_guard.ollama.names import DEFAULT_BASE, connectable_base
from aider_guard.paths import work_tree

INSIDE_AIDER = Path(__file__).with_name("inside_aider.py")

# The flags after which Aider ends by itself (aider/args.py 0.86.2), or shows no prompt in this terminal.
_ONE_SHOT = (
    "--message", "--msg", "-m", "--message-file", "-f", "--exit", "--version", "--help", "-h", "--commit", "--lint",
    "--test", "--apply", "--apply-clipboard-edits", "--list-models", "--models", "--show-repo-map", "--show-prompts",
    "--gui", "--browser", "--just-check-update", "--upgrade", "--update", "--install-main-branch",
    "--shell-completions",
)  # fmt: skip
_PAGE_FLAGS = frozenset(("--gu", "--gui", *("--browser"[:length] for length in range(3, 10))))
"""``--gui`` and ``--browser``, as short as argparse takes them: any beginning that no other flag has."""
_YES = ("true", "yes", "1")


def is_one_shot(arguments: Sequence[str]) -> bool:
    """Whether Aider, called with these arguments, does one thing and ends."""
    return any(argument.partition("=")[0] in _ONE_SHOT for argument in before_end(arguments))


def serves_page(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> bool:
    """Whether Aider, called like this in this folder, is used in a browser.

    The layer of the air gap depends on it, so it must be known before Aider runs. Aider's own parser (configargparse,
    aider/args.py 0.86.2) takes it from the command line, ``AIDER_GUI`` and every ``.aider.conf.yml``. What only a
    ``.env`` or a file of ``--config`` sets is not seen here.
    """
    # Aider looks for its settings here, at the top of the repository, and at home.
    folders = {folder, work_tree(folder) or folder, Path(os.path.expanduser("~"))}
    return (
        not _PAGE_FLAGS.isdisjoint(before_end(arguments))
        or environment.get("AIDER_GUI", "").lower() in _YES
        or any(_sets_page(each / ".aider.conf.yml") for each in folders)
    )


def before_end(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before a ``--``: after it there are names of files only."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _sets_page(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False  # Aider says what it cannot read
    if b"gui" not in content and b"browser" not in content:
        return False
    # Imported here: it brings a YAML parser, which few starts need.
    from aider_guard.launch.conf_file import read_conf

    conf = read_conf(path.name, content)
    if not isinstance(conf, dict):
        return False
    values = [value for key, value in conf.items() if str(key).lstrip("-") in {"gui", "browser"}]
    return any(str(value).lower() in _YES for value in values)


def aider_command(
    aider: Aider,
    channel: socket.socket,
    arguments: Sequence[str],
    *,
    report_fd: int = -1,
    allowed: Sequence[Place] = (),
    ahead: bool = False,
) -> list[str]:
    """The command line of an Aider that waits for the guard's answer on *channel* before it begins.

    Unless *report_fd* is -1, its Python reports there each attempt to connect, and reaches only the *allowed* places.
    One that is started *ahead* loads its code, and waits for its turn before it asks.
    """
    channels = f"standby:{channel.fileno()}" if ahead else str(channel.fileno())
    if report_fd >= 0:
        channels += f"/{report_fd}/{','.join(map(str, allowed))}"
    return [*aider.interpreter, str(INSIDE_AIDER), channels, aider.script, *arguments]


def aider_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment with the variables that keep Aider from asking the network.

    litellm reads its list of prices from the net at import unless told not to, and looks for Ollama without a time
    limit of its own when OLLAMA_API_BASE is not set (its llms/ollama). A ``.env`` still overrides the address. Neither
    of them reads ``OLLAMA_HOST``, the variable of Ollama's own command.
    """
    configured = connectable_base(config.ollama) if config.ollama else ""
    host = connectable_base(environment["OLLAMA_HOST"]) if environment.get("OLLAMA_HOST") else ""
    ollama = configured or environment.get("OLLAMA_API_BASE") or host or DEFAULT_BASE
    added = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AIDER_GUARD": "1", "OLLAMA_API_BASE": ollama}
    return {**environment, **added}
