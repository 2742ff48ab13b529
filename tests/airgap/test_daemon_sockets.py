"""Which sockets of daemons, and which folders of them, are masked."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from aider_guard.airgap.daemon_sockets import masked_paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which sockets have short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sockets_of_daemons_are_found(home: Path) -> None:
    """By their usual places and by the variables that name them; what is no socket is left alone."""
    runtime = home / "run"
    runtime.mkdir()
    (runtime / "docker.sock").write_text("a file")
    with socket.socket(socket.AF_UNIX) as bus, socket.socket(socket.AF_UNIX) as docker:
        bus.bind("run/bus")
        docker.bind("own.sock")
        (home / "link.sock").symlink_to("own.sock")
        found = masked_paths(
            {
                "XDG_RUNTIME_DIR": str(runtime),
                "HOME": str(home),
                "DOCKER_HOST": f"unix://{home}/link.sock",
            }
        )
    assert str(runtime / "bus") in found
    assert str(home / "own.sock") in found
    assert not any(path.endswith("docker.sock") and path.startswith(str(home)) for path in found)


def test_a_folder_of_sockets_is_one_mask(home: Path) -> None:
    """Whether it has a socket now or not; folders that are absent are masked only for the layer that sees each call."""
    (home / "run" / "podman").mkdir(parents=True)
    environment = {"XDG_RUNTIME_DIR": str(home / "run"), "HOME": "/nowhere"}
    podman, docker = str(home / "run" / "podman"), str(home / "run" / "docker.sock")
    now, ever = masked_paths(environment), masked_paths(environment, also_absent=True)
    assert podman in now
    assert docker not in now
    assert {podman, docker, str(home / "run" / "libvirt")} <= set(ever)


def test_where_the_user_works_is_not_hidden(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the folder is called: a repository may be in a runtime folder that is no such thing."""
    work = home / "docker" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    environment = {"XDG_RUNTIME_DIR": str(home), "HOME": "/nowhere", "DOCKER_HOST": f"{home}/"}
    for also_absent in (False, True):
        found = masked_paths(environment, also_absent=also_absent)
        assert not [path for path in found if f"{work}/".startswith(f"{path}/")]


def test_connections_of_ssh_are_found_and_its_agent_is_left(home: Path) -> None:
    """A shared connection leads out; an agent signs only, wherever it listens."""
    (home / ".ssh" / "shared").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        for name in ("cm-host", "shared/host", "agent"):
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(f".ssh/{name}")
        agent = str(home / ".ssh" / "agent")
        found = masked_paths({"HOME": str(home), "SSH_AUTH_SOCK": agent})
    assert {str(home / ".ssh" / name) for name in ("cm-host", "shared/host")} <= set(found)
    assert agent not in found


@pytest.mark.parametrize(
    "value",
    [
        "unix:path={path},guid=1;unix:abstract=/x",
        "unix:abstract=/x;unix:path={path}",
        "{path},123,0",
        "unix://{path}",
    ],
)
def test_variables_name_sockets_in_many_ways(value: str, home: Path) -> None:
    """A list of D-Bus, the variable that tmux sets, and addresses of containers."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        path = str(home / "s")
        assert path in masked_paths(
            {"HOME": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": value.format(path=path)}
        )
