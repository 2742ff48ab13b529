"""Fixtures of the tests of the seccomp layer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airgap.seccomp_world import HostServers, World, host_servers, world


@pytest.fixture
def here() -> Iterator[World]:
    """A seccomp layer that is served."""
    with world() as made:
        yield made


@pytest.fixture
def host() -> Iterator[HostServers]:
    """Servers of the host that must not be reached."""
    with host_servers() as made:
        yield made
