"""What the audit hook reports and refuses: real Pythons with real clients, and listeners that see what arrives.

The listeners are on loopback addresses, which are neither reported nor refused; so the tests have the hook take only
127.0.0.1 and ::1 for this machine, and the listeners are on another address of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.served import attempt_of
from aider_guard.launch.inside import audit_hook
from aider_guard.launch.start_command import INSIDE_AIDER

OUTSIDE = "127.9.9.9"
START = f"""
import runpy, socket, sys, json
from socket import getaddrinfo as EARLY
sys.argv = ["x"]
inside = runpy.run_path({str(INSIDE_AIDER)!r})
module = inside["load_inside"]("audit_hook")
here = module._EventRules._is_here
module._EventRules._is_here = lambda self, host: host != socket.inet_aton({OUTSIDE!r}) and here(self, host)
answers = {{"outside.example": {OUTSIDE!r}}}
resolve, look_up = module._socket.getaddrinfo, module._socket.gethostbyname
def getaddrinfo(host, port=None, family=0, type=0, proto=0, flags=0):  # stands in for a name server
    if host in answers:
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
    return resolve(answers.get(host, host), port, family, type, proto, flags)
def gethostbyname(host):
    if host in answers:
        sys.audit("socket.gethostbyname", host)
    return look_up(answers.get(host, host))
module._socket.getaddrinfo = getaddrinfo
module._socket.gethostbyname = socket.gethostbyname = gethostbyname
"""


@dataclass
class Result:
    """One run: what it printed, what was reported, and whether anything arrived at the listener."""

    output: str
    reports: list[tuple[str, int, str]] = field(default_factory=list)
    arrived: bool = False


@dataclass
class Bench:
    """A listener for connections and one for datagrams, on the same port."""

    tcp: socket.socket
    udp: socket.socket
    port: int

    def run(
        self,
        code: str,
        *,
        hook: bool = True,
        allowed: list[tuple[str, int]] | None = None,
        blocks: bool = True,
        python: str = sys.executable,
    ) -> Result:
        """Run code, with ``HOST`` and ``PORT`` set, in a Python with the hook or without."""
        guards_end, aiders_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with guards_end, aiders_end:
            given_to = f"{aiders_end.fileno()}, {allowed or []!r}, {blocks!r}"
            start = START + (f"module.install_audit_hook({given_to})\n" if hook else "")
            program = f"{start}\nHOST, PORT = {OUTSIDE!r}, {self.port}\n{textwrap.dedent(code)}"
            process = subprocess.run(
                [python, "-W", "error", "-c", program],
                pass_fds=[aiders_end.fileno()],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={"PATH": os.environ["PATH"], "FD": str(aiders_end.fileno())},
            )
            return Result(
                process.stdout + process.stderr, list(reports(guards_end)), self._has_arrived()
            )

    def _has_arrived(self) -> bool:
        arrived = False
        for listener in (self.tcp, self.udp):
            while True:
                try:
                    if listener is self.tcp:
                        listener.accept()[0].close()
                    else:
                        listener.recv(100)
                except BlockingIOError:
                    break
                arrived = True
        return arrived


def reports(channel: socket.socket) -> Iterator[tuple[str, int, str]]:
    """The reports that wait on the socket, decoded as the guard decodes them."""
    channel.setblocking(False)
    while True:
        try:
            attempt = attempt_of(channel.recv(1024))
        except BlockingIOError:
            return
        assert attempt is not None
        yield attempt.host, attempt.port, attempt.protocol


@pytest.fixture
def bench() -> Iterator[Bench]:
    with socket.create_server((OUTSIDE, 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        port = tcp.getsockname()[1]
        udp.bind((OUTSIDE, port))
        tcp.setblocking(False)
        udp.setblocking(False)
        yield Bench(tcp, udp, port)


NAME = "outside.example"
ATTEMPTS: list[
    tuple[str, str, str, str]
] = [  # the code, the host and protocol reported, what it raises
    ("socket.create_connection((HOST, PORT), 5)", OUTSIDE, "tcp", "ConnectionRefusedError"),
    ("socket.create_connection(('outside.example', PORT), 5)", NAME, "tcp", "gaierror"),
    ("socket.create_connection(('outside.example', str(PORT)), 5)", NAME, "tcp", "gaierror"),
    ("socket.socket().connect((HOST, PORT))", OUTSIDE, "tcp", "ConnectionRefusedError"),
    ("socket.socket().connect_ex((HOST, PORT))", OUTSIDE, "tcp", "ConnectionRefusedError"),
    (
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (HOST, PORT))",
        OUTSIDE,
        "udp",
        "ConnectionRefusedError",
    ),
    (
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', 0, (HOST.encode(), PORT))",
        OUTSIDE,
        "udp",
        "ConnectionRefusedError",
    ),
    (
        "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, (HOST, PORT))",
        OUTSIDE,
        "udp",
        "ConnectionRefusedError",
    ),
    (
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect((HOST, PORT)); s.send(b'x')",
        OUTSIDE,
        "udp",
        "ConnectionRefusedError",
    ),
    (
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect(('::ffff:' + HOST, PORT))",
        OUTSIDE,
        "tcp",
        "ConnectionRefusedError",
    ),
    (
        "import urllib.request as u; u.urlopen(f'http://outside.example:{PORT}/', timeout=0.3)",
        NAME,
        "tcp",
        "URLError",
    ),
    (
        "import http.client as h; h.HTTPConnection(HOST, PORT, timeout=0.3).request('GET', '/')",
        OUTSIDE,
        "tcp",
        "ConnectionRefusedError",
    ),
    (
        "import httpx; httpx.get(f'http://outside.example:{PORT}/', timeout=0.3)",
        NAME,
        "tcp",
        "ConnectError",
    ),
    (
        "import httpx; httpx.get(f'http://{HOST}:{PORT}/', timeout=0.3)",
        OUTSIDE,
        "tcp",
        "ConnectError",
    ),
    (
        "import asyncio; asyncio.run(asyncio.open_connection(HOST, PORT))",
        OUTSIDE,
        "tcp",
        "ConnectionRefusedError",
    ),
    (
        "import asyncio; asyncio.run(asyncio.open_connection('outside.example', PORT))",
        NAME,
        "tcp",
        "gaierror",
    ),
]


@pytest.mark.parametrize(("code", "host", "protocol", "error"), ATTEMPTS)
def test_an_attempt_is_reported_and_refused(
    bench: Bench, code: str, host: str, protocol: str, error: str
) -> None:
    """Nothing arrives; without the hook the same code does arrive."""
    assert bench.run(code, hook=False).arrived
    run = bench.run(code)
    assert not run.arrived
    assert set(run.reports) == {(host, bench.port, protocol)}
    assert error in run.output
    assert f"aider-guard is offline: {host}:{bench.port}" in run.output


LOOKUPS = [
    ("socket.gethostbyname('outside.example')", "outside.example"),
    ("socket.gethostbyname_ex('a.invalid')", "a.invalid"),
    ("socket.getaddrinfo('a.invalid', None)", "a.invalid"),
    ("socket.getaddrinfo(b'A.INVALID.', 0)", "a.invalid"),
    ("socket.getaddrinfo('b\\u00fccher.invalid', None)", "xn--bcher-kva.invalid"),
    ("socket.getaddrinfo('127.0.0.1 a.invalid9', None)", "127.0.0.1 a.invalid9"),
    ("socket.gethostbyaddr('192.0.2.1')", "192.0.2.1"),
    ("socket.gethostbyaddr('2001:db8::1')", "2001:db8::1"),
]


@pytest.mark.parametrize(("code", "host"), LOOKUPS)
def test_a_lookup_is_reported_and_refused(bench: Bench, code: str, host: str) -> None:
    """As a lookup, with the errors of lookups: it would ask a server for the name."""
    caught = f"""
        try:
            {code}
        except (socket.gaierror, socket.herror) as error:
            print(error.args[1])
    """
    run = bench.run(caught)
    assert run.reports == [(host.replace(" ", "?"), 53, "dns")]
    assert run.output == f"aider-guard is offline: {host}:53 is not reached\n"


THROUGH = [
    "socket.create_connection(('127.0.0.1', SERVER)).close()",
    "socket.create_connection(('localhost', SERVER)).close()",
    "socket.create_connection(('127.1', SERVER)).close()",
    "socket.create_connection(('0.0.0.0', SERVER)).close()",
    "s = socket.socket(); s.connect(('', SERVER)); s.close()",
    "s = socket.socket(); s.connect((b'127.0.0.1', SERVER)); s.close()",
    "with socket.socket(type=socket.SOCK_DGRAM) as s: s.sendto(b'x', ('127.0.0.1', SERVER))",
    "socket.getaddrinfo(None, 80)",
    "socket.getaddrinfo('192.0.2.1', 443)",
    "socket.getaddrinfo('::1', 443)",
    "socket.getaddrinfo(socket.gethostname(), None)",
    "socket.getfqdn('127.0.0.1')",
    "a, b = socket.socketpair(); a.sendmsg([b'x']); a.close(); b.close()",
    "import http.server as h; h.HTTPServer(('127.0.0.1', 0), None).server_close()",
    "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); s.connect((0, 0)); s.close()",
    "import asyncio; asyncio.run(asyncio.sleep(0))",
]


@pytest.mark.parametrize("code", THROUGH)
def test_this_machine_is_neither_reported_nor_refused(bench: Bench, code: str) -> None:
    """Loopback addresses however they are written, Unix sockets, lookups without a name server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert bench.run(code.replace("SERVER", str(port))) == Result("")


def test_an_allowed_place_is_reached_at_exactly_its_port(bench: Bench) -> None:
    """By its name or by its address; the name only where it was asked for."""
    by_name = "socket.create_connection(('outside.example', PORT)).close()"
    by_address = "socket.create_connection((HOST, PORT)).close()"
    for code, host, allowed in (
        (by_name, NAME, "Outside.Example."),
        (by_address, OUTSIDE, OUTSIDE),
    ):
        assert bench.run(code, allowed=[(allowed, bench.port)]) == Result("", [], arrived=True)
        run = bench.run(code, allowed=[(allowed, bench.port + 1)])
        assert (run.reports, run.arrived) == ([(host, bench.port, "tcp")], False)
        assert ("gaierror" in run.output) == (host == NAME)  # it is not looked up for nothing
    by_number = bench.run(by_address, allowed=[("outside.example", bench.port)])
    assert (by_number.reports, by_number.arrived) == ([(OUTSIDE, bench.port, "tcp")], False)


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('outside.example', PORT)).close()",
        "with socket.socket() as s: s.connect(EARLY(host='outside.example', port=PORT)[0][4])",
        "with socket.socket() as s: s.connect((socket.gethostbyname('outside.example'), PORT))",
    ],
)
def test_without_blocks_it_only_reports(bench: Bench, code: str) -> None:
    """The lookup, then the connection by the name that was looked up; everything arrives."""
    run = bench.run(code, blocks=False)
    assert run.output == ""
    assert run.reports == [("outside.example", 53, "dns"), ("outside.example", bench.port, "tcp")]
    assert run.arrived


ATTEMPT = """
    def attempt():
        try:
            socket.create_connection((HOST, PORT), 5).close()
        except ConnectionRefusedError:
            return "refused"
    """


def test_it_never_waits_for_the_guard(bench: Bench) -> None:
    """Ten thousand attempts, whose reports no guard reads, are all refused."""
    run = bench.run(ATTEMPT + "print({attempt() for _ in range(10000)})")
    assert run.output == "{'refused'}\n"
    assert not run.arrived
    assert run.reports


def test_a_closed_or_reused_descriptor_is_not_written_to(bench: Bench) -> None:
    """A program may close all it has open and open something else there: it is refused all the same."""
    run = bench.run(
        ATTEMPT
        + """
    import os
    fd = int(os.environ["FD"])
    os.close(fd)
    print(attempt())
    reader, writer = os.pipe()
    os.dup2(writer, fd)
    print(attempt())
    os.set_blocking(reader, False)
    try:
        print(os.read(reader, 9))
    except BlockingIOError:
        print("nothing was written")
    """
    )
    assert run.output == "refused\nrefused\nnothing was written\n"
    assert run.reports == []
    assert not run.arrived


def test_children_inherit_it_with_the_process_and_not_with_a_program(bench: Bench) -> None:
    """A fork reports as well; another program does not get the socket."""
    run = bench.run(
        ATTEMPT
        + """
    import os, subprocess
    if os.fork() == 0:
        os._exit(attempt() != "refused")
    print(os.waitstatus_to_exitcode(os.wait()[1]))
    code = "import os; os.fstat(int(os.environ['FD']))"
    print(subprocess.run([sys.executable, "-c", code], close_fds=False, stderr=-3).returncode)
    """
    )
    assert run.output == "0\n1\n"
    assert run.reports == [(OUTSIDE, bench.port, "tcp")]


def test_an_unknown_kind_of_socket_is_reported_and_refused(bench: Bench) -> None:
    """A family whose other end may be anywhere."""
    if not hasattr(socket, "AF_VSOCK"):
        pytest.skip("this system has no other family to try")
    run = bench.run("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1))")
    if "Address family not supported" in run.output:
        pytest.skip("this kernel has no other family to try")
    assert run.reports == [(f"family-{int(socket.AF_VSOCK)}", 0, "other")]
    assert "ConnectionRefusedError" in run.output


@given(
    st.none()
    | st.text()
    | st.binary()
    | st.sampled_from(["0x7f.1", "1.2.3.4 x9", "::1%lo", "fe80::%1", ":", "9" * 99, "\x009"])
)
def test_any_host_can_be_compared_and_reported(host: Any) -> None:
    """Nothing is raised, and what is reported is ASCII."""
    normal = audit_hook._normal(host)
    assert audit_hook._normal(audit_hook._host_text(normal)) == normal or isinstance(normal, str)
    assert json.dumps(audit_hook._host_text(normal)).isascii()


@given(st.ip_addresses())
def test_an_address_is_compared_by_its_bytes(address: Any) -> None:
    """However it is written; and an IPv4 address within IPv6 is that address."""
    mapped = getattr(address, "ipv4_mapped", None)
    expected = (mapped or address).packed
    assert audit_hook._normal(str(address)) == expected
    assert audit_hook._normal(str(address.exploded).upper().encode()) == expected


PORTS = [(443, 443), ("443", 443), (b"443", 443), ("https", 443), (None, 0), ("", 0), (-1, 0)]


@pytest.mark.parametrize(
    ("port", "number"), [*PORTS, (70000, 0), ("no-such-service", 0), ("\u0664\u0664", 44)]
)
def test_a_port_may_be_a_number_or_a_service(port: Any, number: int) -> None:
    """What is neither is not known."""
    assert audit_hook._port_number(port) == number
