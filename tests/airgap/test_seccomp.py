"""Programs inside the seccomp layer: what they reach, what not, and what is reported. Real forks, real sockets."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest
from airgap.seccomp_world import HostServers, World, ended, world

from aider_guard.core.egress import Attempt, Place

OUTSIDE = "192.0.2.10"  # documentation addresses, RFC 5737: not in use
OUTSIDE6 = "2001:db8::10"


CONNECT = """
sock = socket.socket(getattr(socket, arguments[0]), getattr(socket, arguments[1]))
tell(error_of(sock.connect, tuple(arguments[2])))
"""


def test_the_guards_listener_is_reached(here: World) -> None:
    """A program talks with what listens by ``listen``, over IPv4, and over IPv6 sockets with IPv4's address."""
    fd, port = here.gap.listen()
    code = """
four = socket.create_connection(("127.0.0.1", arguments), 5)
six = socket.socket(socket.AF_INET6)
six.connect(("::ffff:127.0.0.1", arguments))
four.sendall(b"four"); six.sendall(b"six")
tell([four.getpeername()[1], six.getpeername()[1]])
"""
    with socket.socket(fileno=fd) as listener:
        assert here.run(code, port) == [port, port]
        listener.setblocking(False)
        with listener.accept()[0] as first, listener.accept()[0] as second:
            assert {first.recv(9), second.recv(9)} == {b"four", b"six"}
    assert here.attempts == []


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_service_of_the_host_is_not_reached(here: World, host: HostServers, kind: str) -> None:
    """Neither by TCP nor by connected UDP; the error is an ordinary one, the attempt is reported with its program."""
    result = here.run(CONNECT, ["AF_INET", kind, ["127.0.0.1", host.port]])

    assert result == "ECONNREFUSED"
    assert host.seen() == 0
    protocol = "tcp" if kind == "SOCK_STREAM" else "udp"
    program = Path(sys.executable).name
    assert [(a.host, a.port, a.protocol) for a in here.attempts] == [
        ("127.0.0.1", host.port, protocol)
    ]
    assert here.attempts[0].program in program


@pytest.mark.parametrize(
    ("family", "kind", "address", "protocol"),
    [
        ("AF_INET", "SOCK_STREAM", (OUTSIDE, 443), "tcp"),
        ("AF_INET6", "SOCK_STREAM", (OUTSIDE6, 443), "tcp"),
        ("AF_INET", "SOCK_DGRAM", (OUTSIDE, 9999), "udp"),
        ("AF_INET6", "SOCK_DGRAM", (OUTSIDE6, 9999), "udp"),
        ("AF_INET", "SOCK_STREAM", (OUTSIDE, 53), "tcp"),
    ],
)
def test_outside_addresses(
    here: World, family: str, kind: str, address: tuple[str, int], protocol: str
) -> None:
    """Connections to other machines fail at once, and are reported."""
    assert here.run(CONNECT, [family, kind, address]) == "ECONNREFUSED"
    assert here.kinds() == {(*address, protocol)}


SENDS = """
host, port = arguments
udp = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tcp = socket.socket()
MSG_FASTOPEN = 0x20000000
class Many(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("length", ctypes.c_uint), ("parts", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("clen", ctypes.c_size_t),
                ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t)]
def sendmmsg(sock, data, to):
    raw = ctypes.create_string_buffer(struct.pack("<H", 2) + struct.pack("!H4s8x", to[1], socket.inet_aton(to[0])), 16)
    text = ctypes.create_string_buffer(data, len(data))
    part = (ctypes.c_size_t * 2)(ctypes.addressof(text), len(data))
    two = (Many * 2)(*[(ctypes.addressof(raw), 16, ctypes.addressof(part), 1, None, 0, 0, 0)] * 2)
    if (sent := libc.sendmmsg(sock.fileno(), ctypes.byref(two), 2, 0)) < 0:
        raise OSError(ctypes.get_errno(), "sendmmsg")
    return sent, [one.sent for one in two]
def unspecified(sock, data, to):
    raw = struct.pack("<H", 0) + struct.pack("!H4s8x", to[1], socket.inet_aton(to[0]))
    if libc.sendto(sock.fileno(), data, len(data), 0, raw, 16) < 0:
        raise OSError(ctypes.get_errno(), "sendto")
"""


def test_datagrams_do_not_leave(here: World, host: HostServers) -> None:
    """Each way to send one with an address is refused, and so is a TCP connection that begins by sending."""
    code = """
tell([error_of(udp().sendto, b"x", (host, port)), error_of(udp().sendmsg, [b"x"], [], 0, (host, port)),
      error_of(sendmmsg, udp(), b"x", (host, port)), error_of(unspecified, udp(), b"x", (host, port)),
      error_of(tcp.sendto, b"x", MSG_FASTOPEN, (host, port)),
      error_of(tcp.sendmsg, [b"x"], [], MSG_FASTOPEN, (host, port))])
"""
    result = here.run(SENDS + code, ["127.0.0.1", host.port])

    assert result == ["EPERM"] * 6
    assert host.seen() == 0
    protocols = [attempt.protocol for attempt in here.attempts]
    assert protocols == ["udp"] * 4 + ["tcp"] * 2
    assert {(a.host, a.port) for a in here.attempts} == {("127.0.0.1", host.port)}


def test_a_question_for_a_name_that_is_sent_elsewhere(here: World) -> None:
    """Without a connected socket the guard cannot answer: it is refused, and the name is reported."""
    code = """
query = struct.pack("!HHHHHH", 7, 256, 1, 0, 0, 0) + b"\\7example\\3org\\0\\0\\1\\0\\1"
tell(error_of(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, query, ("192.0.2.53", 53)))
"""
    assert here.run(code) == "EPERM"
    assert here.kinds() == {("example.org", 53, "dns")}


def test_names_are_answered_by_the_guard(here: World) -> None:
    """A resolver finds each name, and a connection to it is reported by that name. Sorting of addresses is not."""
    code = """
found = socket.gethostbyname("host.example")
port_0 = error_of(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect, ("192.0.2.7", 0))
tell([found, port_0, error_of(socket.create_connection, ("host.example", 443), 5)])
"""
    found, port_0, error = here.run(code)

    assert found.startswith("127.77.")
    assert (port_0, error) == ("ENETUNREACH", "ECONNREFUSED")
    assert here.kinds() == {("host.example", 53, "dns"), ("host.example", 443, "tcp")}


ASK_BY_6 = """
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, arguments)
sock.settimeout(5)
error = error_of(sock.connect, ("2001:db8::53", 53))
if not error:
    sock.send(struct.pack("!HHHHHH", 7, 256, 1, 0, 0, 0) + b"\\7example\\3org\\0\\0\\1\\0\\1")
tell(error or socket.inet_ntoa(sock.recv(512)[-4:]))
"""


def test_a_name_server_of_ipv6_answers(here: World) -> None:
    """Where the system's list has no other, names are found all the same."""
    assert here.run(ASK_BY_6, 0).startswith("127.77.")
    assert here.kinds() == {("example.org", 53, "dns")}


def test_a_question_that_cannot_be_asked_is_reported(here: World) -> None:
    """By a socket that takes no address of IPv4: the server's address is known."""
    assert here.run(ASK_BY_6, 1) == "ENETUNREACH"
    assert here.kinds() == {("2001:db8::53", 53, "udp")}


def test_allowed_places_are_reached_by_their_relays() -> None:
    """By name and by address, over IPv4 and IPv6; not their other ports. To ask for its name is no attempt."""
    places = [
        Place("git.example", 22),
        Place(OUTSIDE, 5432),
        Place(OUTSIDE6, 80),
        Place("localhost", 6),
    ]
    code = """
connect = lambda *to: error_of(socket.create_connection, to, 5)
tell([connect("git.example", 22), connect(arguments[0], 5432), connect(arguments[1], 80), connect("127.0.0.1", 6),
      connect("git.example", 443), connect(arguments[0], 22)])
"""
    with world(places) as here:
        result = here.run(code, [OUTSIDE, OUTSIDE6])

        assert result == [""] * 4 + ["ECONNREFUSED"] * 2
        assert here.kinds() == {("git.example", 443, "tcp"), (OUTSIDE, 22, "tcp")}
        assert [place for _, place in here.gap.relays] == places
        for fd, _ in here.gap.relays:
            with socket.socket(fileno=os.dup(fd)) as relay:
                relay.setblocking(False)
                relay.accept()[0].close()


def test_own_servers(here: World) -> None:
    """TCP and UDP servers of a program are reached from inside, by any name of the loopback, also by its children."""
    code = """
server = socket.create_server(("0.0.0.0", 0)); port = server.getsockname()[1]
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
pid = os.fork()
if not pid:
    for to in ("127.0.0.1", "0.0.0.0", "localhost"):
        socket.create_connection((to, port), 5).sendall(to.encode())
    socket.create_connection(six.getsockname()[:2], 5).sendall(b"six")
    os._exit(0)
heard = [server.accept()[0].recv(20).decode() for _ in range(3)] + [six.accept()[0].recv(20).decode()]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); client.sendto(b"question", udp.getsockname())
question, asker = udp.recvfrom(20)
udp.sendto(b"answer", asker)
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); connected.connect(udp.getsockname())
connected.send(b"hello"); connected.sendmsg([b"wor", b"ld"])
tell([heard, question.decode(), client.recv(20).decode(), udp.recv(20).decode(), udp.recv(20).decode()])
"""
    assert here.run(code) == [
        ["127.0.0.1", "0.0.0.0", "localhost", "six"],
        "question",
        "answer",
        "hello",
        "world",
    ]
    assert here.attempts == []


def own_address() -> str:
    """One of this machine's, by which others reach it; skips the test where it has none."""
    for found in psutil.net_if_addrs().values():
        for one in found:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return str(one.address)
    pytest.skip("this machine has only a loopback")


def test_own_servers_by_the_machines_address(here: World) -> None:
    """They are reached by it, TCP and UDP. Those of others are not, and an attempt without a server is reported."""
    code = """
address, others = arguments
server = socket.create_server(("0.0.0.0", 0)); port = server.getsockname()[1]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); client.sendto(b"q", (address, udp.getsockname()[1]))
question, asker = udp.recvfrom(9)
udp.sendto(b"a", asker)
tell([error_of(socket.create_connection, (address, port), 5), question.decode(), client.recv(9).decode(),
      error_of(socket.create_connection, (address, others), 5)])
"""
    with socket.create_server(("0.0.0.0", 0)) as other:  # in the way of no packet
        address, port = own_address(), other.getsockname()[1]
        assert here.run(code, [address, port]) == ["", "q", "a", "ECONNREFUSED"]
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert here.kinds() == {(address, port, "tcp")}
    here.attempts.clear()
    assert here.run(CONNECT, ["AF_INET", "SOCK_STREAM", (address, port)]) == "ECONNREFUSED"
    assert here.kinds() == {(address, port, "tcp")}


def test_many_datagrams_at_once(here: World) -> None:
    """sendmmsg to an own server sends all, and says of each how long it was."""
    code = """
server = udp(); server.bind(("127.0.0.1", 0))
result = sendmmsg(udp(), b"12345", server.getsockname())
tell([result, server.recv(9).decode(), server.recv(9).decode()])
"""
    assert here.run(SENDS + code, ["", 0]) == [[2, [5, 5]], "12345", "12345"]


def test_a_port_without_a_server(here: World) -> None:
    """A loopback port without a server gives the kernel's error; nothing is reported, as nothing was blocked."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()

    assert here.run(CONNECT, ["AF_INET", "SOCK_STREAM", address]) == "ECONNREFUSED"
    assert here.attempts == []


def test_non_blocking_sockets(here: World) -> None:
    """Their connections are in progress, as outside; asyncio's clients and servers work."""
    fd, port = here.gap.listen()
    with socket.socket(fileno=fd):
        code = """
import asyncio
async def main():
    server = await asyncio.start_server(lambda r, w: w.write(b"own") or w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    own = (await reader.read()).decode()
    reader, writer = await asyncio.open_connection("127.0.0.1", arguments)
    try:
        await asyncio.open_connection("192.0.2.10", 80)
    except ConnectionRefusedError as error:
        return [own, writer.get_extra_info("peername")[1], "refused"]
tell(asyncio.run(main()))
"""
        assert here.run(code, port) == ["own", port, "refused"]
    assert here.kinds() == {(OUTSIDE, 80, "tcp")}


def test_a_server_that_does_not_accept_holds_only_its_client(here: World) -> None:
    """A blocking connection to a full queue waits on, while the guard answers others at once."""
    fd, port = here.gap.listen()
    with socket.socket(fileno=fd):
        code = """
import time
server = socket.create_server(("127.0.0.1", 0), backlog=0)
first = socket.create_connection(server.getsockname())
tell("full")
before = socket.socket(); before.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 7, 0))
def wait():
    before.connect(server.getsockname())
    tell([before.getpeername() == server.getsockname(),
          struct.unpack("@ll", before.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))[0]])
waiting = threading.Thread(target=wait); waiting.start()
waits = lambda: before.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\\2"  # TCP_SYN_SENT
while not waits():
    time.sleep(0.001)
for _ in range(20):
    socket.create_connection(("127.0.0.1", arguments)).close()
tell(["others", waits()])
server.accept(); waiting.join()
"""
        process = here.start(code, port)
        with ended(process):
            assert here.next(process) == "full"
            assert here.next(process) == ["others", True]
            assert here.next(process) == [True, 7]


def test_loopback_only_from_outside_too(here: World) -> None:
    """A server inside that listens on every address takes connections of this machine only."""
    code = """
server = socket.create_server(("0.0.0.0", 0))
tell([server.getsockname()[1], server.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\\0").decode()])
"""
    port, device = here.run(code)

    assert port
    assert device == "lo"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "tell([error_of(socket.socket, 40, 1), error_of(socket.socket, 17, 2)])",
            ["EAFNOSUPPORT"] * 2,
        ),
        ("tell(error_of(socket.socket, 2, 3, 255))", "EPERM"),
        ("libc.syscall(425, 8, 0); tell(errno.errorcode[ctypes.get_errno()])", "ENOSYS"),
        (
            "s = socket.socket(); tell(error_of(s.setsockopt, 0, 4, b'\\x83\\x07\\x04\\xc0\\0\\2\\1\\0'))",
            "EPERM",
        ),
    ],
)
def test_other_ways(here: World, code: str, expected: object) -> None:
    """Other families, raw packets, rings and source routes: an ordinary error, at once."""
    assert here.run(code) == expected


def test_echo_requests(here: World) -> None:
    """Where the system lets the user send them, none goes out, and it is reported."""
    code = """
try:
    sock = socket.socket(2, 2, 1)
except OSError:
    tell("")
else:
    tell(error_of(sock.sendto, b"\\x08\\0\\0\\0\\0\\1\\0\\1", ("192.0.2.1", 0)))
"""
    result = here.run(code)

    assert result in {"", "EPERM"}
    assert here.kinds() == ({("192.0.2.1", 0, "other")} if result else set())


def test_a_call_that_the_guard_fails_to_judge(
    here: World, host: HostServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused and reported, and the next one is served: no fault of the guard opens a way or ends the session."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr("aider_guard.airgap.syscalls.parse", fail)
        assert here.run(CONNECT, ["AF_INET", "SOCK_STREAM", ["127.0.0.1", host.port]]) == "EPERM"
    assert host.seen() == 0
    assert here.kinds() == {("a fault in aider-guard: ZeroDivisionError", 0, "other")}
    assert here.run(CONNECT, ["AF_INET", "SOCK_STREAM", [OUTSIDE, 1]]) == "ECONNREFUSED"


def test_what_a_connection_costs(here: World) -> None:
    """A connection through the guard takes well under a millisecond; the number is printed.

    What is asserted is the shortest of many, and a coarse bound: a busy machine makes the others long.
    """
    fd, port = here.gap.listen()
    with socket.socket(fileno=fd):
        code = """
import time
times = []
for _ in range(100):
    sock = socket.socket(); began = time.perf_counter()
    sock.connect(("127.0.0.1", arguments)); times.append(time.perf_counter() - began); sock.close()
tell([sorted(times)[50], min(times)])
"""
        median, shortest = here.run(code, port)

    print(f"connect, median of 100: {median * 1e6:.0f} us")
    assert shortest < 0.005


def test_attempts_have_the_shape_of_the_core(here: World, host: HostServers) -> None:
    """One attempt a call, counted once: summing them is not this layer's."""
    here.run(CONNECT, ["AF_INET", "SOCK_STREAM", ["127.0.0.1", host.port]])

    (attempt,) = here.attempts
    assert isinstance(attempt, Attempt)
    assert attempt.count == 1
