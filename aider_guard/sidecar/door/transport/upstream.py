"""The connections to the upstreams."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import httpcore
import httpx

from aider_guard.sidecar.door.seam import Trouble
from aider_guard.sidecar.door.transport.gathering import GatheringBackend
from aider_guard.sidecar.door.transport.headers import RawHeaders
from aider_guard.sidecar.door.transport.troubles import trouble_of

CONNECT_SECONDS: Final = 5.0
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
class Question:
    """One request as it goes to an upstream. A body that is not in memory can be sent only once."""

    method: str
    url: str
    headers: RawHeaders
    body: bytes | AsyncIterator[bytes] = field(repr=False)


class Upstreams:
    """Keeps connections, without a limit; follows no redirect, keeps no cookie, asks no proxy.

    Below httpx's client, which would do these things, is its transport, which does not. Made and used on one event
    loop. ``tls`` makes the context for https, when it is first needed: it takes 70 ms to load certificates.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext] = httpx.create_ssl_context) -> None:
        self._tls = tls
        self._transports: dict[bool, httpx.AsyncHTTPTransport] = {}

    async def ask(self, question: Question) -> httpx.Response | Trouble:
        """Send a request and wait for the head of its answer, which must be closed by whoever asked.

        A kept connection that the server closed in the meantime is tried again on another, once: nothing was
        answered on it. Cancelling closes the connection.
        """
        tries = 2 if isinstance(question.body, bytes) else 1
        while True:
            tries -= 1
            connection = _Connection()
            try:
                return await self._send(question, connection)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                if not (tries and connection.was_kept and _went_stale(error)):
                    return trouble_of(error)

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()

    async def _send(self, question: Question, connection: _Connection) -> httpx.Response:
        request = httpx.Request(
            question.method,
            _parsed(question.url),
            headers=question.headers,
            content=question.body or None,
            extensions={
                "timeout": {"connect": CONNECT_SECONDS},
                "trace": connection.trace,
            },
        )
        return await self._transport(secure=request.url.scheme == "https").handle_async_request(
            request
        )

    def _transport(self, *, secure: bool) -> httpx.AsyncHTTPTransport:
        if secure not in self._transports:
            self._transports[secure] = _Transport(self._tls() if secure else None)
        return self._transports[secure]


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's transport on connections of our own, which it has no parameter for."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(verify=tls or False, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=KEPT_SECONDS,
            socket_options=_SOCKET_OPTIONS,
            network_backend=GatheringBackend(),
        )


# Most requests go to the same few addresses, and taking one apart is most of making a request.
_parsed = lru_cache(maxsize=64)(httpx.URL)


class _Connection:
    """Whether a request went over a connection that was kept from an earlier one."""

    def __init__(self) -> None:
        self.was_kept = True

    async def trace(self, name: str, _info: dict[str, Any]) -> None:
        """Called by httpcore at each step (its ``trace`` extension)."""
        if name.startswith("connection."):
            self.was_kept = False


def _went_stale(error: Exception) -> bool:
    return isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)
