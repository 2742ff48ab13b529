"""The parts of ``aider.main`` (0.86.2) that are asked before Aider begins, and a ``main`` that becomes a small program.

``AIDER_LIKE_CHILD`` holds that program's command line as JSON. ``AIDER_LIKE_FORM`` is ``settings`` when the questions
are answered, as Aider without any settings would; else the parser is not to be had, as in an Aider that changed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

git = None
models = SimpleNamespace(MODEL_ALIASES={})


def get_parser(_config_files: list[str], _git_root: str | None) -> argparse.ArgumentParser:
    """Aider's parser, with the few options that are looked at."""
    if os.environ.get("AIDER_LIKE_FORM") != "settings":
        raise AttributeError("this Aider has no parser")
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--model", default="llamafile/a-model-of-this-machine")
    parser.add_argument("--message")
    for name in ("weak-model", "editor-model", "env-file", "analytics-log"):
        parser.add_argument(f"--{name}")
    for name in ("model-settings-file", "model-metadata-file", "notifications-command"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--chat-history-file", default=".aider.chat.history.md")
    parser.add_argument("--input-history-file", default=".aider.input.history")
    parser.add_argument("--encoding", default="utf-8")
    parser.add_argument("--read", action="append")
    parser.add_argument("--set-env", action="append")
    parser.add_argument("--alias", action="append")
    for name in ("restore-chat-history", "notifications", "multiline"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def load_dotenv_files(_git_root: str | None, _env_file: str | None, _encoding: str) -> None:
    """No ``.env`` is read."""


def generate_search_path_list(name: str, _git_root: str | None, given: str | None) -> list[str]:
    """Where settings files are looked for."""
    return [name, *([given] if given else [])]


def main(argv: list[str]) -> None:
    """Become the small program. What Aider was called with is in ``aider.argv`` of the folder, for tests to read."""
    Path("aider.argv").write_text(json.dumps(argv), encoding="utf-8")
    program = json.loads(os.environ["AIDER_LIKE_CHILD"])
    signal.signal(
        signal.SIGPIPE, signal.SIG_DFL
    )  # Python ignores it, and a program would inherit that
    os.execvp(program[0], program)
