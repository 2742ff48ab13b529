"""Programs inside the seccomp layer on a machine with a network card: what comes to the neighbour on its wire."""

from __future__ import annotations

import os

import pytest
from airgap.wire import OWN, OWN6, on_a_wire

SERVER = """
if "undumpable" in arguments:
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: an ordinary guard may not look into it
address, family = ("::", socket.AF_INET6) if "six" in arguments else ("0.0.0.0", socket.AF_INET)
server = socket.socket(family)
if "card" in arguments:
    server.bind(("fe80::1", 0, 0, socket.if_nametoindex("wire0")))
else:
    server.bind((address, 0))
error_of(server.listen)
tell(server.getsockname()[1])
server.accept()
"""


@pytest.mark.parametrize(
    "ways",
    [
        [],
        ["undumpable"],
        ["six"],
        ["six", "undumpable"],
        ["six", "card"],
        ["six", "card", "undumpable"],
    ],
)
def test_a_server_is_not_open_to_other_machines(ways: list[str]) -> None:
    """Neither on all addresses nor on the card's own, also where the guard may not look into the program."""
    outcome = on_a_wire(SERVER, ways)

    assert outcome.reached == {OWN: False, OWN6: False}
    # Root's guard takes the socket back to the loopback interface.
    expected = {OWN6} if "card" in ways and os.geteuid() != 0 else set()
    assert {host for host, _, _ in outcome.attempts} == expected


JOIN = """
four = struct.pack("4s4s", socket.inet_aton("239.7.7.7"), socket.inet_aton("192.0.2.1"))
card = socket.if_nametoindex("wire0")
six = socket.inet_pton(socket.AF_INET6, "ff12::7365:6372:6574") + struct.pack("I", card)
request = struct.pack("I4x", card) + struct.pack("!2xH4s120x", 0, socket.inet_aton("239.7.7.8"))
request = request[:8] + struct.pack("H", 2) + request[10:]
sources = four[:4] + four[4:] + socket.inet_aton("198.51.100.1")
joins = [(2, 0, 35, four), (2, 0, 39, sources), (2, 0, 42, request), (10, 41, 20, six)]
held, told = [], []
for family, level, name, value in joins:
    held.append(socket.socket(family, socket.SOCK_DGRAM))
    told.append(error_of(held[-1].setsockopt, level, name, value))
tell(0)
sys.stdin.read()
"""


def test_no_group_is_joined() -> None:
    """The kernel would tell the neighbours which, and a group's number has room for a message."""
    outcome = on_a_wire(JOIN)

    assert not any(map(outcome.has_joined, ("239.7.7.7", "239.7.7.8", "ff12::7365:6372:6574")))
    groups = {
        ("239.7.7.7", 0, "other"),
        ("239.7.7.8", 0, "other"),
        ("ff12::7365:6372:6574", 0, "other"),
    }
    assert {tuple(attempt) for attempt in outcome.attempts} == groups


CARD_FIRST = """
card = socket.if_nametoindex("wire0")
server = socket.socket(socket.AF_INET6); server.bind(("::", 0)); server.listen()
own = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); own.bind(("::", 0))
for number in range(60):
    for kind, port in ((socket.SOCK_STREAM, server.getsockname()[1]), (socket.SOCK_DGRAM, own.getsockname()[1])):
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setblocking(False)
        def take():
            try:
                sock.bind(("fe80::1", 0, 0, card))
            except OSError:
                pass
        thread = threading.Thread(target=take)
        if arguments == "race":
            thread.start()
        else:
            take()
        to = ("::1", port)
        sends = (lambda: sock.connect(to), lambda: sock.sendto(b"secret", to), lambda: sock.send(b"secret"))
        for send in sends:
            try:
                send()
            except OSError:
                pass
        if arguments == "race":
            thread.join()
        sock.close()
tell(0)
"""


@pytest.mark.parametrize("how", ["before", "race"])
def test_a_socket_that_is_bound_to_the_card(how: str) -> None:
    """An address of the card's own takes its socket from the loopback interface; it sends nothing there either."""
    assert on_a_wire(CARD_FIRST, how).connections_and_datagrams == []
