"""Builds the arguments that the guard adds to Aider's command line, and sends them to the waiting Aider."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aider_guard.core.actions import Handoff
from aider_guard.core.chatlog import Announced
from aider_guard.core.drop_advice import quote_for_aider
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.environment import LocalEnvironment

_QUIET = ("--no-check-update", "--no-analytics", "--no-show-release-notes")


@dataclass(frozen=True)
class LaunchFiles:
    """The files of one launch."""

    chat_history: Path
    input_history: Path
    analytics_log: Path
    bell: Path
    commands: Path
    model_settings: Path
    model_metadata: Path
    encoding: str = "utf-8"
    """What Aider reads and writes the chat history and the commands in (``--encoding``)."""


def session_arguments(files: LaunchFiles, aider: AiderSettings) -> list[str]:
    """The arguments after the user's own at every launch of a session: private histories, the pins, the side channels,
    no calls home. The user's notification command still runs.
    """
    notify = f"echo . >> {shlex.quote(str(files.bell))}"
    users = aider.notifications_command or aider.default_notifications_command
    command = f"{notify}; {users}" if aider.notifications and users else notify
    return [
        *("--chat-history-file", str(files.chat_history)),
        *("--input-history-file", str(files.input_history)),
        *("--model-settings-file", str(files.model_settings)),
        *("--model-metadata-file", str(files.model_metadata)),
        *("--analytics-log", str(files.analytics_log)),
        *("--notifications", "--notifications-command", command),
        *_QUIET,
    ]


def one_shot_arguments(model_settings: Path, model_metadata: Path) -> list[str]:
    """The arguments after the user's own when there is no session: the pins, and no calls home."""
    return [
        *("--model-settings-file", str(model_settings)),
        *("--model-metadata-file", str(model_metadata)),
        *_QUIET,
    ]


def send_answer(
    channel: socket.socket,
    arguments: Sequence[str],
    environment: LocalEnvironment = LocalEnvironment(),  # noqa: B008  # a frozen value
    next_prompts_fd: int = -1,
) -> None:
    """Let the Aider at the other end of *channel* begin. Raises OSError when it ended meanwhile.

    Unless it is -1, Aider tells its next prompts on *next_prompts_fd*, which it inherited.
    """
    after_dotenv = _after_dotenv(environment)
    answer: dict[str, Any] = {
        "arguments": list(arguments),
        "environment": {},
        "after_dotenv": after_dotenv,
    }
    if next_prompts_fd >= 0:
        answer["next_prompts_fd"] = next_prompts_fd
    channel.sendall(json.dumps(answer).encode() + b"\n")


def send_variables(channel: socket.socket, environment: LocalEnvironment) -> None:
    """Tell Aider the variables with which it may load its code; one that was started ahead, then also that it is its
    turn. Raises OSError when it ended meanwhile.
    """
    channel.sendall(json.dumps({"variables": _after_dotenv(environment)}).encode() + b"\n")


def _after_dotenv(environment: LocalEnvironment) -> dict[str, object]:
    return {"set": dict(environment.set), "unset": list(environment.unset)}


# Aider asks at its start whether to create a repository, what to add to .gitignore, and whether to open a page on the
# model (aider/main.py, 0.86.2). That was answered at the first start, and a Yes needs no question any more.
_ANSWERED = ("--no-gitignore", "--no-show-model-warnings")


def handoff_arguments(
    files: LaunchFiles, handoff: Handoff, first: Announced, last: Announced, *, has_git: bool
) -> list[str]:
    """The arguments that restore the last Aider's chat in a restarted one, which asks nothing at its start again.

    Models are named only where they changed. An Aider that worked without git, *has_git* tells, goes on so.
    """
    arguments = ["--restore-chat-history", "--load", str(files.commands), *_ANSWERED]
    if not has_git:
        arguments.append("--no-git")
    arguments.append("--multiline" if handoff.multiline else "--no-multiline")
    if last.edit_format:
        arguments += ["--edit-format", last.edit_format]
    for flag, before, now in (
        ("--model", first.main_model, last.main_model),
        ("--weak-model", first.weak_model, last.weak_model),
        ("--editor-model", first.editor_model, last.editor_model),
    ):
        if now and now != before:
            arguments += [flag, now]
    return arguments


def load_commands(handoff: Handoff, launched_read_only: Sequence[str]) -> str:
    """The content of the file for ``--load``: drop what the command line added, then add what was in the chat.

    A file given with ``--read`` survives a bare ``/drop``, so one that was dropped since is dropped by name.
    """
    if not handoff.known:
        return ""
    dropped = [name for name in launched_read_only if name not in handoff.read_only]
    lines = ["/drop"]
    lines += [f"/drop {quoted}" for quoted in map(quote_for_aider, dropped) if quoted]
    lines += [f"/add {quoted}" for quoted in map(quote_for_aider, handoff.editable) if quoted]
    lines += [
        f"/read-only {quoted}" for quoted in map(quote_for_aider, handoff.read_only) if quoted
    ]
    return "".join(line + "\n" for line in lines)
