"""The connections to the upstreams: sends requests, keeps connections, and filters headers."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import httpcore
import httpx

from aider_guard.door.interfaces import Trouble

MAX_HELD_BYTES: Final = 256 * 1024
"""The most that is kept back before it is sent: a large body is streamed."""


class CoalescingBackend(httpcore.AsyncNetworkBackend):
    """Makes anyio's connections, which send the head and the body of a request together.

    httpcore writes them one after the other, and each write of anyio's takes a third of a millisecond.
    """

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect. Raises httpcore's errors."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return CoalescingStream(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait between httpcore's own attempts."""
        await self._backend.sleep(seconds)


class CoalescingStream(httpcore.AsyncNetworkStream):
    """A connection whose writes wait for the next read, or for each other."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send what was written, and return what has come."""
        if self._held:
            # As httpcore itself does: a server may refuse before it has read all, and says why.
            with contextlib.suppress(httpcore.WriteError):
                await self._send(timeout)
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep a piece until the next read; what makes it more than ``MAX_HELD_BYTES`` is sent, by so many bytes.

        A large body is not copied as a whole.
        """
        for start in range(0, len(buffer), MAX_HELD_BYTES):
            self._held += buffer[start : start + MAX_HELD_BYTES]
            if len(self._held) > MAX_HELD_BYTES:
                await self._send(timeout)

    async def _send(self, seconds: float | None) -> None:
        held, self._held = bytes(self._held), bytearray()
        await self._stream.write(held, seconds)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return the same connection over TLS."""
        return CoalescingStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return a fact about the connection below."""
        return self._stream.get_extra_info(info)


MAX_WORDS: Final = 200
_DEPTH: Final = 12
_NOT_CONNECTED: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
)
_SILENT: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH})


def trouble_of(error: httpx.HTTPError | httpx.InvalidURL | OSError) -> Trouble:
    """Turn an exception of httpx's into a trouble, in the system's words."""
    system = next(_system_errors(error), None)
    words = _words(error, system)
    if isinstance(error, _NOT_CONNECTED):
        return Trouble("down", words)
    if isinstance(error, httpx.ReadTimeout) or (system and system.errno in _SILENT):
        return Trouble("silent", words)
    return Trouble("broken", words)


def _words(error: Exception, system: OSError | None) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    # These two bring the library's own sentence; asyncio's of the others repeats the address.
    if isinstance(system, ssl.SSLError | socket.gaierror):
        return str(system.strerror)[:MAX_WORDS]
    if system is not None and system.errno:
        return os.strerror(system.errno)
    return str(error)[:MAX_WORDS] or type(error).__name__


def _system_errors(error: BaseException, depth: int = _DEPTH) -> Iterator[OSError]:
    """Yield the system's own errors that an exception came from, nearest first.

    httpcore drops causes (``raise … from None``) but hands the first exception on as an argument.
    """
    if isinstance(error, OSError) and error.errno is not None:
        yield error
    if depth == 0:
        return
    behind = [error.__cause__, *error.args, *getattr(error, "exceptions", ()), error.__context__]
    for other in behind:
        if isinstance(other, BaseException):
            yield from _system_errors(other, depth - 1)


RawHeaders = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    b" transfer-encoding upgrade".split()
)
"""Headers of one connection only (RFC 9110 7.6.1, and 11.7 for the proxy's own)."""
# Host and the body's framing are those of the new request; what was expected was answered here.
_OURS: Final = frozenset({b"accept-encoding", b"content-length", b"expect", b"host"})
_REDONE: Final = frozenset({b"content-encoding", b"content-length"})


def to_upstream(headers: Iterable[tuple[bytes, bytes]], base: str) -> RawHeaders:
    """Return the headers of a request as the upstream gets them, but for its host and the length of its body.

    An answer is asked for as it is, not compressed. A user and password in the upstream's address replace those of
    the request, as they do in httpx.
    """
    kept = [(name, value) for name, value in end_to_end(headers) if name not in _OURS]
    kept.append((b"Accept-Encoding", b"identity"))
    credentials = basic_credentials(base)
    if credentials:
        kept = [(name, value) for name, value in kept if name != b"authorization"]
        kept.append((b"Authorization", credentials))
    return kept


def to_aider(headers: Iterable[tuple[bytes, bytes]], *, remade: bool) -> RawHeaders:
    """Return the headers of an answer as Aider gets them. ``remade``: its body is decoded, and may change in length."""
    kept = end_to_end(headers)
    return [(name, value) for name, value in kept if not (remade and name in _REDONE)]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Drop the headers of one connection only; names come in lower case."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in lowered if name not in HOP_BY_HOP | named]


def basic_credentials(base: str) -> bytes:
    """Return the ``Authorization`` for a user and password in an address (RFC 7617); b"" for an address without."""
    userinfo, at, _ = base.partition("://")[2].partition("/")[0].rpartition("@")
    if not at:
        return b""
    user, _, password = userinfo.partition(":")
    return b"Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password))


def body_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return the length of a body by its headers; None for a body of unknown length."""
    by_name = {name.lower(): value for name, value in headers}
    if b"transfer-encoding" in by_name:
        return None
    length = by_name.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None


def is_coded(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request's body is in a content coding, by its headers (RFC 9110 8.4)."""
    codings = [value for name, value in headers if name.lower() == b"content-encoding"]
    words = (word.strip().lower() for value in codings for word in value.split(b","))
    return any(word not in (b"", b"identity") for word in words)


CONNECT_SECONDS: Final = 5.0
_STALE: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""Errors of a kept connection that the server has closed."""
KEPT_SECONDS: Final = 60.0
# A prefill may take minutes, so silence ends nothing; a machine that is gone must be noticed
# otherwise: by the kernel's probes, and by data that is never acknowledged (tcp(7)).
_SOCKET_OPTIONS: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 30),
            ("TCP_KEEPINTVL", 10),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 60_000),
        )
        if hasattr(socket, name)
    ),
]


# httpcore looks for sniffio several times in each request, which takes a millisecond where it is
# not installed: Python does not remember what it did not find.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]  # None: not to be found


@dataclass(frozen=True)
class OutgoingRequest:
    """A request as it goes to an upstream. A body that is not in memory can be sent only once."""

    method: str
    url: str
    headers: RawHeaders
    body: bytes | AsyncIterator[bytes] = field(repr=False)


class Upstreams:
    """Sends requests over connections that are kept, without a limit.

    It follows no redirect, keeps no cookie and uses no proxy: httpx's client would do these things, and its transport,
    which is used here, does not. Made and used on one event
    loop. ``tls`` makes the context for https, when it is first needed: it takes 70 ms to load certificates.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext] = httpx.create_ssl_context) -> None:
        self._tls = tls
        self._transports: dict[bool, httpx.AsyncHTTPTransport] = {}

    async def ask(self, outgoing: OutgoingRequest) -> httpx.Response | Trouble:
        """Send a request and wait for the head of its answer, which the caller must close.

        A kept connection that the server closed in the meantime is tried again on another, once: nothing was
        answered on it. Cancelling closes the connection.
        """
        may_repeat = isinstance(outgoing.body, bytes)
        while True:
            connection = _Connection()
            try:
                return await self._send(outgoing, connection)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                if not (may_repeat and connection.was_kept and isinstance(error, _STALE)):
                    return trouble_of(error)
                may_repeat = False

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()

    async def _send(self, outgoing: OutgoingRequest, connection: _Connection) -> httpx.Response:
        request = httpx.Request(
            outgoing.method,
            _parsed(outgoing.url),
            headers=outgoing.headers,
            content=outgoing.body or None,
            extensions={"timeout": {"connect": CONNECT_SECONDS}, "trace": connection.trace},
        )
        secure = request.url.scheme == "https"
        if secure not in self._transports:
            self._transports[secure] = _Transport(self._tls() if secure else None)
        return await self._transports[secure].handle_async_request(request)


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's transport over ``CoalescingBackend``, which it has no parameter for."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(verify=tls or False, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=KEPT_SECONDS,
            socket_options=_SOCKET_OPTIONS,
            network_backend=CoalescingBackend(),
        )


# Most requests go to the same few addresses, and taking one apart is most of making a request.
_parsed = lru_cache(maxsize=64)(httpx.URL)


class _Connection:
    """Notes whether a request went over a connection that was kept from an earlier one."""

    def __init__(self) -> None:
        self.was_kept = True

    async def trace(self, name: str, _info: dict[str, Any]) -> None:
        """Note a step of httpcore's (its ``trace`` extension)."""
        if name.startswith("connection."):
            self.was_kept = False
