"""What many requests may have left behind."""

from __future__ import annotations

import ctypes
import gc
import time
from collections import Counter
from collections.abc import Callable

import psutil
from sidecar.door.scripted import CAP_SECONDS


def wait_until(what: Callable[[], bool]) -> bool:
    """Look again and again, until a hard end."""
    end = time.monotonic() + CAP_SECONDS
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def settled_bytes() -> int:
    """Resident memory without what the C library keeps for later of the many threads' freed pieces."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss


def left(kinds: tuple[type, ...]) -> Counter[str]:
    """What is still there of requests. uvicorn's timer keeps a connection that was reset for a while, closed."""
    gc.collect()
    things = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    return Counter(type(thing).__name__ for thing in things)
