"""Reports to the guard where Aider's own Python tries to connect, and refuses what is not allowed.

Python raises an audit event before each connection and each lookup (``socket.*``, PEP 578). Programs that Aider starts,
and code that makes system calls by itself, raise none: this asks Aider to behave and enforces nothing.
"""

from __future__ import annotations

import _socket
import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Host = str | bytes  # a name in small letters, or the bytes of an address

_MOST_REMEMBERED = 4096
_MOST_LETTERS = 253  # in a name (RFC 1035, 2.3.4)
_NAMES_OF_THIS_MACHINE = ("", "localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4 address as an IPv6 one (RFC 4291, 2.5.5.2)
_NO_SUCH_NAME = partial(_socket.gaierror, _socket.EAI_NONAME)
_NO_SUCH_HOST = partial(_socket.herror, 1)  # HOST_NOT_FOUND, netdb.h
_REFUSED = partial(ConnectionRefusedError, errno.ECONNREFUSED)
# Socket families whose other end is a process or the kernel of this machine.
_HERE = frozenset(
    getattr(_socket, name)
    for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG", "AF_SYSTEM")
    if hasattr(_socket, name)
)


def install_audit_hook(fd: int, allowed: Iterable[tuple[str, int]], blocks: bool = True) -> None:
    """Report and refuse the attempts of this process's Python to connect, until it ends. This cannot be undone.

    Loopback addresses, Unix sockets and the *allowed* hosts at exactly their ports are neither reported nor refused.
    Each other attempt is sent on the datagram socket *fd* as one JSON object, ``{"host", "port", "protocol"}``, without
    waiting and without ever failing, and raises what an unreachable network raises; without *blocks* it is only
    reported. The socket is not passed on to other programs.
    """
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    handlers = _EventRules(_Reporter(fd), allowed, blocks).events

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        handler = handlers.get(event)
        if handler is not None:
            handler(*arguments)

    sys.addaudithook(hook)


class _Reporter:
    """Sends attempts to the guard. Code in this process may close the descriptor and open another file with its
    number, so each report first checks that it is still the same file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = self._identity()

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def report(self, host: str, port: int, protocol: str) -> None:
        name = "".join(letter if "!" <= letter <= "~" else "?" for letter in host[:_MOST_LETTERS])
        attempt = {"host": name, "port": port, "protocol": protocol}
        try:
            if self._identity() == self._file:
                os.write(self._fd, json.dumps(attempt).encode("ascii"))
        except OSError:
            pass  # the guard is gone, or too many reports are waiting: the attempt is refused all the same


class _EventRules:
    """Decides about each audit event."""

    def __init__(
        self, reporter: _Reporter, allowed: Iterable[tuple[str, int]], blocks: bool
    ) -> None:
        self._reporter = reporter
        self._blocks = blocks
        self._allowed = {(_normal(host), port) for host, port in allowed}
        self._allowed_hosts = {host for host, _ in self._allowed}
        self._this_machine = {*_NAMES_OF_THIS_MACHINE, _normal(_socket.gethostname())}
        self._names: dict[Host, str] = {}
        self.events: dict[str, Callable[..., None]] = {
            "socket.getaddrinfo": self._check_getaddrinfo,
            "socket.gethostbyname": lambda host: self._check_getaddrinfo(host, None, 0, 0),
            "socket.gethostbyaddr": self._check_gethostbyaddr,
            "socket.connect": self._check_connect,
            "socket.sendto": self._check_connect,
            "socket.sendmsg": self._check_connect,
        }
        if not blocks or any(isinstance(host, str) for host in self._allowed_hosts):
            self._remember_answers()

    def _check_getaddrinfo(
        self, host: Any, port: Any, _family: Any, kind: Any, *_rest: Any
    ) -> None:
        name = _normal(host)
        if isinstance(name, bytes) or self._is_here(name):
            return
        number = _port_number(port)
        if name in self._allowed_hosts and (not number or (name, number) in self._allowed):
            return
        # Without blocks the connection comes next, and is reported then.
        where = (number, _protocol(kind)) if number and self._blocks else (53, "dns")
        self._refuse(name, *where, _NO_SUCH_NAME)

    def _check_gethostbyaddr(self, host: Any) -> None:
        """Refuse to look up the name of an address: a name server would learn the address."""
        name = _normal(host)
        if not self._is_here(name) and name not in self._allowed_hosts:
            self._refuse(_host_text(name), 53, "dns", _NO_SUCH_HOST)

    def _check_connect(self, channel: Any, address: Any) -> None:
        if address is None:  # a message on a socket that is connected already
            return
        family = _socket.socket.family.__get__(channel)
        if family not in (_socket.AF_INET, _socket.AF_INET6):
            if family not in _HERE:
                self._refuse(f"family-{int(family)}", 0, "other", _REFUSED)
            return
        host, port = _normal(address[0]), int(address[1])
        name = self._names.get(host)  # known where the address was looked up
        if not self._is_here(host) and self._allowed.isdisjoint({(host, port), (name, port)}):
            kind = _socket.socket.type.__get__(channel)
            self._refuse(name or _host_text(host), port, _protocol(kind), _REFUSED)

    def _is_here(self, host: Host) -> bool:
        if isinstance(host, str):
            return host in self._this_machine or host.endswith(".localhost")
        if len(host) == 4:
            return host[0] == 127 or not any(host)
        return host[:15] == bytes(15) and host[15] in (0, 1)

    def _refuse(self, host: str, port: int, protocol: str, error: Callable[[str], OSError]) -> None:
        self._reporter.report(host, port, protocol)
        if self._blocks:
            raise error(f"aider-guard is offline: {host}:{port} is not reached")

    def _remember_answers(self) -> None:
        """Make lookups remember the name of each address: a connection's event has only the address."""
        resolve, look_up = _socket.getaddrinfo, _socket.gethostbyname

        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            results = resolve(host, *arguments, **options)
            for *_, address in results:
                self._remember(host, address[0])
            return results

        def gethostbyname(host: Any) -> str:
            address = look_up(host)
            self._remember(host, address)
            return address

        # socket.getaddrinfo asks _socket's each time; the others are the same objects in both.
        _socket.getaddrinfo = getaddrinfo
        _socket.gethostbyname = socket.gethostbyname = gethostbyname

    def _remember(self, host: Any, address: Any) -> None:
        name, address_bytes = _normal(host), _normal(address)
        if isinstance(name, bytes) or isinstance(address_bytes, str) or self._is_here(name):
            return
        if len(self._names) >= _MOST_REMEMBERED:
            self._names.clear()
        self._names[address_bytes] = name


def _normal(host: Any) -> Host:
    """A host in the form that is compared: the bytes of an address however it was written, or a name."""
    text = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else host or ""
    if ":" in text:
        try:
            address = _socket.inet_pton(_socket.AF_INET6, text.partition("%")[0])
        except (OSError, ValueError):
            return text.lower()
        return address[12:] if address[:12] == _MAPPED else address
    if (text[-1:].isdigit() or text[:2] in ("0x", "0X")) and len(text.split()) == 1:
        try:
            return _socket.inet_aton(text)  # "127.1" and "0x7f.1" are addresses too
        except (OSError, ValueError):
            pass
    if not text.isascii():  # as it is sent
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text.lower().rstrip(".")


def _host_text(host: Host) -> str:
    if isinstance(host, str):
        return host
    return _socket.inet_ntop(_socket.AF_INET if len(host) == 4 else _socket.AF_INET6, host)


def _port_number(port: Any) -> int:
    """The number of a port, which may be given as a service's name or be missing; 0 when it is not known."""
    if isinstance(port, int):
        return port if 0 <= port <= 0xFFFF else 0
    text = port.decode("ascii", "replace") if isinstance(port, (bytes, bytearray)) else port or ""
    try:
        return int(text) if text.isdecimal() else _socket.getservbyname(text) if text else 0
    except (OSError, ValueError):
        return 0


def _protocol(kind: Any) -> str:
    return "udp" if int(kind) & 0xF == _socket.SOCK_DGRAM else "tcp"
