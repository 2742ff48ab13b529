"""The worker that reads the cards of AMD and Intel: ``python -m aider_guard.sidecar.drm``, a process of its own.

A driver can hold its reader: xe waits for work that ends (xe_drm_client.c, ``show_run_ticks``), amdgpu for a reset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from aider_guard.core.events import MemoryRead
from aider_guard.core.readings import (
    GPU_USE_NOT_TOLD,
    INTEGRATED_INTEL,
    Gpu,
    GpuProcess,
    MemoryReading,
    Unavailable,
)
from aider_guard.core.wire import encode
from aider_guard.line_process import serve_lines
from aider_guard.sidecar.drm_cards import (
    SYS,
    DrmCard,
    list_cards,
    name_of,
    read_bytes_count,
    read_word,
)
from aider_guard.sidecar.drm_clients import PROC, DrmClient, clients_by_process
from aider_guard.sidecar.intel_regions import USE_NOT_TOLD, card_total_bytes

Clients = Mapping[int, tuple[DrmClient, ...]]

_GIB: Final = 1 << 30
_VENDOR_UNKNOWN: Final = ("", "unknown")

_total_of = cache(card_total_bytes)
_name_of = cache(name_of)


def read_gpus(
    sys_root: Path = SYS, proc_root: Path = PROC
) -> tuple[tuple[Gpu, ...] | Unavailable, tuple[Unavailable, ...]]:
    """Read the cards, and why others were not read. The processes have no names."""
    cards = list_cards(sys_root)
    if isinstance(cards, Unavailable):
        return cards, ()
    cards = tuple(card for card in cards if not card.is_integrated_intel)
    clients = clients_by_process(proc_root)
    answers = [read_gpu(card, clients) for card in cards]
    gpus = tuple(answer for answer in answers if isinstance(answer, Gpu))
    unread = tuple(answer for answer in answers if isinstance(answer, Unavailable))
    if not gpus:
        return next(iter(unread), Unavailable("the GPU of AMD or Intel is gone")), unread[1:]
    return gpus, unread


def read_gpu(card: DrmCard, clients: Clients) -> Gpu | Unavailable:
    """Read one card, or say why its memory cannot be read."""
    if card.maker == "Intel":
        total = _total_of(card)
        if isinstance(total, Unavailable):
            _total_of.cache_clear()
            return total
        if not total:
            return INTEGRATED_INTEL
        return Gpu(
            card.number, _name_of(card), total, USE_NOT_TOLD, _processes(card, clients, main=False)
        )
    return _read_amd(card, clients)


def _read_amd(card: DrmCard, clients: Clients) -> Gpu | Unavailable:
    """Read a card of amdgpu. One inside a processor has what the firmware set aside for it, and may use more of the
    main memory (GTT); the kernel takes all from there where that is more (amdgpu_amdkfd.c, ``apu_prefer_gtt``).
    """
    vram, gtt = (read_bytes_count(card, f"mem_info_{kind}_total") for kind in ("vram", "gtt"))
    if isinstance(vram, Unavailable):
        return vram
    shares = isinstance(gtt, int) and gtt > vram and is_inside_processor(card, vram, gtt)
    total = gtt if shares else vram
    used = read_bytes_count(card, f"mem_info_{'gtt' if shares else 'vram'}_used")
    if not total:
        return Unavailable(f"the driver of {card.place} reports no memory")
    assert isinstance(total, int)
    processes = _processes(card, clients, main=shares)
    busy = read_bytes_count(card, "gpu_busy_percent")
    return Gpu(
        *(card.number, _name_of(card), total, used, processes),
        shares_main_memory=shares,
        busy_percent=GPU_USE_NOT_TOLD if isinstance(busy, Unavailable) else busy,
    )


def is_inside_processor(card: DrmCard, vram_bytes: int, gtt_bytes: int) -> bool:
    """Whether an AMD GPU is part of a processor.

    Only those have a sensor ``vddnb``, and only the others a clock ``mclk`` (amdgpu_pm.c, "only APUs have vddnb", "no
    mclk on APUs"). Where both are hidden, as Ollama decides it (discover/amd.go): no maker of memory chips, little
    memory of its own, and much of the machine's.
    """
    labels = {_word(path) for path in card.folder.glob("hwmon/hwmon*/*_label")}
    if labels & {"vddnb", "mclk"}:
        return "vddnb" in labels
    has_chips = _word(card.folder / "mem_info_vram_vendor") not in _VENDOR_UNKNOWN
    if has_chips or (card.folder / "board_info").exists():
        return False
    return vram_bytes <= 4 * _GIB and gtt_bytes >= max(8 * _GIB, 4 * vram_bytes)


def _word(path: Path) -> str:
    try:
        return read_word(path)
    except OSError:
        return ""


def _processes(card: DrmCard, clients: Clients, *, main: bool) -> tuple[GpuProcess, ...]:
    """The processes that hold memory of a card, or with *main* of the main memory through it."""
    address = card.pci_address
    held = {
        pid: sum(
            client.main_bytes if main else client.card_bytes
            for client in its
            if client.pci_address == address
        )
        for pid, its in clients.items()
    }
    return tuple(
        GpuProcess(pid, "", count, is_ollama=False) for pid, count in held.items() if count
    )


def answer(_question: bytes) -> bytes:
    """Answer a question for a reading."""
    gpus, unread = read_gpus()
    not_here = Unavailable("not read here")
    return encode(MemoryRead(MemoryReading(gpus, not_here, time.monotonic(), unread)))


def main() -> NoReturn:
    """Answer questions until stdin closes."""
    serve_lines(answer)


if __name__ == "__main__":
    main()
