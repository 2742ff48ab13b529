"""The choice of a layer: the best one that this system allows, and why no better one."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from aider_guard.airgap import choose
from aider_guard.airgap.choose import Choosing, find_layer, open_gap
from aider_guard.airgap.masks import masked_sockets
from aider_guard.airgap.tables import has_server
from aider_guard.config import Config
from aider_guard.core import egress_causes
from aider_guard.core.egress import Place
from aider_guard.errors import LaunchRefusedError
from aider_guard.session.border import chosen_border

SWITCH = "AIDER_GUARD_TEST_NO_LAYER"
netns = pytest.mark.skipif(
    find_layer({}).layer != "netns", reason="this system allows no network namespaces"
)
seccomp = pytest.mark.skipif(
    find_layer({SWITCH: "netns"}).layer != "seccomp",
    reason="this system allows no filter with a listener",
)


@netns
def test_the_best_layer_is_taken() -> None:
    """And nothing is said of a better one."""
    assert find_layer(os.environ).because == ""


@seccomp
def test_the_next_best_one() -> None:
    """Where there are no namespaces."""
    found = find_layer({SWITCH: "netns"})
    assert (found.layer, found.because) == ("seccomp", f"netns was switched off by {SWITCH}")


def test_without_any() -> None:
    """It is only asked to behave, and that is no error."""
    assert find_layer({SWITCH: "netns,seccomp"}).layer == "asked"


@seccomp
def test_a_page_is_reached_from_outside() -> None:
    """A network of its own would keep the browser out; the filter does not."""
    with (
        Choosing((), {}, serves_page=True) as choosing,
        contextlib.closing(choosing.finish()) as gap,
    ):
        assert (gap.layer, choosing.because) == ("seccomp", "page")


def test_an_open_network_tries_nothing() -> None:
    """No child is started for it."""
    before = psutil.Process().children()
    with Choosing((), {}, is_open=True) as choosing:
        assert psutil.Process().children() == before
        assert choosing.finish().layer == "open"


@netns
def test_nothing_is_left_of_a_choice() -> None:
    """Not a process, and not a descriptor: neither of one that was finished nor of one that was not."""
    find_layer({})
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = psutil.Process().num_fds(), psutil.Process().children()
    find_layer({})
    with Choosing((Place("github.com", 22),), {}):
        pass
    assert (psutil.Process().num_fds(), psutil.Process().children()) == before


@netns
def test_the_child_is_gone_once_the_layer_is_there() -> None:
    """Not a zombie is left of it for the length of a session."""
    before = psutil.Process().children()
    with Choosing((), {}) as choosing, contextlib.closing(choosing.finish()):
        assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("switches", "cause"),
    [
        ({"user/max_user_namespaces": "0\n"}, "max-user-namespaces"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "apparmor"),
        ({}, "container"),
    ],
)
def test_why_there_are_no_namespaces(
    switches: Mapping[str, str], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the system's own settings; each cause has its words."""

    def fail(*_: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr("aider_guard.airgap.jail.kernel.unshare", fail)
    monkeypatch.setattr(choose, "_read", lambda name: switches.get(name, ""))
    assert find_layer({SWITCH: "seccomp"}).because.split("; ")[0] == cause
    assert cause in egress_causes.CAUSES


@pytest.mark.parametrize("layer", ["asked", "open"])
def test_who_requires_a_layer_is_refused_without_one(layer: str) -> None:
    """With the reason, before anything is started."""
    with (
        Choosing((), {SWITCH: "netns,seccomp"}, is_open=layer == "open") as choosing,
        pytest.raises(LaunchRefusedError, match="require-airgap is set"),
        chosen_border(choosing, Config(require_airgap=True)),
    ):
        pytest.fail("it was let begin")


@netns
def test_an_allowed_place_has_a_listener_inside() -> None:
    """By its name or address, and at exactly its port."""
    places = [
        Place("github.com", 22),
        Place("10.9.8.7", 5432),
        Place("localhost", 6379),
        Place("::1", 70),
    ]
    with open_gap("netns", places) as gap:
        assert [place for _, place in gap.relays] == places
        addresses = []
        for fd, _ in gap.relays:
            with socket.socket(fileno=os.dup(fd)) as listener:
                addresses.append(listener.getsockname()[:2])
        assert addresses == [
            ("127.77.0.1", 22),
            ("10.9.8.7", 5432),
            ("127.0.0.1", 6379),
            ("::1", 70),
        ]


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
        found = masked_sockets(
            {
                "XDG_RUNTIME_DIR": str(runtime),
                "HOME": str(home),
                "DOCKER_HOST": f"unix://{home}/link.sock",
            }
        )
    assert str(runtime / "bus") in found
    assert str(home / "own.sock") in found
    assert not any(path.endswith("docker.sock") and path.startswith(str(home)) for path in found)


def test_connections_of_ssh_are_found_and_its_agent_is_left(home: Path) -> None:
    """A shared connection leads out; an agent signs only, wherever it listens."""
    (home / ".ssh" / "shared").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        for name in ("cm-host", "shared/host", "agent"):
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(f".ssh/{name}")
        agent = str(home / ".ssh" / "agent")
        found = masked_sockets({"HOME": str(home), "SSH_AUTH_SOCK": agent})
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
    """A list of D-Bus, what tmux says of itself, and addresses of containers."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        path = str(home / "s")
        assert path in masked_sockets(
            {"HOME": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": value.format(path=path)}
        )


def test_who_listens_is_in_the_tables() -> None:
    """By port and kind; a connection is no server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        table = Path("/proc/net/tcp").read_bytes() if Path("/proc/net/tcp").exists() else b""
        if not table:
            pytest.skip("only Linux has these tables")
        assert has_server("tcp", server.getsockname()[1], table)
        assert not has_server("tcp", client.getsockname()[1], table)
        assert not has_server("udp", server.getsockname()[1], table)
