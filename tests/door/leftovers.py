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
from functools import partial

import psutil
from door.scripted import CAP_SECONDS, Served

CONNECTIONS = 50
TIMES, SETTLING_SECONDS = 3, 5.0


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


def wait_until(what: Callable[[], bool], seconds: float = CAP_SECONDS) -> bool:
    """Look again and again, until a hard end."""
    end = time.monotonic() + seconds
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


def grows_each_time(what: Callable[[], None], allowed_bytes: int) -> bool:
    """Whether more memory than allowed is left after each of a few times: the first ones fill caches and arenas."""
    for _ in range(TIMES):
        most_bytes = settled_bytes() + allowed_bytes
        what()
        if wait_until(partial(_is_below, most_bytes), SETTLING_SECONDS):
            return False
    return True


def _is_below(most_bytes: int) -> bool:
    return settled_bytes() < most_bytes


def left(kinds: tuple[type, ...]) -> Counter[str]:
    """What is still there of requests. uvicorn's timer keeps a connection that was reset for a while, closed."""
    gc.collect()
    things = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    return Counter(type(thing).__name__ for thing in things)
