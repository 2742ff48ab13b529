"""A whole answer over HTTP, within a time and a size that hold for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable


def fetch(
    request: Callable[..., Any],
    *,
    seconds: float,
    connect_seconds: float,
    max_bytes: int,
    clock: Callable[[], float],
) -> tuple[int, bytes]:
    """Status and body of what ``request`` (an httpx client's ``stream``, called with a timeout) streams.

    The limits hold for the whole answer, also when it comes in drips. Raises TimeoutError or httpx.TimeoutException
    when it takes longer than ``seconds``, ValueError when it is larger than ``max_bytes``, and httpx's other errors.
    """
    deadline = clock() + seconds
    timeout = httpx.Timeout(seconds, connect=min(connect_seconds, seconds))
    content = bytearray()
    with request(timeout=timeout) as response:
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > max_bytes:
                raise ValueError("an endless answer")
            if clock() > deadline:
                raise TimeoutError
    return response.status_code, bytes(content)
