"""Many clients that send random requests, and what they may leave behind."""

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
from door.scripted import CAP_SECONDS, OpenDoor

CONNECTIONS = 50
TIMES, SETTLING_SECONDS = 3, 5.0


class RandomClients(ABC):
    """Many clients that send requests at the same time, some of which they cut at random."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def run(self, door: OpenDoor, requests: int) -> None:
        """Send this number of requests, by all the connections at the same time."""
        with ThreadPoolExecutor(CONNECTIONS) as clients:
            seeds = [self.chance.random() for _ in range(CONNECTIONS)]
            for client in [
                clients.submit(self._send_requests, door, seed, requests) for seed in seeds
            ]:
                client.result(CAP_SECONDS * 5)

    def _send_requests(self, door: OpenDoor, seed: float, requests: int) -> None:
        chance = random.Random(seed)
        connected = door.connect()
        for _ in range(requests // CONNECTIONS):
            if not self._request(connected, chance):
                connected.close()
                connected = door.connect()
        connected.close()

    @abstractmethod
    def _request(self, connected: socket.socket, chance: random.Random) -> bool:
        """Send one request; return whether its connection can be used for another."""


def wait_until(what: Callable[[], bool], seconds: float = CAP_SECONDS) -> bool:
    """Wait until something is so; return False after these seconds."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def settled_bytes() -> int:
    """Return the resident memory without the freed pieces that the C library keeps for its threads."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss


def grows_each_time(what: Callable[[], None], allowed_bytes: int) -> bool:
    """Return whether too much memory is left each of a few times: the first ones fill caches and arenas."""
    for _ in range(TIMES):
        most_bytes = settled_bytes() + allowed_bytes
        what()
        if wait_until(partial(_is_below, most_bytes), SETTLING_SECONDS):
            return False
    return True


def _is_below(most_bytes: int) -> bool:
    return settled_bytes() < most_bytes


def left(kinds: tuple[type, ...]) -> Counter[str]:
    """Count the objects of these classes. uvicorn's timer keeps a connection that was reset for a while, closed."""
    gc.collect()
    objects = [item for item in gc.get_objects() if isinstance(item, kinds)]
    return Counter(type(item).__name__ for item in objects)
