"""Asking Ollama for something that nobody waits for, over connections that close when it is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from aider_guard.core.readings import Unavailable
from aider_guard.ollama import client as ollama_client
from aider_guard.ollama.client import verification

# A load ends by itself after 5 minutes (OLLAMA_LOAD_TIMEOUT).
_TIMEOUT: Final = httpx.Timeout(600.0, connect=2.0)

Post = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any] | Unavailable]]
"""Sends a body to a path of Ollama's; its answer, or why there is none."""


def connection(base: str) -> httpx.AsyncClient:
    """A client for a few requests: no proxy, no redirect, no certificates where they are not needed."""
    return httpx.AsyncClient(
        trust_env=False,
        verify=verification(base),
        follow_redirects=False,
        timeout=_TIMEOUT,
    )


@dataclass(frozen=True)
class Asking:
    """One Ollama."""

    base: str
    connect: Callable[[], httpx.AsyncClient]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Post]:
        """Connections for one errand; closed afterwards, also when it is cancelled."""
        async with self.connect() as client:

            async def post(path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unavailable:
                return await _post(client, self.base, path, body)

            yield post


async def _post(
    client: httpx.AsyncClient, base: str, path: str, body: Mapping[str, Any]
) -> dict[str, Any] | Unavailable:
    try:
        response = await client.post(base + path, json=dict(body))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return Unavailable(f"Ollama cannot be reached ({str(error) or type(error).__name__})")
    if response.status_code != httpx.codes.OK:
        return Unavailable(ollama_client.refusal(response.status_code, response.content, path))
    match ollama_client.json_object(response.content):
        case {"error": str(words)}:
            return Unavailable(f"Ollama refused {path}: {ollama_client.printable(words)[:200]}")
        case dict(answer):
            return answer
    return Unavailable(f"Ollama answered {path} in a form that is not its own")
