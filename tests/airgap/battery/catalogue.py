"""All ways out, in the order in which they are tried."""

from __future__ import annotations

from airgap.battery import (
    ways_daemons,
    ways_door,
    ways_files,
    ways_internet,
    ways_processes,
    ways_races,
    ways_servers,
)
from airgap.battery.way import Numbered, numbered

WAYS: tuple[Numbered, ...] = numbered(
    (
        *ways_internet.WAYS,
        *ways_servers.WAYS,
        *ways_daemons.WAYS,
        *ways_door.WAYS,
        *ways_processes.WAYS,
        *ways_races.WAYS,
        *ways_processes.ROUTES,
        *ways_files.WAYS,
    )
)
"""The last ones change the guard's own files."""
