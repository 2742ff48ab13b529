"""What many requests may have left behind."""

from __future__ import annotations

import ctypes
import gc
import random
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
from door.scripted import CAP_SECONDS, Served

CONNECTIONS = 50


class Crowd(ABC):
    """Many people who ask at the same time, each request with its own fate."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def rage(self, door: Served, requests: int) -> None:
        """So many requests, by all the connections at the same time."""
        with ThreadPoolExecutor(CONNECTIONS) as people:
            seeds = [self.chance.random() for _ in range(CONNECTIONS)]
            for person in [people.submit(self._ask_on, door, seed, requests) for seed in seeds]:
                person.result(CAP_SECONDS * 5)

    def _ask_on(self, door: Served, seed: float, requests: int) -> None:
        chance = random.Random(seed)
        connected = door.connect()
        for _ in range(requests // CONNECTIONS):
            if not self._ask(connected, chance):
                connected.close()
                connected = door.connect()
        connected.close()

    @abstractmethod
    def _ask(self, connected: socket.socket, chance: random.Random) -> bool:
        """One request; whether its connection can be used for another."""


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
