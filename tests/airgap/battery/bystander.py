"""Stands for the user's other programs outside: it has connections, and memory that says where to connect next.

Runs with the standard library alone. Each line on its pipe is answered with what it is, as JSON; before that it
connects to the ports that are in its memory, of which there are none unless another process writes them there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys

SLOTS = 8


def main() -> None:
    """Serve until it is killed."""
    folder, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    slots = (ctypes.c_uint16 * SLOTS)()
    connections = [socket.create_connection((host, port)) for _ in range(SLOTS)]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((host, port))
    facts = {
        "process": os.getpid(),
        "slots": ctypes.addressof(slots),
        "connections": [one.fileno() for one in connections],
        "datagrams": datagrams.fileno(),
    }
    with open(f"{folder}/.poke", "r+b", 0) as poke, open(f"{folder}/.poked", "r+b", 0) as poked:
        print("ready", flush=True)
        while poke.readline():
            for number, to in enumerate(slots):
                if to:
                    with contextlib.suppress(OSError):
                        socket.create_connection((host, to), 3).close()
                    slots[number] = 0
            poked.write(json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    main()
