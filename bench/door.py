"""What the door adds to an answer: each chunk carries the time it was sent, and is read directly and through the door.

``python -m bench.door``. The upstream, the door and the asker are processes of their own; the ways take turns: direct,
through the transport alone (a handler that changes nothing), and through the whole sidecar.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aider_guard.core.actions import ServeDoor
from aider_guard.core.chat.events import DoorOpened
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.wire import decode, encode
from bench.relay import percentile
from bench.vocabulary import shown

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "bench"
MODEL = "bench:latest"
WINDOW_TOKENS = 65536
CHUNK_SECONDS = 0.005
CHUNKS = 40
WARM_UP_REQUESTS = 10
PROMPT_BYTES = 40_000
"""About as much as Aider sends with its map and two files."""


@dataclass
class Answers:
    """Seconds to the first byte of each answer, and from sending to receiving each chunk after the first."""

    first_bytes: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)


def measure(requests: int) -> dict[str, Answers]:
    """Every way, taking turns; the first of each are not counted."""
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(process("upstream"))
        ports = {
            "direct": upstream,
            "transport": running.enter_context(process("transport", str(upstream))),
            "door": running.enter_context(sidecar(upstream)),
        }
        askers = {
            name: running.enter_context(Asker(port, "" if port == upstream else f"/{TOKEN}"))
            for name, port in ports.items()
        }
        for _ in range(WARM_UP_REQUESTS):
            ask_all(askers)
        found = {name: Answers() for name in askers}
        for _ in range(requests):
            for name, answers in ask_all(askers).items():
                found[name].first_bytes += answers.first_bytes
                found[name].chunks += answers.chunks
        return found


def ask_all(askers: Mapping[str, Asker]) -> dict[str, Answers]:
    """One request of each way."""
    body = chat_body()
    return {name: asker.ask(body) for name, asker in askers.items()}


@contextlib.contextmanager
def process(*words: str) -> Iterator[int]:
    """One of the servers below, in a process of its own; its port."""
    command = [sys.executable, "-m", "bench.door", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


@contextlib.contextmanager
def sidecar(
    upstream_port: int,
    *,
    window_tokens: int = WINDOW_TOKENS,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """The real sidecar, with all it does beside; the port of its door."""
    listener = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-m", "aider_guard.sidecar", "--ollama", address(upstream_port)]
    with (
        listener,
        subprocess.Popen(
            [*command, "--door-fd", str(listener.fileno())],
            cwd=ROOT,
            env=environment,
            pass_fds=(listener.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server,
    ):
        assert server.stdin
        assert server.stdout
        try:
            server.stdin.write(encode(ServeDoor(settings(upstream_port, window_tokens))))
            server.stdin.flush()
            port = next(
                event.port for event in map(decode, server.stdout) if isinstance(event, DoorOpened)
            )
            # The guard reads on, too: a full pipe would hold up the door.
            threading.Thread(target=deque, args=(server.stdout, 0), daemon=True).start()
            yield port
        finally:
            server.kill()


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def settings(upstream_port: int, window_tokens: int = WINDOW_TOKENS) -> DoorSettings:
    upstream = Upstream("", address(upstream_port), "ollama")
    return DoorSettings(TOKEN, (upstream,), (DoorRole("main", MODEL),), window_tokens)


def chat_body(
    number: int = 0,
    message: str = "Rename compute.",
    *,
    window_tokens: int = WINDOW_TOKENS,
    size_bytes: int = PROMPT_BYTES,
) -> bytes:
    """A request as Aider sends it: many lines of code in a few messages. Each number's code is another."""
    code = f"    value = compute(value, n{number:05})\n" * (size_bytes // 36)
    messages = [
        {"role": "system", "content": "Act as an expert software developer."},
        {"role": "user", "content": code},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": message},
    ]
    options = {"num_ctx": window_tokens, "temperature": 0}
    body = {"model": MODEL, "messages": messages, "stream": True, "options": options}
    return json.dumps(body).encode()


class Asker:
    """Asks over one kept connection, with nothing of a library's between it and the socket."""

    def __init__(self, port: int, prefix: str) -> None:
        self._prefix, self._port = prefix, port

    def __enter__(self) -> Asker:
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, body: bytes) -> Answers:
        lines = (f"POST {self._prefix}/api/chat HTTP/1.1", "Host: 127.0.0.1")
        more = ("Content-Type: application/json", f"Content-Length: {len(body)}", "", "")
        request = "\r\n".join((*lines, *more)).encode() + body
        answers = Answers()
        started = time.perf_counter()
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        answers.first_bytes.append(time.perf_counter() - started)
        while not received.endswith(b"0\r\n\r\n"):
            piece = self._socket.recv(65536)
            now = time.perf_counter()
            if not piece:
                raise ConnectionError(f"an answer broke off after {received!r}")
            if piece.count(b'"done":false') == 1:  # one chunk, and not the last
                answers.chunks.append(now - sent_at(piece))
            received = (received + piece)[-65536:]
        return answers


MARK = b'"content":"'


def sent_at(chunk: bytes) -> float:
    """When the upstream sent a chunk: the clock is the machine's, the same in every process."""
    return int(chunk.partition(MARK)[2][:20]) / 1e9


async def serve_upstream() -> None:
    """Answer every request for text with chunks at a steady pace, and tell of the model."""
    plain, verbose = shown()

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_all(reader, writer, lambda body: verbose if b"verbose" in body else plain)

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def answer_all(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    show: Callable[[bytes], bytes] | None = None,
) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            body = await reader.readexactly(next(lengths, 0))
            if head.startswith(b"POST /api/chat "):
                await answer(writer)
            elif show is not None and head.startswith(b"GET /api/version "):
                told = b'{"version":"0.30.11"}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
            elif show is not None and head.startswith(b"GET /api/tags "):
                told = json.dumps({"models": [{"name": MODEL, "model": MODEL}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
            elif show is not None and head.startswith(b"POST /api/show "):
                told = show(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def answer(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(CHUNKS):
        await asyncio.sleep(CHUNK_SECONDS)
        writer.write(chunk({"content": f"{time.perf_counter_ns():020} word"}))
    await asyncio.sleep(CHUNK_SECONDS)
    numbers = {"prompt_eval_count": 9000, "eval_count": CHUNKS, "load_duration": 1}
    writer.write(chunk({"content": ""}, done=True, done_reason="stop", **numbers) + b"0\r\n\r\n")


def chunk(message: dict[str, str], *, done: bool = False, **more: object) -> bytes:
    """One line of Ollama's, as one chunk of HTTP."""
    told = {"role": "assistant", **message}
    line = {"model": MODEL, "created_at": "2026-01-02T03:04:05Z", "message": told, "done": done}
    content = json.dumps({**line, **more}, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(content), content)


def serve_transport(upstream_port: int) -> None:
    """The door's transport, with a handler that changes nothing."""
    from door.plain_handler import PlainHandler

    from aider_guard.door.app import Door
    from aider_guard.door.server import DoorServer

    served = settings(upstream_port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door(lambda: served, PlainHandler())
        DoorServer(listener, door, on_open=lambda port: print(port, flush=True)).serve()


@dataclass(frozen=True)
class Row:
    """One line of a table, in milliseconds: each way, and what the door may add."""

    name: str
    direct: float
    transport: float | None
    door: float
    aim: str

    @property
    def added(self) -> str:
        """By how much an answer through the door is later."""
        return f"{self.door - self.direct:+.3f}"


def rows(found: Mapping[str, Answers]) -> Sequence[Row]:
    """The medians and 99th percentiles."""
    kinds: tuple[tuple[str, Callable[[Answers], list[float]], Mapping[int, str]], ...] = (
        ("first byte", lambda answers: answers.first_bytes, {50: "at most 2 ms added"}),
        ("chunk", lambda answers: answers.chunks, {99: "at most 1 ms added"}),
    )
    return [
        row(found, kind, values, percent, aims)
        for kind, values, aims in kinds
        for percent in (50, 99)
    ]


def row(
    found: Mapping[str, Answers],
    kind: str,
    values: Callable[[Answers], list[float]],
    percent: int,
    aims: Mapping[int, str],
) -> Row:
    direct, transport, door = (
        percentile(values(found[way]), percent) * 1000 for way in ("direct", "transport", "door")
    )
    name = f"door: {kind} p{percent}, ms"
    return Row(name, direct, transport, door, aims.get(percent, ""))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.door", description=__doc__)
    parser.add_argument("serve", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=100, help="requests of each way")
    options = parser.parse_args()
    match options.serve:
        case ["upstream"]:
            asyncio.run(serve_upstream())
        case ["transport", port]:
            serve_transport(int(port))
        case _:
            from bench import counted  # it is made of the parts of this module

            columns = "{:48}{:>10}{:>10}{:>10}{:>10}   {}"
            print(columns.format("", "direct", "transport", "door", "added", ""))
            found = counted.measure(options.requests, counted.SIDECARS)
            for row in (*rows(measure(options.requests)), *counted.rows(found)):
                ways = (row.direct, row.transport, row.door)
                values = (f"{way:.3f}" if way is not None else "" for way in ways)
                print(columns.format(row.name, *values, row.added, row.aim).rstrip())
            print(counted.memory_line(found))


if __name__ == "__main__":
    main()
