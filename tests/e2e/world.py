"""What exists in a box: a name server, listeners for every address it tells, and a fake Ollama.

Runs as ``unshare -rnm PYTHON world.py FOLDER PORT…``, alone in its namespaces. Every name has the one documentation
address 192.0.2.10 (RFC 5737), and whatever reaches it becomes a line of ``witness.jsonl`` in FOLDER. A line on standard
input is answered when all that was sent before it has been written down; the world ends when standard input does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.chatting import ChattingOllama

if TYPE_CHECKING:
    from fakes.answering import Answer, Received

OUTSIDE = "192.0.2.10"
SECRET = "the-secret-of-the-house"
"""Stands in what the tests type: where it is seen, code would be seen."""

_OURSELVES = "127.0.0.2"
"""Where the world's own connections come from."""
_UP_AND_RUNNING = 0x1 | 0x40  # IFF_UP, IFF_RUNNING (net/if.h)
_SET_FLAGS, _SET_ADDRESS = 0x8914, 0x8916  # SIOCSIFFLAGS, SIOCSIFADDR (linux/sockios.h)
_FIRST_BYTES = 256 * 1024
_PATIENCE_SECONDS = 1.0
_HTTP = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
_SERVER_NAME = re.compile(rb"(?=\x00\x00..\x00.\x00(..))", re.DOTALL)


_QUESTION = struct.pack(">HHHHHH", 1, 256, 1, 0, 0, 0) + b"\x01x\0\0\1\0\1"


class Witness:
    """Writes down what came, one JSON object a line, before anything is answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def saw(self, kind: str, **facts: Any) -> None:
        """Write one line."""
        with self._lock:
            self._file.write(json.dumps({"at": time.time(), "kind": kind, **facts}) + "\n")


def bring_up() -> None:
    """Give the empty network namespace a loopback interface that also has the outside's address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14x", b"lo", _UP_AND_RUNNING)
        fcntl.ioctl(any_socket, _SET_FLAGS, up)
        address = struct.pack("16sHxx4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(OUTSIDE))
        fcntl.ioctl(any_socket, _SET_ADDRESS, address)


def become_the_name_server(folder: Path) -> None:
    """Have every program in the mount namespace ask this world for names, and no service of the host's."""
    files = {
        "/etc/resolv.conf": f"nameserver {OUTSIDE}\noptions timeout:1 attempts:1\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    for path, text in files.items():
        if Path(path).exists():
            ours = folder / Path(path).name
            ours.write_text(text)
            subprocess.run(["mount", "--bind", str(ours), path], check=True)
    if Path("/run/nscd").is_dir():
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run/nscd"], check=True)


def serve_names(witness: Witness) -> None:
    """Answer every question for an IPv4 address with the outside's, and all others with nothing."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((OUTSIDE, 53))

    def serve() -> None:
        while True:
            query, asker = server.recvfrom(4096)
            with contextlib.suppress(IndexError, UnicodeDecodeError):
                name, kind, question = read_question(query)
                if asker[0] != _OURSELVES:
                    witness.saw("name", host=name, type=kind)
                server.sendto(name_answer(query, question, kind), asker)

    threading.Thread(target=serve, daemon=True).start()


def read_question(query: bytes) -> tuple[str, int, bytes]:
    """The name, the type and the bytes of the question (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii"))
        at += query[at] + 1
    return (
        ".".join(labels).lower(),
        int.from_bytes(query[at + 1 : at + 3], "big"),
        query[12 : at + 5],
    )


def name_answer(query: bytes, question: bytes, kind: int) -> bytes:
    """The answer (RFC 1035, 4.1.1 and 4.1.3), which may be kept for no time."""
    address = b""
    if kind == 1:
        address = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(OUTSIDE)
    counts = struct.pack(">HHHH", 1, 1 if address else 0, 0, 0)
    return query[:2] + b"\x81\x80" + counts + question + address


def serve_connections(witness: Witness, port: int) -> None:
    """Take every connection, write that down, then look at its first bytes, and close it."""
    server = socket.create_server((OUTSIDE, port))

    def look(connection: socket.socket) -> None:
        with connection:
            first = first_bytes(connection)
            text = first.decode("latin-1")
            witness.saw("connection", host=host_in(first), port=port, text=text)
            if _HTTP.match(first):
                with contextlib.suppress(OSError):
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside"
                    )

    def serve() -> None:
        while True:
            connection, peer = server.accept()
            if peer[0] == _OURSELVES:
                connection.close()
                continue
            witness.saw("touch", port=port)
            threading.Thread(target=look, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def settle(ports: Sequence[int]) -> None:
    """Wait until whatever was sent before is written down: each listener takes what comes in its order."""
    ours = (_OURSELVES, 0)
    for port in ports:
        with socket.create_connection((OUTSIDE, port), source_address=ours) as connection:
            connection.recv(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind(ours)
        asking.sendto(_QUESTION, (OUTSIDE, 53))
        asking.recv(512)


def first_bytes(connection: socket.socket) -> bytes:
    """A whole HTTP request, or the first bytes of anything else."""
    connection.settimeout(_PATIENCE_SECONDS)
    first = b""
    with contextlib.suppress(OSError):
        while len(first) < _FIRST_BYTES and not is_whole(first):
            more = connection.recv(65536)
            if not more:
                break
            first += more
    return first


def is_whole(first: bytes) -> bool:
    """Whether a request's body has come, or this is no request."""
    if not _HTTP.match(first):
        return bool(first)
    head, end, body = first.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def host_in(first: bytes) -> str:
    """The host that was meant: of a CONNECT, of the Host line, or the server name of a TLS greeting (RFC 6066, 3)."""
    if _HTTP.match(first):
        target = re.match(rb"CONNECT ([^ :]+)", first) or re.search(
            rb"(?i)\r\nhost: *([^\s:]+)", first
        )
        return target[1].decode("latin-1") if target else ""
    for found in _SERVER_NAME.finditer(first):
        length, at = int.from_bytes(found[1], "big"), found.start() + 9
        name = first[at : at + length]
        if length and len(name) == length and re.fullmatch(rb"[\w.-]+", name):
            return name.decode("ascii")
    return ""


@dataclass
class BoxOllama(ChattingOllama):
    """The Ollama of a box, which is watched as well."""

    witness: Witness = field(kw_only=True)

    def answer(self, request: Received) -> Answer:
        """Write down what was asked, and whether it would have left the machine."""
        body = request.body if isinstance(request.body, dict) else {}
        outside = self._is_sent_out(request)
        model = body.get("model") or body.get("name", "")
        text = json.dumps(body)
        self.witness.saw("ollama", host=model, path=request.path, sent_out=outside, text=text)
        return super().answer(request)


def main() -> None:
    """Build the world, say where its Ollama is, and stay until nobody is there any more."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2:]]
    bring_up()
    become_the_name_server(folder)
    witness = Witness(folder / "witness.jsonl")
    serve_names(witness)
    for port in ports:
        serve_connections(witness, port)
    with BoxOllama(witness=witness) as ollama:
        print(ollama.url, flush=True)
        for _ in sys.stdin:
            settle(ports)
            print("settled", flush=True)


if __name__ == "__main__":
    main()
