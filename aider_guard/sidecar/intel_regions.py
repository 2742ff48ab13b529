"""Asks the drivers of Intel's cards how much memory a card has: a question to the device, as no file says it.

How much of it is used they tell administrators only (CAP_PERFMON; others read 0, include/uapi/drm/xe_drm.h and
i915_drm.h).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aider_guard.core.readings import Unavailable
from aider_guard.sidecar.drm_cards import DrmCard

DEV: Final = Path("/dev")
USE_NOT_TOLD: Final = Unavailable(
    "Linux tells only administrators how much of an Intel card is used"
)

Ioctl = Callable[[int, int, bytearray], object]

_XE_QUERY: Final = 0xC0286440
"""DRM_IOCTL_XE_DEVICE_QUERY: struct drm_xe_device_query (extensions, query, size, data, two reserved)."""
_XE_REGIONS: Final = 1
_I915_QUERY: Final = 0xC0106479
"""DRM_IOCTL_I915_QUERY: struct drm_i915_query (count, flags, address of the items)."""
_I915_REGIONS: Final = 4
_REGION_BYTES: Final = 88
"""Both drivers begin a region with its class, its number, 32 other bits, and its size in bytes."""
_OF_THE_CARD: Final = 1
_HEADER_BYTES: Final = {"xe": 8, "i915": 16}
_MOST_BYTES: Final = 65536


def card_total_bytes(
    card: DrmCard, dev_root: Path = DEV, ioctl: Ioctl | None = None
) -> int | Unavailable:
    """Return the size of a card's own memory, all tiles together; 0 for one that has none."""
    node = _render_node(card)
    if isinstance(node, Unavailable):
        return node
    shown = f"/dev/dri/{node}"
    try:
        device = os.open(dev_root / "dri" / node, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Unavailable(f"{shown} is not here: a container needs --device /dev/dri")
    except PermissionError:
        return Unavailable(f"this user may not open {shown}: it needs the device's group (render)")
    except OSError as error:
        return Unavailable(f"{shown} cannot be opened ({error.strerror})")
    try:
        answer = _ask(device, card.driver, ioctl or _ioctl)
    except OSError as error:
        return Unavailable(
            f"the driver of {card.place} does not tell its memory ({error.strerror})"
        )
    finally:
        os.close(device)
    return sum_of_regions(answer, _HEADER_BYTES[card.driver])


def sum_of_regions(answer: bytes, header_bytes: int) -> int | Unavailable:
    """Return the bytes of all regions of the card itself in a driver's answer."""
    garbled = Unavailable("the driver of an Intel GPU answered in an unknown form")
    if len(answer) < header_bytes:
        return garbled
    (count,) = struct.unpack_from("<I", answer)
    if len(answer) < header_bytes + count * _REGION_BYTES:
        return garbled
    places = range(header_bytes, header_bytes + count * _REGION_BYTES, _REGION_BYTES)
    total = 0
    for place in places:
        kind, _number, _more, size = struct.unpack_from("<HHIQ", answer, place)
        total += size if kind == _OF_THE_CARD else 0
    return total


def _render_node(card: DrmCard) -> str | Unavailable:
    nodes = sorted(path.name for path in card.folder.glob("drm/renderD*"))
    return nodes[0] if nodes else Unavailable(f"{card.place} has no device to ask (renderD)")


def _ask(device: int, driver: str, ioctl: Ioctl) -> bytes:
    """Ask once for the size of the answer and once for the answer, as both drivers want it. Raises OSError."""
    size, answer = 0, b""
    for _ in range(2):
        buffer = ctypes.create_string_buffer(max(size, 1))
        address = ctypes.addressof(buffer) if size else 0
        if driver == "xe":
            question = bytearray(struct.pack("<QIIQQQ", 0, _XE_REGIONS, size, address, 0, 0))
            ioctl(device, _XE_QUERY, question)
            size = struct.unpack_from("<QII", question)[2]
        else:
            item = ctypes.create_string_buffer(
                struct.pack("<QiIQ", _I915_REGIONS, size, 0, address)
            )
            ioctl(device, _I915_QUERY, bytearray(struct.pack("<IIQ", 1, 0, ctypes.addressof(item))))
            size = struct.unpack_from("<Qi", item)[1]
        if not 0 < size <= _MOST_BYTES:  # i915 has the number of an error there
            return b""
        answer = buffer.raw if address else b""
    return answer


def _ioctl(device: int, request: int, argument: bytearray) -> object:
    import fcntl

    return fcntl.ioctl(device, request, argument, True)
