"""Programs inside a network namespace: which names are answered, and what is reported of their packets. Real forks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from airgap.netns_world import world
from airgap.seccomp_world import World, ended, host_servers

from aider_guard.airgap.choose import find_layer

pytestmark = pytest.mark.skipif(
    find_layer({}).layer != "netns", reason="this system allows no network namespaces"
)
SERVER, SERVER_6 = "192.0.2.53", "2001:db8::53"  # documentation addresses, RFC 5737 and 3849

ASK = """
query = struct.pack("!HHHHHH", 7, 256, 1, 0, 0, 0) + b"\\7example\\3org\\0\\0\\1\\0\\1"
sock = socket.socket(getattr(socket, arguments[0]), socket.SOCK_DGRAM)
sock.settimeout(5)
if arguments[2]:
    sock.connect((arguments[1], 53)); sock.send(query)
else:
    sock.sendto(query, (arguments[1], 53))
reply, answerer = sock.recvfrom(512)
tell([answerer[0], socket.inet_ntoa(reply[-4:])])
"""


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize(("family", "server"), [("AF_INET", SERVER), ("AF_INET6", SERVER_6)])
def test_each_name_server_answers(
    here: World, family: str, server: str, *, is_connected: bool
) -> None:
    """Whichever the system's list has: from the very address that was asked, or a resolver does not take it."""
    answerer, address = here.run(ASK, [family, server, is_connected])

    assert answerer == server
    assert address.startswith("127.77.")
    assert here.kinds() == {("example.org", 53, "dns")}
    assert len(here.attempts) == 1


CONNECTS = """
server = socket.create_server(("127.0.0.1", 0), backlog=4096)
ends = []
for _ in range(arguments):
    one = socket.create_connection(server.getsockname()); two, _ = server.accept()
    ends += one, two
    if len(ends) > 200:
        for end in ends: end.close()
        ends = []
tell("done")
"""


def test_local_connections_do_not_keep_the_loop(here: World) -> None:
    """However many a test inside makes, and however many are still in the kernel's table: the keyboard gets its turn.

    Measured is work, and not the time in which others had the processor.
    """
    rounds: list[float] = []
    process = here.start(CONNECTS, 4000)
    with ended(process):
        while process.poll() is None:
            began = time.thread_time()
            here.loop.run_once(0.1)
            rounds.append(time.thread_time() - began)
    assert max(rounds) < 0.1
    here.gap.flush()
    assert here.attempts == []


SENDS = """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("192.0.2.10", 9999))
tell("connected")
for _ in range(arguments):
    try: sock.send(b"x")
    except ConnectionRefusedError: sock.send(b"x")  # the answer to an earlier one
"""


def test_what_was_sent_last_is_reported_at_the_end(here: World) -> None:
    """Packets of a program that ended while the loop did not run are all reported by one flush."""
    with ended(here.start(SENDS, 1000)) as process:
        assert here.next(process) == "connected"
        process.wait(60)
        here.gap.flush()
    assert here.kinds() >= {("192.0.2.10", 9999, "udp")}
    assert sum(attempt.count for attempt in here.attempts) == 1000


def test_what_the_kernel_dropped_is_reported(here: World) -> None:
    """More packets than it queues: the number of the dropped ones is reported."""
    with ended(here.start(SENDS, 20000)) as process:
        assert here.next(process) == "connected"
        process.wait(60)
        here.gap.flush()
    counts = {attempt.host: attempt.count for attempt in here.attempts}
    assert counts["(more than could be read)"] > 0
    assert sum(attempt.count for attempt in here.attempts) == 20000


REACHES = """
family, host, bound, kind = arguments
server = socket.socket(getattr(socket, family), getattr(socket, kind))
server.bind((bound, 0)); port = server.getsockname()[1]
if kind == "SOCK_STREAM": server.listen()
client = socket.socket(getattr(socket, family), getattr(socket, kind))
error = error_of(client.connect, (host, port))
if not error:
    client.send(b"x")
    with_it = server.accept()[0] if kind == "SOCK_STREAM" else server
    assert with_it.recv(9) == b"x"
    if kind == "SOCK_STREAM":
        for one in (with_it, client, server): one.close()
tell([error, port])
server.settimeout(20)
if kind == "SOCK_DGRAM" and not error: server.recv(9)
"""


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
@pytest.mark.parametrize(
    ("family", "host", "bound"),
    [
        ("AF_INET", "127.0.0.1", "127.0.0.1"),
        ("AF_INET", "192.0.2.10", "0.0.0.0"),
        ("AF_INET", "own.example", "0.0.0.0"),
        ("AF_INET6", "2001:db8::10", "::"),
        ("AF_INET6", "::ffff:192.0.2.10", "::"),
    ],
)
def test_an_own_server_is_reached_by_any_address(
    here: World, family: str, host: str, bound: str, kind: str
) -> None:
    """A packet that reached a program inside is not reported as blocked; of TCP that is known afterwards, too."""
    with ended(here.start(REACHES, [family, host, bound, kind])) as process:
        error, _ = here.next(process)
        if kind == "SOCK_STREAM":
            process.wait(20)
        here.gap.flush()
    assert error == ""
    assert {attempt.host for attempt in here.attempts} <= {"own.example"}
    assert {attempt.protocol for attempt in here.attempts} <= {"dns"}


def test_an_own_server_elsewhere_is_not_reached(here: World) -> None:
    """One that waits at the loopback does not answer for other addresses: that was refused."""
    error, port = here.run(REACHES, ["AF_INET", "192.0.2.10", "127.0.0.1", "SOCK_STREAM"])
    here.gap.flush()
    assert error == "ECONNREFUSED"
    assert here.kinds() == {("192.0.2.10", port, "tcp")}


@pytest.mark.parametrize("host", ["192.0.2.10", "224.0.0.251"])
def test_a_packet_that_returns_to_its_sender_tried_to_leave(here: World, host: str) -> None:
    """From the port it sends to, as NTP does; and a group has receivers outside."""
    code = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind(("0.0.0.0", 5353))
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
(other if arguments.startswith("224") else one).sendto(b"x", (arguments, 5353))
tell("")
"""
    here.run(code, host)
    here.gap.flush()
    assert here.kinds() == {(host, 5353, "udp")}


def test_a_group_that_is_joined_is_no_attempt(here: World) -> None:
    """The kernel tells routers of it, in both versions; no program sent anything."""
    code = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here = socket.inet_aton("127.0.0.1")
one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + here)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
group = socket.inet_pton(socket.AF_INET6, "ff02::fb") + struct.pack("I", 1)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
tell("")
one.recv(1)
"""
    with ended(here.start(code)) as process:
        here.next(process)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            here.loop.run_once(0.1)
    assert here.attempts == []


def test_a_server_of_the_machine_is_not_reached(here: World) -> None:
    """By the loopback address, TCP and UDP: the attempt is refused and reported; one without a server is not."""
    with host_servers() as host:
        for kind in ("SOCK_STREAM", "SOCK_DGRAM"):
            here.run(TRIES, [kind, "127.0.0.1", host.port])
            here.gap.flush()
        assert host.seen() == 0
        assert here.kinds() == {("127.0.0.1", host.port, one) for one in ("tcp", "udp")}
        port = host.port
    here.attempts.clear()
    here.run(TRIES, ["SOCK_STREAM", "127.0.0.1", port])
    here.gap.flush()
    assert here.attempts == []


TRIES = """
sock = socket.socket(socket.AF_INET, getattr(socket, arguments[0]))
tell(error_of(sock.connect, tuple(arguments[1:])) or error_of(sock.send, b"x"))
"""


def test_a_flush_after_the_end_is_no_error(here: World) -> None:
    """Nothing is reported any more."""
    here.gap.close()
    here.gap.flush()
    assert here.attempts == []
