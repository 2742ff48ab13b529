"""Tries every known way out on real Aider, bare, guarded and examined, in a box whose witness sees every attempt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from e2e.bare import UNASKED, Bare
from e2e.box import Box, Seen, box, why_not
from e2e.leaks import HELLO, LEAKS, Leak, set_up
from e2e.people import Guarded, Onlooker

from aider_guard.core import findings
from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample
from aider_guard.errors import LaunchRefusedError

PLAIN = ["--no-show-model-warnings", "--no-gitignore", "--map-tokens", "0"]
AT_START = {"raw.githubusercontent.com"}
"""Whom bare Aider asks about prices, whatever the model is (litellm's cost map)."""
BARE_SECONDS = 180.0
IN_COMMAND, RETRIES = "press ENTER", "Retrying in"
ONE_SHOTS = [
    leak for leak in LEAKS if leak.id in {"default-model", "copilot-token", "litellm-proxy"}
]
every_leak = pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.id)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One box for all tests."""
    if reason := why_not():
        pytest.skip(reason)
    with box(tmp_path_factory.mktemp("box")) as one:
        yield one


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A fresh sample repository."""
    return make_sample(tmp_path / "till")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


class GuardedInside(Guarded):
    """A person who runs aider-guard in the box."""

    def __init__(self, world: Box, leak: Leak, aider: Path, env: dict[str, str], cwd: Path) -> None:
        self.state = Path(env["AIDER_GUARD_STATE_DIR"])
        guard = [sys.executable, "-m", "aider_guard", "--aider", str(aider), "--probe", "never"]
        command = world.inside([*guard, "--", *leak.arguments, *PLAIN], cwd)
        Onlooker.__init__(self, command, env=env, cwd=cwd, columns=160)


def test_the_table_is_complete() -> None:
    """Each way that the checks know has its case, and there are 18."""
    assert {leak.id for leak in LEAKS} == set(findings.LEAKS)
    assert len(LEAKS) == 18


@every_leak
def test_bare_aider_goes_out(leak: Leak, world: Box, rig: Rig, repo: Path, home: Path) -> None:
    """Without the guard a host outside is reached, except where a reason is given why none can be."""
    env = set_up(leak, repo, home, world.ollama)
    since = begun = world.mark()
    command = [str(rig.aider_command), *leak.arguments, *PLAIN, *UNASKED]
    with Bare(world.inside(command, repo), env=env, cwd=repo, columns=160) as person:
        for line in leak.lines:
            person.wait_for(person.is_asked if line else IN_COMMAND)
            since = world.mark()
            person.say(line, "" if line else IN_COMMAND)
        if leak.host:
            person.wait_for(lambda: leak.is_open(world.seen(since)), BARE_SECONDS)
            print(*world.seen(since, world.mark()), sep="\n")
            return
        assert leak.why_nobody
        person.wait_for(lambda: len(chats(world.seen(begun))) >= len(leak.lines))
        person.wait_for(person.is_asked)
    seen = world.seen(begun, world.mark())
    assert len(chats(seen)) == len(leak.lines)
    assert {one.host for one in left(seen)} <= {"", *AT_START}


@every_leak
def test_a_guarded_session_does_not(
    leak: Leak, world: Box, rig: Rig, repo: Path, home: Path
) -> None:
    """With the guard the launch is refused with the reason, or it starts; either way no host outside is reached."""
    env = set_up(leak, repo, home, world.ollama)
    since = world.mark()
    with GuardedInside(world, leak, rig.aider_command, env, repo) as person:
        if leak.refused:
            assert person.end() == LaunchRefusedError.exit_code
            assert leak.refused in " ".join(person.text().split())
        else:
            person.wait_for_prompt()
            for line in leak.lines:
                tell(person, line)
            person.type(b"/exit\r")
            assert person.end() == 0
    seen = world.seen(since, world.mark())
    assert left(seen) == []
    if leak.refused:
        assert chats(seen) == []
    elif set(leak.lines) == {HELLO}:
        assert len(chats(seen)) == len(leak.lines)


@pytest.mark.parametrize("leak", ONE_SHOTS, ids=lambda leak: leak.id)
def test_a_guarded_one_shot_does_not(
    leak: Leak, world: Box, rig: Rig, repo: Path, home: Path
) -> None:
    """Without a terminal it is the same: refused with the reason, or answered by Ollama; no host outside is reached."""
    env = set_up(leak, repo, home, world.ollama)
    since = world.mark()
    guard = [sys.executable, "-m", "aider_guard", "--aider", str(rig.aider_command), "--"]
    command = world.inside([*guard, *leak.arguments, *PLAIN, "--message", HELLO], repo)
    ended = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    seen = world.seen(since, world.mark())
    assert left(seen) == []
    assert ended.returncode == (LaunchRefusedError.exit_code if leak.refused else 0)
    assert leak.refused in ended.stderr
    assert len(chats(seen)) == (0 if leak.refused else 1)


@every_leak
def test_the_doctor_names_it(leak: Leak, world: Box, rig: Rig, repo: Path, home: Path) -> None:
    """The checks have a finding with the way's id; it stops a launch exactly where one is refused; no host hears."""
    env = set_up(leak, repo, home, world.ollama)
    since = world.mark()
    doctor = [sys.executable, "-m", "aider_guard", "--aider", str(rig.aider_command), "doctor"]
    command = world.inside([*doctor, "--json", "--", *leak.arguments, *PLAIN], repo)
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    found = {one["id"]: one["severity"] for one in json.loads(ended.stdout)["findings"]}
    assert leak.id in found, ended.stdout + ended.stderr
    assert ("stop" in found.values()) is bool(leak.refused)
    assert left(world.seen(since, world.mark())) == []


def tell(person: Guarded, line: str) -> None:
    """Type a line and wait for its end; a failing one is interrupted, which saves a minute of retries."""
    prompts = len(person.journal("prompt_shown"))
    if line:
        person.say(line)
    else:
        person.type(b"\r")

    def shows(pattern: str) -> bool:
        return re.search(pattern, person.text()) is not None

    def is_over() -> bool:
        return len(person.journal("prompt_shown")) > prompts

    person.wait_for(lambda: is_over() or shows(RETRIES) or (bool(line) and shows(IN_COMMAND)))
    if not is_over() and shows(RETRIES):
        person.type(b"\x03")
        person.wait_for(is_over)


def chats(seen: Iterable[Seen]) -> list[Seen]:
    """The messages that Ollama got, to answer them."""
    asked = [one for one in seen if one.path == "/api/chat"]
    return [one for one in asked if "_debug_render_only" not in one.text]


def left(seen: Iterable[Seen]) -> list[Seen]:
    """What left the machine, or would have."""
    return [one for one in seen if one.kind != "ollama" or one.sent_out]
