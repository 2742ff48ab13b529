"""The script that runs in Aider's process, with a small package in Aider's place and a real socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aider_guard.launch.aider_settings import AiderSettings, decode
from aider_guard.launch.start_command import INSIDE_AIDER

# Names and steps are those of aider/main.py 0.86.2.
MAIN = """
import argparse, gc, json, os, sys
git = object()
class models:
    MODEL_ALIASES = {"4o": "gpt-4o"}
class Parser(argparse.ArgumentParser):
    def parse_known_args(self, *arguments):
        self.set_defaults(model=os.environ.get("AIDER_MODEL"))
        return super().parse_known_args(*arguments)
def get_git_root():
    # It starts git, which must not keep the guard's socket.
    passed_on.extend(fd for fd in map(int, os.listdir("/dev/fd")) if fd > 2 and is_inheritable(fd))
    return os.environ.get("ROOT")
def is_inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
passed_on = []
class Knot:
    def __del__(self, write=os.write):
        write(2, b"looked through at the end")
def get_parser(files, root):
    if os.environ.get("PARSER_RAISES"):
        raise RuntimeError("another parser")
    parser = Parser()
    for flag in ("--model", "--weak-model", "--env-file", "--encoding", "--model-settings-file",
                 "--model-metadata-file", "--notifications-command", "--chat-history-file", "--load"):
        parser.add_argument(flag)
    for flag in ("--alias", "--set-env", "--read"):
        parser.add_argument(flag, action="append")
    parser.add_argument("--notifications", action="store_true")
    parser.add_argument("--no-fancy-input", action="store_false", dest="fancy_input")
    parser.add_argument("files", nargs="*")
    parser.set_defaults(encoding="utf-8")
    return parser
def load_dotenv_files(root, env_file, encoding):
    os.environ["FROM_DOTENV"] = "yes"
    os.environ["AIDER_MODEL"] = "ollama_chat/dotenv"
    os.environ["OLLAMA_API_BASE"] = "http://dotenv"
def generate_search_path_list(name, root, named):
    return [os.path.join(root or ".", name), *([named] if named else [])]
def main(argv):
    if os.environ.get("ASSIGNS"):  # as every .env, --set-env and --api-key do
        os.environ.update(OPENAI_API_KEY="users", OTHER="users")
        os.environ["GITHUB_COPILOT_TOKEN"] = "users"
        os.environ.setdefault("GITHUB_COPILOT_TOKEN", "users")
    if os.environ.get("KNOT"):
        knot = Knot()
        knot.itself = knot
    still_open = [fd for fd in map(int, os.listdir("/dev/fd")) if fd > 3]
    said = {"loaded": gc.get_freeze_count(), "argv": argv, "passed_on": passed_on, "still_open": still_open}
    print(json.dumps({**said, "sys_argv": sys.argv, "path": sys.path[0], "environment": dict(os.environ)}))
    return 7
"""
IO = """
class InputOutput:
    def get_default_notification_command(self):
        return "ring"
"""  # fmt: skip


@pytest.fixture
def aider(tmp_path: Path) -> Path:
    """The script of an Aider, with its package beside it."""
    package = tmp_path / "bin" / "aider"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.86.2"\n')
    (package / "main.py").write_text(MAIN)
    (package / "io.py").write_text(IO)
    litellm = tmp_path / "bin" / "litellm"
    litellm.mkdir()
    (litellm / "__init__.py").write_text("")
    return tmp_path / "bin" / "aider.script"


class AiderRun:
    """One run: the question that came, and what Aider got after the answer."""

    def __init__(
        self,
        script: Path,
        *arguments: str,
        answer: bytes | None,
        only: bool = False,
        **environment: str,
    ) -> None:
        guards_end, aiders_end = socket.socketpair()
        with guards_end, aiders_end:
            channel = f"{'only:' if only else ''}{aiders_end.fileno()}"
            process = subprocess.Popen(
                [sys.executable, str(INSIDE_AIDER), channel, str(script), *arguments],
                pass_fds=[aiders_end.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "HOME": str(script.parent), **environment},
                cwd=script.parent,
            )
            aiders_end.close()
            guards_end.settimeout(20)
            self.question = b""
            if answer is None:
                guards_end.close()
            else:
                self.question = guards_end.makefile("rb").readline()
                if self.question and answer:
                    guards_end.sendall(answer)
                guards_end.close()
            out, err = process.communicate(timeout=20)
        self.status, self.error = process.returncode, err.decode()
        self.ran: dict[str, Any] = json.loads(out) if out else {}


def reply(*arguments: str, **environment: str) -> bytes:
    return json.dumps({"arguments": arguments, "environment": environment}).encode() + b"\n"


def test_aider_says_what_it_will_use_and_takes_what_is_added(aider: Path) -> None:
    """Its own parser's answer, aliases resolved, and then it runs with the user's arguments and ours after them."""
    run = AiderRun(
        *(aider, "--model", "fast", "--alias", "fast:ollama_chat/m", "--weak-model", "4o"),
        *("--model-settings-file", "mine.yml", "--read", "a b.md", "a.py"),
        answer=reply("--load", "x y", EXTRA="1"),
        ROOT="/repo",
    )
    settings = decode(run.question)
    assert isinstance(settings, AiderSettings)
    assert (settings.version, settings.git_root) == ("0.86.2", "/repo")
    assert (settings.model, settings.weak_model) == ("ollama_chat/m", "gpt-4o")
    assert settings.read == ("a b.md",)
    assert settings.model_settings_files == ("/repo/.aider.model.settings.yml", "mine.yml")
    assert settings.tokenizers.endswith("litellm/litellm_core_utils/tokenizers")
    assert (run.status, run.error) == (7, "")
    assert run.ran["argv"][-3:] == ["a.py", "--load", "x y"]
    assert run.ran["environment"]["EXTRA"] == "1"


def test_aider_runs_as_its_script_would_have_run_it(aider: Path) -> None:
    """Its name in sys.argv, its folder first on the path, the environment as it was before we asked."""
    run = AiderRun(aider, "a.py", answer=reply(), AIDER_MODEL="mine", KEPT="1")
    assert run.ran["sys_argv"] == [str(aider), "a.py"]
    assert run.ran["path"] == str(aider.parent)
    environment = run.ran["environment"]
    assert (environment["AIDER_MODEL"], environment["KEPT"]) == ("mine", "1")
    assert "FROM_DOTENV" not in environment
    assert "OLLAMA_API_BASE" not in environment


def test_the_last_search_for_garbage_leaves_out_what_was_loaded(aider: Path) -> None:
    """What Aider made itself is closed by it, as the database of its map is, of which files would be left."""
    run = AiderRun(aider, answer=reply(), KNOT="1")
    assert (run.status, run.error) == (7, "looked through at the end")
    assert run.ran["loaded"] > 1000


def test_what_the_dotenv_files_set_is_described(aider: Path) -> None:
    """They override the environment in Aider, so they do in the answer; --set-env comes after them."""
    settings = decode(AiderRun(aider, answer=reply(), OLLAMA_API_BASE="http://mine").question)
    assert isinstance(settings, AiderSettings)
    assert (settings.model, settings.ollama_api_base) == ("ollama_chat/dotenv", "http://dotenv")
    set_env = ("--set-env", "X=1", "--set-env", "OLLAMA_API_BASE= http://flag ")
    settings = decode(AiderRun(aider, *set_env, answer=reply()).question)
    assert isinstance(settings, AiderSettings)
    assert settings.ollama_api_base == "http://flag"


NOTIFICATIONS: list[tuple[tuple[str, ...], str | None]] = [
    ((), None),
    (("--notifications",), "ring"),
    (("--notifications", "--notifications-command", "mine"), None),
    (("--notifications-command", "mine"), None),
]


@pytest.mark.parametrize(("flags", "default"), NOTIFICATIONS)
def test_aiders_own_notification_is_named_where_it_would_be_used(
    aider: Path, flags: tuple[str, ...], default: str | None
) -> None:
    """Only when notifications are on and the user has no command: ours replaces it, so it must be chained."""
    settings = decode(AiderRun(aider, *flags, answer=reply()).question)
    assert isinstance(settings, AiderSettings)
    assert settings.default_notifications_command == default


@pytest.mark.parametrize(
    ("flags", "term", "is_fancy"),
    [
        ((), "xterm-256color", True),
        ((), "", True),
        ((), "DUMB", False),
        ((), "unknown", False),
        (("--no-fancy-input",), "xterm-256color", False),
    ],
)
def test_whether_aider_reads_with_prompt_toolkit(
    aider: Path, flags: tuple[str, ...], term: str, is_fancy: bool
) -> None:
    """Neither with its flag nor on a dumb terminal."""
    settings = decode(AiderRun(aider, *flags, answer=reply(), TERM=term).question)
    assert isinstance(settings, AiderSettings)
    assert settings.fancy_input is is_fancy


def test_another_aider_says_its_problem_and_runs_all_the_same(aider: Path) -> None:
    """The guard gets what the parser raised, and Aider starts with the guard's answer."""
    run = AiderRun(aider, "a.py", answer=reply(), PARSER_RAISES="1")
    assert json.loads(run.question) == {"problem": "RuntimeError: another parser"}
    assert (run.status, run.ran["argv"]) == (7, ["a.py"])


@pytest.mark.parametrize(
    "answer", [None, b"", b'{"arguments": ["--lo'], ids=["gone", "no answer", "half an answer"]
)
def test_without_the_guard_aider_runs_all_the_same(aider: Path, answer: bytes | None) -> None:
    """The guard is gone before the question, before the answer, or in the middle of it."""
    run = AiderRun(aider, "a.py", answer=answer)
    assert (run.status, run.error) == (7, "")
    assert run.ran["argv"] == ["a.py"]


def test_a_wrong_argument_is_aiders_own_affair(aider: Path) -> None:
    """Its parser's words and its status; the guard hears nothing."""
    run = AiderRun(aider, "--wrong", answer=b"")
    assert run.question == b""
    assert run.status == 2
    assert "unrecognized arguments: --wrong" in run.error


def test_nothing_of_aiders_keeps_the_channel_open(aider: Path) -> None:
    """What it starts while it is asked does not inherit it, and when Aider begins it is closed."""
    run = AiderRun(aider, answer=reply())
    assert (run.ran["passed_on"], run.ran["still_open"]) == ([], [])


def forced_reply(**after_dotenv: object) -> bytes:
    return json.dumps({"after_dotenv": after_dotenv}).encode() + b"\n"


def test_what_is_held_stands_against_whatever_aider_assigns(aider: Path) -> None:
    """Values stay ours, what is refused stays away, everything else is as it was assigned."""
    run = AiderRun(
        aider,
        answer=forced_reply(
            set={"OPENAI_API_KEY": "ours", "NEW": "ours"}, unset=["GITHUB_COPILOT_TOKEN"]
        ),
        ASSIGNS="1",
        GITHUB_COPILOT_TOKEN="from the start",
    )
    environment = run.ran["environment"]
    assert (environment["OPENAI_API_KEY"], environment["NEW"]) == ("ours", "ours")
    assert environment["OTHER"] == "users"
    assert "GITHUB_COPILOT_TOKEN" not in environment


def test_without_anything_to_hold_aider_assigns_as_ever(aider: Path) -> None:
    """An answer without it, as an open network's."""
    environment = AiderRun(aider, answer=reply(), ASSIGNS="1").ran["environment"]
    assert (environment["OPENAI_API_KEY"], environment["GITHUB_COPILOT_TOKEN"]) == (
        "users",
        "users",
    )


def test_asked_only_to_describe_aider_does_not_start(aider: Path) -> None:
    """The line goes out, nothing is waited for, and nothing runs, not even when the guard is gone."""
    run = AiderRun(aider, "--model", "4o", answer=b"", only=True)
    settings = decode(run.question)
    assert isinstance(settings, AiderSettings)
    assert (settings.model, run.status, run.ran) == ("gpt-4o", 0, {})
    assert AiderRun(aider, answer=None, only=True).ran == {}


def test_an_aider_of_unknown_shape_still_says_what_its_parser_says(aider: Path) -> None:
    """Without a Model to ask, the roles are those that are named; all else is known as ever."""
    settings = decode(
        AiderRun(aider, "--model", "4o", "--read", "a", answer=reply(), OPENAI_API_KEY="x").question
    )
    assert isinstance(settings, AiderSettings)
    assert (settings.model, settings.read) == ("gpt-4o", ("a",))
    assert [(role.role, role.model) for role in settings.roles] == [
        ("main", "gpt-4o"),
        ("editor", "gpt-4o"),
        ("weak", "gpt-4o"),
    ]
    assert settings.problems == ()
    assert [(key.name, key.source) for key in settings.keys] == [
        ("OPENAI_API_KEY", "the environment")
    ]
    assert settings.sources["model"] == "--model on the command line"


def test_nothing_of_the_guards_gets_on_aiders_path(aider: Path) -> None:
    """None of its modules can be imported there by its own name."""
    (aider.parent / "aider" / "main.py").write_text(
        MAIN.replace(
            "    still_open",
            "    import importlib.util as find\n"
            "    seen = [name for name in ('settings', 'cloud', 'inside', 'pins')"
            " if find.find_spec(name)]\n"
            "    raise SystemExit(','.join(seen) or 9)\n    still_open",
            1,
        )
    )
    run = AiderRun(aider, answer=reply(), PYTHONSAFEPATH="")
    assert (run.status, run.error) == (9, "")


def test_a_model_that_cannot_be_made_is_a_problem_and_no_end(aider: Path) -> None:
    """As when another version wants other arguments: the problem is reported, with the roles that have a name."""
    broken = MAIN.replace(
        '    MODEL_ALIASES = {"4o": "gpt-4o"}',
        '    MODEL_ALIASES = {"4o": "gpt-4o"}\n    MODEL_SETTINGS = []\n'
        "    register_models = staticmethod(len)\n"
        "    class Model:\n        get_model_info = validate_environment = None\n",
    )
    (aider.parent / "aider" / "main.py").write_text(broken)
    run = AiderRun(aider, "--model", "4o", answer=reply())
    settings = decode(run.question)
    assert isinstance(settings, AiderSettings)
    (problem,) = settings.problems
    assert problem.startswith("Aider's models cannot be resolved (")
    assert [role.model for role in settings.roles] == ["gpt-4o"] * 3
    assert run.status == 7
