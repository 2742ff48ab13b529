"""What a real Aider says of itself is what it then does; with ``AIDER_GUARD_TEST_AIDERS`` for other versions too.

The variable holds paths of ``aider`` scripts, separated by colons. The versions in ``TRIED_VERSIONS`` were tried so.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider import Aider, find_aider
from aider_guard.launch.aider_settings import TRIED_VERSIONS, AiderSettings
from aider_guard.launch.gathering import AiderQuestion
from aider_guard.launch.start_command import INSIDE_AIDER, aider_command

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig

OTHERS = [path for path in os.environ.get("AIDER_GUARD_TEST_AIDERS", "").split(":") if path]
QUIET = (
    *("--no-check-update", "--no-analytics", "--no-show-release-notes", "--no-show-model-warnings"),
    *("--no-gitignore", "--no-pretty", "--yes-always"),
)


@pytest.fixture(params=["rig", *OTHERS])
def aider(request: pytest.FixtureRequest, rig: Rig) -> Aider:
    """The rig's Aider, and each that was named."""
    return find_aider(str(rig.aider_command) if request.param == "rig" else request.param)


def repository(folder: Path) -> Path:
    """An empty repository."""
    for name in ("objects", "refs"):
        (folder / ".git" / name).mkdir(parents=True)
    (folder / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return folder


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that Aider is called in; its home is beside it."""
    (tmp_path / "home/.aider").mkdir(parents=True)
    monkeypatch.chdir(repository(tmp_path / "repo"))
    return tmp_path / "repo"


def environment(repo: Path, **more: str) -> dict[str, str]:
    """A home of its own, no keys, an Ollama that is not there, and nothing asked of the net."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(repo.parent / "home"),
        "OLLAMA_API_BASE": "http://127.0.0.1:9",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **more,
    }


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def describe(aider: Aider, *arguments: str, env: dict[str, str]) -> AiderSettings:
    with AiderQuestion(aider, arguments, env) as question:
        settings = question.result()
    assert isinstance(settings, AiderSettings), settings
    return settings


def run(
    aider: Aider, *arguments: str, env: dict[str, str], answer: dict[str, object]
) -> subprocess.CompletedProcess[str]:
    """Aider as the guard starts it, with this answer to its question."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(json.dumps(answer).encode() + b"\n")
        return subprocess.run(
            aider_command(aider, theirs, [*QUIET, *arguments]),
            env=env,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )


def write_settings_of_three(repo: Path) -> None:
    """Roles from an alias in the home's configuration, a variable and a settings file."""
    write(repo.parent / "home/.aider.conf.yml", "alias: ['fast:ollama_chat/a']\nmodel: other\n")
    write(repo / ".aider.conf.yml", "model: fast\narchitect: true\n")
    write(repo / ".env", "AIDER_WEAK_MODEL=ollama_chat/w\n")
    write(
        repo / ".aider.model.settings.yml",
        """
        - name: ollama_chat/a
          edit_format: diff
          editor_model_name: ollama_chat/e
          weak_model_name: never/used
        """,
    )


def test_what_is_described_is_what_aider_announces(aider: Aider, repo: Path) -> None:
    """Model, formats, editor and weak model of its first lines, with all sources of settings at work."""
    write_settings_of_three(repo)
    env = environment(repo)
    settings = describe(aider, env=env)
    main, editor, weak = settings.roles
    said = run(aider, "--exit", env=env, answer={}).stdout
    announced = dict(re.findall(r"^(\S+) model: (\S+)", said, re.MULTILINE))
    names = {"Main": main.model, "Editor": editor.model, "Weak": weak.model}
    assert announced == names, said
    assert (main.model, editor.model, weak.model) == tuple(f"ollama_chat/{x}" for x in "aew")
    assert f"with {main.edit_format} edit format" in said
    assert (main.edit_format, settings.architect) == ("architect", True)
    assert f"with {editor.edit_format} edit format" in said
    assert settings.problems == ()


def test_asking_leaves_nothing_behind(aider: Aider, repo: Path) -> None:
    """Aider writes no file when it is only asked, and starts after the question as if none had been asked."""
    write_settings_of_three(repo)
    env = environment(repo)
    before = sorted(repo.parent.rglob("*"))
    describe(aider, env=env)
    assert sorted(repo.parent.rglob("*")) == before


UNCHANGED = """
import copy, importlib.util, json, os, sys
from aider import main as aider_main, models
spec = importlib.util.spec_from_file_location("inside_aider", sys.argv[1])
inside = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inside)

def state():
    model = models.Model
    tables = (models.MODEL_SETTINGS, models.MODEL_ALIASES, dict(os.environ), model.get_model_info)
    metadata = models.model_info_manager.local_model_metadata
    return copy.deepcopy((*tables, model.validate_environment, aider_main.load_dotenv, metadata))

before = state()
names = [entry.name for entry in models.MODEL_SETTINGS if entry.extra_params]
for name in (*names, "openrouter/some/thing"):
    roles = inside.describe_aider(["--model", name])["roles"]
    assert roles[0]["num_ctx"] == 4096, roles
print(len(names), state() == before)
"""


def test_aider_itself_is_as_before_when_it_starts(aider: Aider, repo: Path) -> None:
    """Its tables with the parameters of their entries, its classes and functions, and its environment."""
    write(
        repo / ".aider.model.settings.yml",
        "- name: aider/extra_params\n  extra_params: {num_ctx: 4096, extra_headers: {a: b}}\n",
    )
    write(repo / ".env", "OPENROUTER_API_KEY=x\nAIDER_ALIAS=4o:other\n")
    ended = subprocess.run(
        [*aider.interpreter, "-c", UNCHANGED, str(INSIDE_AIDER)],
        env=environment(repo),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    number, _, unchanged = ended.stdout.strip().partition(" ")
    assert unchanged == "True", ended.stdout + ended.stderr
    assert int(number) > 5


HELD = {
    "set": {
        "OLLAMA_API_BASE": "http://127.0.0.1:9/ours",
        "OPENAI_API_KEY": "ours",
        "ANTHROPIC_API_KEY": "ours",
        "GROQ_API_KEY": "ours",
        "XAI_API_KEY": "ours",
    },
    "unset": ["GITHUB_COPILOT_TOKEN"],
}


def test_what_is_held_stands_whatever_the_user_set(aider: Aider, repo: Path) -> None:
    """Against every .env, --set-env and every flag for a key, also in the repository that Aider moves on to."""
    other = repository(repo.parent / "other")
    theirs = (
        "OLLAMA_API_BASE=theirs\nGITHUB_COPILOT_TOKEN=theirs\nXAI_API_KEY=theirs\nKEPT=theirs\n"
    )
    write(repo / ".env", theirs)
    write(other / ".env", theirs + "AIDER_ANTHROPIC_API_KEY=theirs\n")
    write(
        other / ".aider.conf.yml",
        "set-env: [GITHUB_COPILOT_TOKEN=theirs, OLLAMA_API_BASE=theirs]\nopenai-api-key: theirs\n",
    )
    seen = repo.parent / "seen"
    ended = run(
        aider,
        *("--model", "ollama_chat/a", "--api-key", "groq=theirs", str(other / "file.py")),
        *("--test", "--test-cmd", f"env > {seen}"),
        env=environment(repo, GITHUB_COPILOT_TOKEN="theirs"),
        answer={"after_dotenv": HELD},
    )
    assert seen.exists(), ended.stdout + ended.stderr
    found = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert {name: found.get(name) for name in HELD["set"]} == HELD["set"]
    assert "GITHUB_COPILOT_TOKEN" not in found
    assert found["KEPT"] == "theirs"


def test_the_repository_of_the_named_file_counts(aider: Aider, repo: Path) -> None:
    """Aider parses anew for it: its configuration and its .env are described, after those of the first."""
    other = repository(repo.parent / "other")
    write(repo / ".env", "ANTHROPIC_API_KEY=x\nAIDER_WEAK_MODEL=first\n")
    write(other / ".env", "AIDER_MODEL=gpt-4o\n")
    write(other / ".aider.conf.yml", "editor-model: ollama_chat/e\n")
    settings = describe(aider, str(other / "file.py"), env=environment(repo))
    main, editor, weak = settings.roles
    assert (main.model, main.source) == ("gpt-4o", f"AIDER_MODEL in {other}/.env")
    assert (editor.model, editor.source) == ("ollama_chat/e", f"{other}/.aider.conf.yml")
    assert (weak.model, weak.source) == ("first", f"AIDER_WEAK_MODEL in {repo}/.env")
    assert settings.git_root == str(other)
    assert [key.name for key in settings.keys] == ["ANTHROPIC_API_KEY"]


def test_the_configuration_that_is_named_goes_before_the_others(aider: Aider, repo: Path) -> None:
    """``-c FILE`` is added on top; the working folder goes before the git root, and that before the home."""
    sub = repo / "sub"
    sub.mkdir()
    home = repo.parent / "home"
    named = write(repo.parent / "named.yml", "weak-model: ollama_chat/named\n")
    for folder, name in ((home, "home"), (repo, "root"), (sub, "here")):
        write(folder / ".aider.conf.yml", f"weak-model: {name}\nmodel: ollama_chat/{name}\n")
    os.chdir(sub)
    settings = describe(aider, "-c", str(named), env=environment(repo))
    assert [(one.model, one.source) for one in settings.roles if one.role != "editor"] == [
        ("ollama_chat/here", f"{sub}/.aider.conf.yml"),
        ("ollama_chat/named", str(named)),
    ]
    folders = [home, repo, sub]
    expected = [f"{folder}/.aider.conf.yml" for folder in folders]
    assert settings.config_files == (*expected, str(named))


CONFIG = "repo/.aider.conf.yml"
SETTINGS = "repo/.aider.model.settings.yml"
METADATA = "repo/.aider.model.metadata.json"
FAULTS: list[tuple[str, str, bytes, str]] = [
    ("a configuration", CONFIG, b"model: a\nb: c: d\n", r", line 2 cannot be read as YAML: mapping"),
    ("the home's", "home/.aider.conf.yml", b"", r" has no 'key: value' pairs"),
    ("settings", SETTINGS, b"- name: a\n\t- b", r", line 2 cannot be read as model settings"),
    ("an unknown setting", SETTINGS, b"- name: a\n  b: c\n", r" cannot be read as model settings: .*'b'"),
    ("settings that are no list", SETTINGS, b"a: b\n", r" cannot be read as model settings: "),
    ("settings in other bytes", SETTINGS, b"- name: \xff\n", r" .*: it is not encoded as expected"),
    ("metadata", METADATA, b'{"a": {}\n"b"', r".* cannot be read as model metadata: "),
    ("metadata that are a list", METADATA, b"[1]", r" cannot be read as model metadata: "),
    ("a line of a .env", "repo/.env", b"OPENAI_API_KEY=x\n= y\n", r", line 2 cannot be read as variables"),
    ("a .env in other bytes", "repo/.env", b"A=\xff\n", r" cannot be read as variables: it is not encoded as expected"),
    ("an alias", "home/.env", b"AIDER_ALIAS=wrong\n", r"an alias, AIDER_ALIAS in .*/home/.env, is not of the form"),
    ("a setting of the environment", "home/.env", b"AIDER_SET_ENV=wrong\n", r"AIDER_SET_ENV in .* is not of the form"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "name", "text", "sentence"), FAULTS, ids=[fault[0] for fault in FAULTS]
)
def test_what_aider_cannot_read_is_a_sentence(
    aider: Aider, repo: Path, what: str, name: str, text: bytes, sentence: str
) -> None:
    """One, with the file; the roles are known all the same."""
    path = repo.parent / name
    path.write_bytes(text)
    settings = describe(aider, "--model", "ollama_chat/a", env=environment(repo))
    (problem,) = settings.problems
    start = re.escape(str(path)) if sentence[0] in " .," else ""
    assert re.match(start + sentence, problem), (what, problem)
    assert [role.model for role in settings.roles] == ["ollama_chat/a"] * 3


def test_json5_is_metadata(aider: Aider, repo: Path) -> None:
    """Aider reads comments and commas that JSON has not."""
    write(repo / ".aider.model.metadata.json", "{'a': {}, /* so */ }")
    assert describe(aider, env=environment(repo)).problems == ()


def test_a_wrong_flag_is_answered_in_aiders_words(aider: Aider, repo: Path) -> None:
    """Also one that a configuration file holds."""
    write(repo / ".aider.conf.yml", "show-model-info: 1\n")
    with AiderQuestion(aider, [], environment(repo)) as question:
        found = question.result()
    assert isinstance(found, Unavailable)
    assert "unrecognized arguments: --show-model-info" in found.reason


def test_a_broken_file_that_is_named_is_answered_in_aiders_words(aider: Aider, repo: Path) -> None:
    """With its line; those that Aider looks for by itself are sentences among the problems instead."""
    named = write(repo / "named.yml", "a: b\nc: d: e\n")
    with AiderQuestion(aider, ["-c", str(named)], environment(repo)) as question:
        found = question.result()
    assert isinstance(found, Unavailable)
    assert f'in "{named}", line 2' in found.reason


def test_neither_litellm_nor_the_net_is_needed(aider: Aider, repo: Path) -> None:
    """Asking costs what importing Aider costs: its heaviest part is not imported, and no host is looked up."""
    program = repo.parent / "program"
    program.mkdir()
    write(
        program / "sitecustomize.py",
        """
        import atexit, socket, sys
        def refuse(*arguments, **options):
            sys.stderr.write("looked up: %r" % (arguments,))
            raise OSError("no network")
        socket.getaddrinfo = refuse
        atexit.register(lambda: open("loaded", "w").write(str("litellm" in sys.modules)))
        """,
    )
    env = environment(repo, PYTHONPATH=str(program), OPENROUTER_API_KEY="x")
    for arguments in ([], ["--model", "openrouter/some/thing"], ["--model", "ollama_chat/llama-3"]):
        describe(aider, *arguments, env=env)
        assert (repo / "loaded").read_text() == "False"


def test_the_version_was_tried(aider: Aider, repo: Path) -> None:
    """Each Aider of these tests is one of which the guard says so."""
    assert describe(aider, env=environment(repo)).version in TRIED_VERSIONS
