"""What the air gap costs where it is: a guard that serves it, a door, and an asker inside that times its own calls.

Each is a process of its own, as in a session, with nothing beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from airgap.layers import open_gap

from aider_guard.loop import READ, Loop
from bench.asker import KINDS
from bench.door import ROOT, answer_all

if TYPE_CHECKING:
    from aider_guard.airgap.gap import Gap
    from aider_guard.core.egress import Layer

Seconds = dict["Layer", list[float]]
"""By the layer."""
LAYERS: Final[tuple[Layer, ...]] = ("open", "asked", "netns", "seccomp")
BATCH: Final = 10
_MOST_TOLD_BYTES: Final = 1024


def measure_starts(count: int) -> Seconds:
    """Until the first byte of a program in an air gap that is made for it, by each layer that this system allows."""
    done = subprocess.run(
        [*_command("start"), str(count)], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    found: Seconds = json.loads(done.stdout)
    return found


def measure_calls(layers: Sequence[Layer], rounds: int) -> dict[str, Seconds]:
    """Of each kind; the layers take turns, and the first round is not counted."""
    with contextlib.ExitStack() as running:
        askers = {layer: running.enter_context(asker(layer)) for layer in layers}
        found: dict[str, Seconds] = {kind: {layer: [] for layer in layers} for kind in KINDS}
        for number in range(rounds + 1):
            for kind, layer in ((kind, layer) for kind in KINDS for layer in layers):
                seconds = askers[layer](kind)
                found[kind][layer] += seconds if number else []
        return found


@contextlib.contextmanager
def asker(layer: Layer) -> Iterator[Callable[[str], list[float]]]:
    """Times a batch of calls of one kind, inside."""
    with subprocess.Popen(
        _command("guard", layer), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers

        def ask(kind: str) -> list[float]:
            asked.write(f"{kind} {BATCH}\n")
            asked.flush()
            seconds: list[float] = json.loads(answers.readline())
            return seconds

        yield ask


def turned(layers: Sequence[Layer], number: int) -> Sequence[Layer]:
    """Another one first in each round: what a layer leaves for the kernel to tidy up is no other's burden alone."""
    first = number % len(layers)
    return [*layers[first:], *layers[:first]]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench.inside", *words]


def starts(count: int) -> Seconds:
    """See ``measure_starts``. The first of each is not counted."""
    found: Seconds = {}
    for number in range(count + 1):
        for layer in turned(LAYERS, number):
            with contextlib.suppress(OSError):
                seconds = _start_seconds(layer)
                found.setdefault(layer, []).extend([seconds] if number else [])
    return found


def _start_seconds(layer: Layer) -> float:
    started = time.perf_counter()
    with Loop() as loop, open_gap(layer) as gap:
        gap.watch(loop, lambda _attempt: None)
        process = _serve_to_its_end(gap, loop, ["echo"], stdout=True)
        seconds = time.perf_counter() - started
        process.wait()
    return seconds


def _serve_to_its_end(
    gap: Gap,
    loop: Loop,
    command: Sequence[str],
    *,
    stdout: bool = False,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Run a program inside until it writes to a pipe of ours, its output or another one, or closes it."""
    ours, theirs = os.pipe()
    with gap.entering() as enter:
        process = subprocess.Popen(
            command,
            stdout=theirs if stdout else None,
            pass_fds=(theirs, *pass_fds),
            preexec_fn=enter or _nothing,  # noqa: PLW1509  # the contract of Gap.entering
        )
    os.close(theirs)
    ended: list[int] = []
    loop.watch(ours, READ, ended.append)
    loop.run(lambda: bool(ended))
    loop.forget(ours)
    os.close(ours)
    return process


def _nothing() -> None:
    """As a session without an air gap: the fork runs Python there, too."""


def guard(layer: Layer) -> None:
    """Serve an asker in an air gap until it ends."""
    report_socket, sending_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with report_socket, sending_end, Loop() as loop, open_gap(layer) as gap:
        gap.watch(loop, lambda _attempt: None)
        loop.watch(report_socket.fileno(), READ, lambda _events: _drop(report_socket))
        with _door(gap) as port:
            fd = sending_end.fileno()
            command = [sys.executable, "-m", "bench.asker", layer, str(port), str(fd)]
            _serve_to_its_end(gap, loop, command, pass_fds=(fd,)).wait()


def _drop(report_socket: socket.socket) -> None:
    report_socket.recv(_MOST_TOLD_BYTES)


@contextlib.contextmanager
def _door(gap: Gap) -> Iterator[int]:
    """A server that listens in the air gap, outside; its port inside."""
    fd, port = gap.listen()
    with subprocess.Popen(
        _command("door", str(fd)), stdin=subprocess.DEVNULL, pass_fds=(fd,)
    ) as process:
        os.close(fd)
        try:
            yield port
        finally:
            process.kill()


async def serve_door(fd: int) -> None:
    """Answer every request at once."""
    server = await asyncio.start_server(answer_all, sock=socket.socket(fileno=fd))
    await server.serve_forever()


def main() -> None:
    layers: dict[str, Layer] = {layer: layer for layer in LAYERS}
    match sys.argv[1:]:
        case ["start", count]:
            print(json.dumps(starts(int(count))))
        case ["guard", layer]:
            guard(layers[layer])
        case ["door", fd]:
            asyncio.run(serve_door(int(fd)))


if __name__ == "__main__":
    main()
