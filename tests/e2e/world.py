"""What exists in a box: a name server, listeners for every address it tells, other services, and a fake Ollama.

Runs as ``unshare -rnm PYTHON world.py FOLDER PORT…``, alone in its namespaces. Every name has the one documentation
address 192.0.2.10 (RFC 5737), and whatever reaches it becomes a line of ``witness.jsonl`` in FOLDER. A line on standard
input is answered when all that was sent before it has been written down; the world ends when standard input does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.chatting import ChattingOllama
from e2e.listening import OURSELVES, Listeners, Witness

if TYPE_CHECKING:
    from fakes.answering import Answer, Received

OUTSIDE = "192.0.2.10"
OUTSIDE_6 = "2001:db8::10"
"""The same in IPv6 (RFC 3849), where the kernel has it."""
SECRET = "the-secret-of-the-house"
"""Stands in what the tests type: where it is seen, code would be seen."""
DATAGRAMS = 9999
"""The port of the outside that takes datagrams."""
SERVICE = 5432
"""The port of 127.0.0.1 where another service of the machine listens, for connections and for datagrams."""
DAEMON = "/run/docker.sock"
"""The socket of a service that acts for any client, and so leads out."""
ABSTRACT = b"\0of-another-service"
"""A name without a file (unix(7)), for connections; with ``-datagrams`` after it, for datagrams."""

_UP_AND_RUNNING = 0x1 | 0x40  # IFF_UP, IFF_RUNNING (net/if.h)
_SET_FLAGS, _SET_ADDRESS = 0x8914, 0x8916  # SIOCSIFFLAGS, SIOCSIFADDR (linux/sockios.h)
_LOOPBACK_INDEX = 1
_NEW_ADDRESS, _REQUEST_ACK_CREATE = 20, 0x1 | 0x4 | 0x400  # RTM_NEWADDR; linux/netlink.h
_FAST_OPEN = Path("/proc/sys/net/ipv4/tcp_fastopen")
_FAST_OPEN_ALWAYS = 0x1 | 0x2 | 0x4 | 0x200  # both sides, without a cookie (ip-sysctl)


def bring_up() -> None:
    """Give the empty network namespace a loopback interface that also has the outside's addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14x", b"lo", _UP_AND_RUNNING)
        fcntl.ioctl(any_socket, _SET_FLAGS, up)
        address = struct.pack("16sHxx4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(OUTSIDE))
        fcntl.ioctl(any_socket, _SET_ADDRESS, address)
    with contextlib.suppress(OSError):
        _FAST_OPEN.write_text(str(_FAST_OPEN_ALWAYS))


def bring_up_6() -> bool:
    """Give it the IPv6 ones too, to be used at once; False where the kernel has none."""
    for address in (OUTSIDE_6, str(OURSELVES[socket.AF_INET6])):
        raw = socket.inet_pton(socket.AF_INET6, address)
        # struct ifaddrmsg with IFA_F_NODAD, and IFA_LOCAL (linux/if_addr.h): the older ioctl leaves it tentative
        body = struct.pack("BBBBI", socket.AF_INET6, 128, 0x02, 0, _LOOPBACK_INDEX)
        body += struct.pack("HH", 4 + len(raw), 2) + raw
        head = struct.pack("IHHII", 16 + len(body), _NEW_ADDRESS, _REQUEST_ACK_CREATE, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.send(head + body)
            if struct.unpack_from("i", netlink.recv(4096), 16)[0]:
                return False
    return True


def become_the_name_server(folder: Path) -> None:
    """Have every program in the mount namespace ask this world for names, and no service of the host's."""
    files = {
        "/etc/resolv.conf": f"nameserver {OUTSIDE}\noptions timeout:3 attempts:1\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    there = [path for path in files if Path(path).exists()]
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    for path in there:
        ours, real = folder / Path(path).name, Path(os.path.realpath(path))
        ours.write_text(files[path])
        real.parent.mkdir(parents=True, exist_ok=True)  # it may lie in /run
        real.touch()
        subprocess.run(["mount", "--bind", str(ours), str(real)], check=True)


def serve_names(listeners: Listeners, witness: Witness) -> None:
    """Answer every question for an IPv4 address with the outside's, and all others with nothing."""

    def answer(query: bytes, is_ours: bool) -> bytes:
        if is_ours:
            return query
        try:
            name, kind, question = read_question(query)
        except (IndexError, UnicodeDecodeError):
            witness.saw("datagram", port=53, text=query.decode("latin-1"))
            return b""
        witness.saw("name", host=name, type=kind)
        return name_answer(query, question, kind)

    listeners.answering((OUTSIDE, 53), answer)


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


def listen(listeners: Listeners, ports: Sequence[int]) -> None:
    """Be the outside on these ports, and the other services of the machine."""
    has_6 = bring_up_6()
    for port in ports:
        listeners.connections(socket.AF_INET, (OUTSIDE, port), port)
        if has_6:
            listeners.connections(socket.AF_INET6, (OUTSIDE_6, port), port)
    listeners.datagrams(socket.AF_INET, (OUTSIDE, DATAGRAMS), DATAGRAMS)
    if has_6:
        listeners.datagrams(socket.AF_INET6, (OUTSIDE_6, DATAGRAMS), DATAGRAMS)
    listeners.connections(socket.AF_INET, ("127.0.0.1", SERVICE), SERVICE)
    listeners.datagrams(socket.AF_INET, ("127.0.0.1", SERVICE), SERVICE)
    listeners.connections(socket.AF_UNIX, DAEMON)
    Path(DAEMON).chmod(0o666)
    listeners.connections(socket.AF_UNIX, ABSTRACT)
    listeners.datagrams(socket.AF_UNIX, ABSTRACT + b"-datagrams")


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
    """Build the world, say where its Ollama is, and stay until no program is left."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2:]]
    bring_up()
    become_the_name_server(folder)
    witness = Witness(folder / "witness.jsonl")
    listeners = Listeners(witness)
    serve_names(listeners, witness)
    listen(listeners, ports)
    with BoxOllama(witness=witness) as ollama:
        print(ollama.url, flush=True)
        for _ in sys.stdin:
            listeners.settle()
            print("settled", flush=True)


if __name__ == "__main__":
    main()
