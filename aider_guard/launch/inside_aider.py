"""Runs in Aider's own process, before Aider: tells the guard what Aider will use, and takes what the session adds.

Started as ``INTERPRETER inside_aider.py FD SCRIPT ARGS…``. One JSON line goes out on the socket FD, one comes back,
then Aider runs as its script would have run it. Asking in Aider's own process costs nothing, since everything that
is imported for the question is what Aider imports anyway, and the answer is right by construction: it is Aider's own
parser that reads the command line, ``AIDER_*``, every ``.env`` and every ``.aider.conf.yml``.

Only the standard library and Aider itself may be imported here; this file runs on any Python that Aider runs on.
"""

import importlib.util
import json
import os
import socket
import sys
from typing import Any

_MODELS = ("model", "weak_model", "editor_model")
_WANTED = (
    *_MODELS,
    "chat_history_file",
    "input_history_file",
    "restore_chat_history",
    "analytics_log",
    "notifications",
    "notifications_command",
    "multiline",
    "encoding",
    "read",
)


def describe(arguments: list[str]) -> dict[str, Any]:
    """What Aider's own parser makes of the arguments, the environment and all files. Leaves the environment alone."""
    from aider import __version__
    from aider import main as aider_main

    git_root = aider_main.get_git_root() if aider_main.git is not None else None
    before = dict(os.environ)
    try:
        parsed = _parse(aider_main, arguments, git_root)
        ollama = os.environ.get("OLLAMA_API_BASE", "")
    finally:
        os.environ.clear()
        os.environ.update(before)
    for setting in parsed.set_env or ():
        if setting.startswith("OLLAMA_API_BASE="):
            ollama = setting.split("=", 1)[1].strip()
    # An older Aider may lack some; those have defaults where this is read.
    found = {name: getattr(parsed, name) for name in _WANTED if hasattr(parsed, name)}
    found.update(_resolved_models(aider_main, parsed))
    found["version"] = __version__
    found["git_root"] = git_root
    found["ollama_api_base"] = ollama
    found["default_notifications_command"] = _default_notifications_command(parsed)
    found["tokenizers"] = _tokenizers()
    search = aider_main.generate_search_path_list
    found["model_settings_files"] = search(
        ".aider.model.settings.yml", git_root, parsed.model_settings_file
    )
    found["model_metadata_files"] = search(
        ".aider.model.metadata.json", git_root, parsed.model_metadata_file
    )
    return found


def _parse(aider_main: Any, arguments: list[str], git_root: "str | None") -> Any:
    """The first steps of Aider's main(): configuration files, then every .env, then the arguments again."""
    name = ".aider.conf.yml"
    files = [os.path.realpath(name)]
    if git_root and os.path.join(git_root, name) not in files:
        files.append(os.path.join(git_root, name))
    files.append(os.path.join(os.path.expanduser("~"), name))
    parser = aider_main.get_parser(files[::-1], git_root)
    known, _ = parser.parse_known_args(arguments)
    aider_main.load_dotenv_files(git_root, known.env_file, known.encoding)
    return parser.parse_args(arguments)


def _resolved_models(aider_main: Any, parsed: Any) -> dict[str, Any]:
    aliases = dict(aider_main.models.MODEL_ALIASES)
    for definition in parsed.alias or ():
        alias, _, name = definition.partition(":")
        aliases[alias.strip()] = name.strip()
    names = {role: getattr(parsed, role, None) for role in _MODELS}
    return {role: aliases.get(name, name) for role, name in names.items()}


def _default_notifications_command(parsed: Any) -> "str | None":
    if not getattr(parsed, "notifications", False) or parsed.notifications_command:
        return None
    from aider.io import InputOutput

    command = InputOutput.get_default_notification_command(None)
    return str(command) if command else None


def _tokenizers() -> str:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.origin:
        return ""
    return os.path.join(os.path.dirname(spec.origin), "litellm_core_utils", "tokenizers")


def ask_guard(channel: socket.socket, question: dict[str, Any]) -> dict[str, Any]:
    """Send one line, wait for one; an empty answer when the guard is gone."""
    try:
        channel.sendall(json.dumps(question, default=str).encode() + b"\n")
        with channel.makefile("rb") as lines:
            answer = lines.readline()
    except OSError:
        return {}
    return json.loads(answer) if answer.endswith(b"\n") else {}


def main() -> Any:
    """Ask, then be Aider."""
    number, script, *arguments = sys.argv[1:]
    sys.path[0] = os.path.dirname(script)
    sys.argv = [script, *arguments]
    from aider.main import main as run_aider

    with socket.socket(fileno=int(number)) as channel:
        channel.set_inheritable(False)
        try:
            question = describe(arguments)
        except (
            Exception
        ) as error:  # another Aider than those tried: say so, and run it all the same
            question = {"problem": f"{type(error).__name__}: {error}"}
        answer = ask_guard(channel, question)
    os.environ.update(answer.get("environment", {}))
    # After a "--" there are names of files only.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return run_aider(arguments[:end] + answer.get("arguments", []) + arguments[end:])


if __name__ == "__main__":
    sys.exit(main())
