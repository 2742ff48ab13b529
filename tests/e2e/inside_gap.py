"""Stands for a session: opens an air gap, runs a command in it until no program is left, and prints the attempts.

Runs as ``PYTHON inside_gap.py LAYER UID COMMAND…`` in a box. It prints JSON objects, a line each: the attempts, and at
last the command's status and words. The command is told the ``LAYER``, the port of the gap's ``DOOR``, the
process that is its ``GUARD``, and ``SECRET_AT``, the address of a number in that one's memory.

Two layers enforce nothing, which the tests must find out: ``open``, and ``words``, which only reports ``CLAIMED`` as
an attempt.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import select
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from airgap.layers import open_gap

from aider_guard.airgap import kernel
from aider_guard.airgap.gap import UNKNOWN_PROGRAM, Gap, ProgramFinder, Report, Unenforced
from aider_guard.core.egress import Attempt, Layer, parse_place
from aider_guard.loop import READ, Loop

SILENCE_SECONDS = 0.05
"""What was tried is known to the kernel before the last program has ended."""
DOOR_SAYS = b"the door"
_SECRET = ctypes.c_uint64(0x1BADC0DE)


class OnlyWords(Unenforced):
    """Blocks nothing, and says that it did."""

    def watch(self, loop: Loop, report: Report, programs: ProgramFinder = UNKNOWN_PROGRAM) -> None:
        """Claim it at once."""
        del loop, programs
        place = parse_place(os.environ["CLAIMED"])
        report(Attempt(place.host, place.port, "tcp"))


@contextmanager
def open_as_caller(layer: str) -> Iterator[Gap]:
    """The product's gap of this layer, or none."""
    layers: dict[str, Layer] = {"netns": "netns", "seccomp": "seccomp", "open": "open"}
    if layer == "words":
        yield OnlyWords("open")
        return
    with open_gap(layers[layer]) as gap:
        yield gap


def become(uid: int) -> None:
    """Go on as this user, the only one of a user namespace, as a program without any rights over it."""
    outer = {"uid": os.geteuid(), "gid": os.getegid()}
    kernel.unshare(kernel.CLONE_NEWUSER)
    texts = {"setgroups": "deny"} | {f"{kind}_map": f"{uid} {own} 1" for kind, own in outer.items()}
    for name, text in texts.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    os.execv(sys.executable, [sys.executable, *sys.argv])


class Session:
    """One command in a gap, and the gap's door."""

    def __init__(self, gap: Gap, loop: Loop) -> None:
        self._gap, self._loop = gap, loop
        self._said, self._is_over = bytearray(), False
        fd, self._port = gap.listen()
        self._door = socket.socket(fileno=fd)
        loop.watch(fd, READ, self._open_the_door)
        gap.watch(loop, self._report)

    def run(self, command: list[str]) -> None:
        """Serve until no program that it started has its output open, and for a silence after that; tell all."""
        process, output = self._start(command)
        self._loop.watch(output, READ, lambda _events: self._hear(output))
        self._loop.run(lambda: self._is_over)
        self._loop.forget(output)
        while self._brings_something():
            pass
        self._gap.flush()
        _print({"status": process.wait(), "said": self._said.decode("utf-8", "replace")})

    def _brings_something(self) -> bool:
        """Serve what has come, or comes within a silence; False when nothing did, however slow the machine is."""
        selector = self._loop._selector
        assert isinstance(selector, selectors.EpollSelector)
        ready, _, _ = select.select([selector], [], [], SILENCE_SECONDS)
        self._loop.run_once(0)
        return bool(ready)

    def _start(self, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
        environment = {
            "DOOR": str(self._port),
            "GUARD": str(os.getpid()),
            "LAYER": self._gap.layer,
            "SECRET_AT": str(ctypes.addressof(_SECRET)),
        }
        ours, theirs = os.pipe()
        with self._gap.entering() as enter:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=os.environ | environment,
                preexec_fn=enter,  # noqa: PLW1509  # the contract of Gap.entering
            )
        os.close(theirs)
        return process, ours

    def _hear(self, output: int) -> None:
        words = os.read(output, 65536)
        self._said += words
        self._is_over = not words

    def _open_the_door(self, _events: int) -> None:
        with self._door.accept()[0] as client:
            client.sendall(DOOR_SAYS)

    def _report(self, attempt: Attempt) -> None:
        _print(dataclasses.asdict(attempt))


def _print(facts: dict[str, object]) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    """See the module's text."""
    layer, uid, *command = sys.argv[1:]
    if os.getuid() != int(uid):
        become(int(uid))
    with open_as_caller(layer) as gap, Loop() as loop:
        Session(gap, loop).run(command)


if __name__ == "__main__":
    main()
