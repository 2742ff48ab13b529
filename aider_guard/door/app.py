"""The door as an ASGI application: who may enter, where to, and attended or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hmac import compare_digest
from itertools import count
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.door.chat_handler import ChatHandler
from aider_guard.door.client import Client, GoneError
from aider_guard.door.forwarding import BUG, FORBIDDEN, attend, pass_on, problem, tell_bug
from aider_guard.door.interfaces import IncomingRequest
from aider_guard.door.upstream import (
    OutgoingRequest,
    RawHeaders,
    Upstreams,
    body_length,
    is_coded,
    to_upstream,
)

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

# Where a request goes, by its path: ``/TOKEN/api/chat``. Pure.

OLLAMA_SEGMENTS: Final = ("api", "v1")
_NOT_A_SEGMENT: Final = frozenset({b"", b".", b".."})


@dataclass(frozen=True)
class Route:
    """An upstream and a path on it: ``path`` as a server understands it, ``sent`` as it is written in the request."""

    upstream: Upstream
    path: str
    sent: str


def find_route(raw_path: bytes, settings: DoorSettings) -> Route | None:
    """The upstream of a request; None for a wrong token, and for any path that is not the door's.

    A path with a segment that is empty, ``.`` or ``..`` leads nowhere, so none leaves an upstream's own prefix.
    """
    # The token comes first and is compared in constant time: an answer's time tells nothing of it.
    token, _, rest = raw_path.removeprefix(b"/").partition(b"/")
    if not compare_digest(token, settings.token.encode()) or not settings.token:
        return None
    segments = unquote_to_bytes(rest).split(b"/")
    if not _NOT_A_SEGMENT.isdisjoint(segments[:-1]) or segments[-1] in (b".", b".."):
        return None
    return _route(rest.decode("ascii"), settings)


def _route(rest: str, settings: DoorSettings) -> Route | None:
    first, _, behind = rest.partition("/")
    if not behind:
        return None
    upstreams = {upstream.path: upstream for upstream in settings.upstreams}
    upstream, sent = upstreams.get(first), f"/{behind}"
    if (upstream is None or not first) and first in OLLAMA_SEGMENTS:
        upstream, sent = upstreams.get(""), f"/{rest}"
    if upstream is None:
        return None
    return Route(upstream, unquote_to_bytes(sent).decode(errors="replace"), sent)


MAX_ATTENDED_BYTES: Final = 64 * 1024 * 1024
MAX_SHOWN_BYTES: Final = 1024 * 1024
"""A body up to this size is shown to ``ChatHandler.permits``; a larger one is streamed."""
_TOO_LARGE: Final = problem(
    f"a request of more than {MAX_ATTENDED_BYTES // 1024**2} MiB is not taken", 413
)
_CODED: Final = problem("a request in a content coding is not taken", 415)
"""Some versions of Ollama would read it (zstd), but nobody here could."""


@dataclass(frozen=True)
class Door:
    """What a door is served with: settings that may change while it serves, and the handler of its requests."""

    settings: Callable[[], DoorSettings]
    handler: ChatHandler


class DoorApp:
    """Serves the requests of one session."""

    def __init__(self, door: Door, upstreams: Upstreams) -> None:
        self._door = door
        self._upstreams = upstreams
        self._numbers = count(1)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        caller = Client(scope, receive, send)
        try:
            await self._serve(caller, scope["raw_path"])
        except GoneError:
            pass
        except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
            tell_bug(error)
            if not caller.started:
                await caller.reply(BUG)

    async def _serve(self, caller: Client, raw_path: bytes) -> None:
        route = find_route(raw_path, self._door.settings())
        if route is None:
            await caller.reply(FORBIDDEN)
        elif is_coded(caller.headers):
            await caller.reply(_CODED)
        elif self._door.handler.attends(route.upstream, caller.method, route.path):
            await self._attend(caller, route)
        else:
            await self._pass_on(caller, route)

    async def _attend(self, caller: Client, route: Route) -> None:
        if (body_length(caller.headers) or 0) > MAX_ATTENDED_BYTES:
            await caller.reply(_TOO_LARGE)
            return
        body, complete = await caller.body(MAX_ATTENDED_BYTES)
        if not complete:
            await caller.reply(_TOO_LARGE)
            return
        visit = self._door.handler.visit(self._call(caller, route, body))
        await attend(caller, self._upstreams, _question(caller, route, body), visit)

    def _call(self, caller: Client, route: Route, body: bytes) -> IncomingRequest:
        return IncomingRequest(
            number=next(self._numbers),
            upstream=route.upstream,
            method=caller.method,
            path=route.path,
            query=caller.query,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in caller.headers
            ),
            body=body,
            received_at=caller.received_at,
        )

    async def _pass_on(self, caller: Client, route: Route) -> None:
        begun, complete = await caller.body(MAX_SHOWN_BYTES)
        shown = begun if complete else None
        permits = self._door.handler.permits
        forbidden = await permits(route.upstream, caller.method, route.path, shown)
        if forbidden is not None:
            await caller.reply(forbidden)
            return
        question = _question(caller, route, begun if complete else caller.pieces(begun))
        length = body_length(caller.headers)
        if not complete and length is not None:
            framing = (b"Content-Length", str(length).encode())
            question = replace(question, headers=[*question.headers, framing])
        await pass_on(caller, self._upstreams, question)


def _question(caller: Client, route: Route, body: bytes | AsyncIterator[bytes]) -> OutgoingRequest:
    base = route.upstream.base
    query = f"?{caller.query}" if caller.query else ""
    headers: RawHeaders = to_upstream(caller.headers, base)
    return OutgoingRequest(caller.method, f"{base.rstrip('/')}{route.sent}{query}", headers, body)
