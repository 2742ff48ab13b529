"""Allowed places by their names, as the system's own resolver asks for them, in each layer that this system has."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from airgap import netns_world, seccomp_world
from airgap.layers import best_of

from aider_guard.core.egress import Layer, Place

WORLDS: dict[Layer, Callable[..., Any]] = {
    "netns": netns_world.world,
    "seccomp": seccomp_world.world,
}


every_layer = pytest.mark.parametrize(
    "layer", [layer for layer in WORLDS if best_of(layer).layer == layer]
)
CONNECT = """
tell([error_of(socket.create_connection, tuple(to), 5) for to in arguments])
"""


@every_layer
@pytest.mark.parametrize("options", ["ndots:1", "ndots:5"])
def test_a_name_is_found_past_the_search_domains(
    layer: Layer, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short one, which is looked for in a domain first, and one with dots, with which many do so, too."""
    monkeypatch.setenv("LOCALDOMAIN", "svc.cluster.local corp.lan")
    monkeypatch.setenv("RES_OPTIONS", options)
    places = [Place("nas", 445), Place("github.com", 22)]
    with WORLDS[layer](places) as here:
        assert here.run(CONNECT, [["nas", 445], ["github.com", 22]]) == ["", ""]
        assert here.attempts == []
        for fd, _ in here.gap.relays:
            with contextlib.closing(socket.socket(fileno=os.dup(fd))) as relay:
                relay.setblocking(False)
                relay.accept()[0].close()


@every_layer
def test_other_names_of_a_domain_are_told(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what is allowed is looked for there."""
    monkeypatch.setenv("LOCALDOMAIN", "corp.lan")
    with WORLDS[layer]([Place("nas", 445)]) as here:
        assert here.run(CONNECT, [["nasty", 445], ["nas.other.lan", 445]]) == ["ECONNREFUSED"] * 2
        here.gap.flush()
        reported = {(attempt.host, attempt.protocol) for attempt in here.attempts}
    assert ("nasty.corp.lan", "tcp") in reported
    assert {host for host, _ in reported} == {"nasty.corp.lan", "nas.other.lan"}
