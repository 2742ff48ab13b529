"""The choice of a layer: the best one that this system allows, and why no better one."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
from collections.abc import Mapping

import psutil
import pytest
from airgap.layers import best_of, only, open_gap

from aider_guard.airgap import choose
from aider_guard.airgap.choose import LayerSelection, find_layer
from aider_guard.airgap.served import build_sandbox
from aider_guard.config import Config
from aider_guard.core import egress
from aider_guard.core.egress import Layer, LayerChoice, Place
from aider_guard.errors import LaunchRefusedError

netns = pytest.mark.skipif(
    find_layer({}).layer != "netns", reason="this system allows no network namespaces"
)
seccomp = pytest.mark.skipif(
    best_of("seccomp").layer != "seccomp",
    reason="this system allows no filter with a listener",
)


@netns
def test_the_best_layer_is_taken() -> None:
    """And there is no cause for a worse one."""
    assert find_layer(os.environ).because == ""


@seccomp
def test_the_next_best_one() -> None:
    """Where there are no namespaces."""
    assert best_of("seccomp") == LayerChoice("seccomp", "netns was not tried")


def test_without_any() -> None:
    """It is only asked to behave, and that is no error."""
    assert best_of().layer == "asked"


def test_no_variable_switches_a_layer_off() -> None:
    """Not that of earlier versions either: what holds Aider is not for the environment to decide."""
    assert find_layer({"AIDER_GUARD_TEST_NO_LAYER": "netns,seccomp"}) == find_layer({})


@seccomp
def test_a_python_without_pidfd_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds against an older C library have no such function, and the system has the call."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert best_of("seccomp").layer == "seccomp"


@seccomp
def test_a_layer_that_breaks_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and with no process left: no error, however unexpected, ends a start."""
    before = psutil.Process().children()
    monkeypatch.delattr("aider_guard.airgap.kernel.take_fd")
    found = best_of("seccomp")
    assert found.layer == "asked"
    assert "a fault in aider-guard: AttributeError" in found.because
    monkeypatch.delattr("aider_guard.airgap.kernel.filter_calls")
    assert best_of("seccomp").layer == "asked"
    assert set(psutil.Process().children()) <= set(before)


@seccomp
@netns
def test_a_better_layer_that_breaks_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is taken."""
    before = psutil.Process().children()
    monkeypatch.setattr("aider_guard.airgap.jail.write_maps", None)
    found = find_layer({})
    assert (found.layer, "TypeError" in found.because) == ("seccomp", True)
    assert set(psutil.Process().children()) <= set(before)


@seccomp
def test_a_page_is_reached_from_outside() -> None:
    """A network of its own would keep the browser out; the filter does not."""
    with (
        LayerSelection((), {}, serves_page=True) as selection,
        contextlib.closing(selection.finish()) as gap,
    ):
        assert (gap.layer, selection.because) == ("seccomp", "page")


def test_an_open_network_tries_nothing() -> None:
    """No child is started for it."""
    before = psutil.Process().children()
    with LayerSelection((), {}, is_open=True) as selection:
        assert set(psutil.Process().children()) <= set(before)
        assert selection.finish().layer == "open"


@netns
def test_nothing_is_left_of_a_choice() -> None:
    """Not a process, and not a descriptor: neither of one that was finished nor of one that was not."""
    find_layer({})
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = psutil.Process().num_fds(), psutil.Process().children()
    find_layer({})
    with LayerSelection((Place("github.com", 22),), {}):
        pass
    assert (psutil.Process().num_fds(), psutil.Process().children()) == before


@netns
def test_the_child_is_gone_once_the_layer_is_there() -> None:
    """Not a zombie is left of it for the length of a session."""
    before = psutil.Process().children()
    with LayerSelection((), {}) as selection, contextlib.closing(selection.finish()):
        assert set(psutil.Process().children()) <= set(before)


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

    monkeypatch.setattr("aider_guard.airgap.netns.kernel.unshare", fail)
    monkeypatch.setattr(choose, "_read", lambda name: switches.get(name, ""))
    assert best_of("netns").because.split("; ")[0] == cause
    assert cause in egress.CAUSES


@netns
def test_an_unexpected_error_is_reported_in_its_own_words() -> None:
    """It is not taken for a container's; doctor, which tries the same layers, reports the same."""
    places = [Place("0.0.0.0", 5432), Place("127.0.0.1", 5432)]
    with only("netns"):
        found = find_layer({}, places)
    assert found.layer == "asked"
    assert "could not be made (Address already in use" in found.because.split("; ")[0]
    assert find_layer({}).layer == "netns"


@netns
def test_a_kernel_that_filters_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows when the layer is chosen, not when Aider is to enter it, and no process is left."""

    def fail(*_: object) -> int:
        raise OSError(errno.EINVAL, "seccomp: Invalid argument")

    monkeypatch.setattr("aider_guard.airgap.kernel.filter_calls", fail)
    before = psutil.Process().children()
    found = find_layer({})
    assert found.layer == "asked"
    assert "could not be made (seccomp: Invalid argument)" in found.because
    assert set(psutil.Process().children()) <= set(before)


@pytest.mark.parametrize("layer", ["asked", "open"])
def test_a_required_layer_that_is_missing_refuses_the_start(layer: str) -> None:
    """With the reason, before anything is started."""
    with (
        only(),
        LayerSelection((), {}, is_open=layer == "open") as selection,
        pytest.raises(LaunchRefusedError, match="require-airgap is set"),
        build_sandbox(selection, Config(require_airgap=True)),
    ):
        pytest.fail("the start was not refused")


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


@pytest.mark.parametrize(
    "layer", [pytest.param("netns", marks=netns), pytest.param("seccomp", marks=seccomp)]
)
def test_a_place_that_is_allowed_twice(layer: Layer) -> None:
    """By two names it is still one place, with one listener."""
    places = [Place("localhost", 5432), Place("10.9.8.7", 22), Place("127.0.0.1", 5432)]
    with open_gap(layer, places) as gap:
        assert [place for _, place in gap.relays] == places[:2]


@pytest.mark.parametrize(
    "layer", [pytest.param("netns", marks=netns), pytest.param("seccomp", marks=seccomp)]
)
def test_an_address_of_the_other_kind_is_allowed(layer: Layer) -> None:
    """It is no address of this machine's, and has a listener all the same."""
    places = [Place("2001:db8::10", 80), Place("::1", 5432)]
    with open_gap(layer, places) as gap:
        assert gap.layer == layer
        assert [place for _, place in gap.relays] == places
