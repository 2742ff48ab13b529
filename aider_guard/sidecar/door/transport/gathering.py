"""A connection that sends the head and the body of a request together.

httpcore writes them one after the other, and each write of anyio's takes a third of a millisecond.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore

MAX_HELD_BYTES: Final = 256 * 1024
"""More than this is not kept back: a large body is streamed."""


class GatheringBackend(httpcore.AsyncNetworkBackend):
    """Makes connections as anyio does, whose writes wait for the next read or for one another."""

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
        """A connection. Raises httpcore's errors."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return GatheringStream(stream)

    async def sleep(self, seconds: float) -> None:
        """Between the attempts of httpcore's own."""
        await self._backend.sleep(seconds)


class GatheringStream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, once all that was written is sent."""
        if self._held:
            # As httpcore itself does: a server may refuse before it has read all, and says why.
            with contextlib.suppress(httpcore.WriteError):
                await self._send(timeout)
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep it until the next read, or until it is much."""
        self._held += buffer
        if len(self._held) > MAX_HELD_BYTES:
            await self._send(timeout)

    async def _send(self, seconds: float | None) -> None:
        held, self._held = bytes(self._held), bytearray()
        await self._stream.write(held, seconds)

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The same over TLS."""
        return GatheringStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What the connection below knows."""
        return self._stream.get_extra_info(info)
