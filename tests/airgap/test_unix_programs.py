"""Real programs and Unix sockets in both layers: signing works, and a terminal server outside is not reached."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from airgap.layers import best_of, open_gap
from airgap.seccomp_world import World

from aider_guard.core.egress import Layer
from aider_guard.loop import Loop

LAYERS: tuple[Layer, ...] = ("netns", "seccomp")
RUNS = """
import subprocess
done = [subprocess.run(step, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       env={**os.environ, **arguments[1]}) for step in arguments[0]]
tell([[one.returncode, one.stdout, one.stderr] for one in done])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with a repository, in which the tests' programs keep all they have."""
    for name in ("gnupg", "tmux", "ssh"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q", "work"], check=True)
    return tmp_path


def variables(home: Path) -> dict[str, str]:
    """The environment of a user with this home."""
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c"}
    names |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c"}
    return {
        **names,
        "HOME": str(home),
        "GNUPGHOME": str(home / "gnupg"),
        "TMUX_TMPDIR": str(home / "tmux"),
        "PATH": os.environ["PATH"],
    }


def run(layer: Layer, steps: list[str], environment: Mapping[str, str]) -> tuple[Any, World]:
    """What these commands end with inside, each with its status and output, and what was reported."""
    if best_of(layer).layer != layer:
        pytest.skip(f"this system does not allow {layer}")
    with open_gap(layer, (), environment) as gap, Loop() as loop:
        here = World(cast("Any", gap), loop)
        gap.watch(loop, here.attempts.append)
        try:
            return here.run(RUNS, [steps, environment]), here
        finally:
            gap.close()


@contextlib.contextmanager
def started(command: list[str], environment: Mapping[str, str], stop: list[str]) -> Iterator[str]:
    """A daemon outside, until the end; what it said."""
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield done.stdout
    finally:
        subprocess.run(stop, env=environment, check=False, capture_output=True)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.skipif(shutil.which("gpg-agent") is None, reason="no GnuPG")
def test_signing_with_gnupg(layer: Layer, home: Path) -> None:
    """A commit is signed by the agent that runs outside."""
    environment = variables(home)
    key = ["gpg", "-q", "--batch", "--passphrase", "", "--quick-gen-key", "a <a@b.c>", "ed25519"]
    with started(key, environment, ["gpgconf", "--kill", "all"]):
        (home / "work" / "file").write_text("x")
        steps = [
            "git -C work add file",
            "git -C work commit -q -S -m signed",
            "git -C work verify-commit HEAD",
        ]
        shown, here = run(layer, steps, environment)
    assert [status for status, *_ in shown] == [0, 0, 0], shown
    assert here.attempts == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh")
def test_signing_with_an_agent_of_ssh(layer: Layer, where: str, home: Path) -> None:
    """By the user's agent, and by one that a program inside starts."""
    environment = variables(home)
    socket = f"{home}/ssh/agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh/id"], check=True)
    begin = f"ssh-agent -a {socket} >ssh/said && ssh-add -q ssh/id && rm ssh/id"
    end = 'SSH_AGENT_PID=$(sed -n "s/.*SSH_AGENT_PID=\\([0-9]*\\).*/\\1/p" ssh/said) ssh-agent -k'
    environment["SSH_AUTH_SOCK"] = socket
    steps = ["ssh-add -l", "echo x | ssh-keygen -Y sign -q -f ssh/id.pub -n file"]
    if where == "inside":
        shown, here = run(layer, [begin, *steps, end], environment)
        shown = shown[1:-1]
    else:
        with started(["sh", "-c", begin], environment, ["sh", "-c", end]):
            shown, here = run(layer, steps, environment)
    assert [status for status, *_ in shown] == [0, 0], shown
    assert "SSH SIGNATURE" in shown[1][1]
    assert here.attempts == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux")
def test_a_terminal_server(layer: Layer, home: Path) -> None:
    """One outside starts nothing for a program inside, by any name; one that is started inside works."""
    environment = variables(home)
    outside = ["tmux", "-S", str(home / "other.sock")]
    mine = f"tmux -S {home}/own.sock"
    with started([*outside, "new-session", "-d"], environment, [*outside, "kill-server"]):
        steps = [
            f"tmux -S {home}/other.sock new-window -d 'touch {home}/escaped'",
            f"mv other.sock moved.sock; tmux -S moved.sock new-window -d 'touch {home}/escaped'",
            f"{mine} new-session -d 'touch own; sleep 9'; {mine} list-sessions",
            f"{mine} kill-server",
        ]
        shown, here = run(layer, steps, environment)
        (home / "moved.sock").rename(home / "other.sock")
        listed = subprocess.run(
            [*outside, "list-windows"], env=environment, capture_output=True, text=True, check=True
        )
    assert [status == 0 for status, *_ in shown] == [False, False, True, True], shown
    assert len(listed.stdout.splitlines()) == 1
    assert not (home / "escaped").exists()
    assert {host for host, *_ in here.kinds()} == {f"{home}/other.sock", f"{home}/moved.sock"}
