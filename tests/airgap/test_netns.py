"""Programs inside a network namespace: which name is answered, and what is told of their packets. Real forks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airgap.netns_world import world
from airgap.seccomp_world import World

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
