"""Reads which processes hold memory of the cards of AMD and Intel: from ``/proc/PID/fdinfo``, as far as it may be read.

The keys are those of the kernel's Documentation/gpu/drm-usage-stats.rst. A process of another user, as Ollama's own
when it runs as a service, shows nothing: the kernel asks for the rights of a debugger.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

_MOST_BYTES: Final = 16384
_UNITS: Final = {"": 1, "kib": 1 << 10, "kb": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_MEMORY: Final = re.compile(
    # amdgpu: vram, gtt; i915: local0, system0; xe: vram0, vram1, gtt, system.
    r"drm-(resident|memory|total)-(?:((?:vram|local)\d{0,2})|((?:gtt|system)\d{0,2})):\s*(\d{1,19})\s*(\w*)\s*"
)
_KINDS: Final = ("resident", "memory", "total")
"""Which keys tell what a client holds, the best first: ``memory`` is amdgpu's older name for it, and ``total`` counts
also what is not in memory now."""


@dataclass(frozen=True)
class DrmClient:
    """One program's use of one card: what it holds of the card's own memory and of the main memory."""

    pci_address: str
    client_id: str
    card_bytes: int
    main_bytes: int


def clients_by_process(proc_root: Path = PROC) -> dict[int, tuple[DrmClient, ...]]:
    """Return the clients of each process that may be looked into. One that several processes have is the first's.

    A client shows in each of its descriptors, and in each process that a descriptor was given to: counted by its id,
    which is unique for each card.
    """
    seen: set[tuple[str, str]] = set()
    found: dict[int, tuple[DrmClient, ...]] = {}
    for pid in _pids(proc_root):
        new = {}
        for client in _clients_of(proc_root / str(pid), pid):
            key = (client.pci_address, client.client_id)
            if key not in seen:
                new[key] = client
        seen.update(new)
        if new:
            found[pid] = tuple(new.values())
    return found


def _pids(proc_root: Path) -> list[int]:
    try:
        names = [path.name for path in proc_root.iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def _clients_of(folder: Path, pid: int) -> Iterator[DrmClient]:
    """The clients of one process, those of several descriptors several times; none if it ended or is another user's."""
    try:
        with os.scandir(
            folder / "fd"
        ) as descriptors:  # thousands in all: no object is made for each path
            used = [each.name for each in descriptors if _is_card(each.path)]
    except OSError:
        return
    for descriptor in used:
        try:
            with (folder / "fdinfo" / descriptor).open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        client = parse_client(text, pid)
        if client is not None:
            yield client


def _is_card(path: str) -> bool:
    try:
        return os.readlink(path).startswith("/dev/dri/")  # a Path for each costs more than the call
    except OSError:
        return False


def parse_client(text: str, pid: int = 0) -> DrmClient | None:
    """Parse one file of ``fdinfo``; None where it names no card. Kernels before 5.19 give no ids: *pid* stands in."""
    values: dict[str, str] = {}
    held: dict[str, list[int]] = {}
    for line in text.splitlines():
        if (memory := _MEMORY.fullmatch(line)) is not None:
            kind, of_card, _of_main, number, unit = memory.groups()
            scale = _UNITS.get(unit.lower())
            if scale is not None:
                sums = held.setdefault(kind, [0, 0])
                sums[0 if of_card else 1] += int(number) * scale
        else:
            key, _, value = line.partition(":")
            values[key] = value.strip()
    address = values.get("drm-pdev", "")
    if not address:
        return None
    card_bytes, main_bytes = next((held[kind] for kind in _KINDS if kind in held), [0, 0])
    return DrmClient(
        address, values.get("drm-client-id") or f"process {pid}", card_bytes, main_bytes
    )
