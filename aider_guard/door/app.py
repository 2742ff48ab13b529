"""The door as an ASGI application: checks each request's token, finds its upstream, and has it handled or passed on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hmac import compare_digest
from itertools import count
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.egress import Place, parse_place
from aider_guard.door.chat_handler import ChatHandler
from aider_guard.door.client import Client, GoneError
from aider_guard.door.forwarding import BUG, FORBIDDEN, pass_on, report_bug, run_exchange
from aider_guard.door.interfaces import IncomingRequest, error_reply
from aider_guard.door.limits import DEFAULT_LIMITS, BodyMemory, DoorLimits, NoRoomError
from aider_guard.door.request_order import RequestOrder
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

_CLOUD: Final = re.compile(
    rb"cloud/(?P<place>(?:\[[0-9a-f:.]+\]|[^][/:]+):[0-9]+)(?P<path>.*)", re.DOTALL
)
"""A place that a client of a cloud would have sent its request to, and the path there (launch/environment.py)."""
_NOT_A_SEGMENT: Final = frozenset({b"", b".", b".."})
MAX_HANDLED_BYTES: Final = 64 * 1024 * 1024
MAX_SHOWN_BYTES: Final = 1024 * 1024
"""A body up to this size is shown to ``ChatHandler.refusal``; a larger one is streamed."""
_TOO_LARGE: Final = error_reply(
    f"a request of more than {MAX_HANDLED_BYTES // 1024**2} MiB is not taken", 413
)
_NO_ROOM: Final = error_reply(
    "requests that are not yet answered take all the memory for them; send this one again later",
    503,
)
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_STRANGE_METHOD: Final = error_reply("a request with this method is not taken", 405)
"""CONNECT has an answer without a body, and others are not of a model server."""
_CODED: Final = error_reply("a request in a content coding is not taken", 415)
"""Some versions of Ollama would read it (zstd), but the door could not check it."""


@dataclass(frozen=True)
class Route:
    """An upstream and a path on it: ``path`` as a server understands it, ``sent`` as it is written in the request."""

    upstream: Upstream
    path: str
    sent: str


def has_token(raw_path: bytes, settings: DoorSettings) -> bool:
    """Return whether the path of a request begins with the session's token."""
    # Compared in constant time: an answer's time tells nothing of it.
    token = raw_path.removeprefix(b"/").partition(b"/")[0]
    return compare_digest(token, settings.token.encode()) and bool(settings.token)


def find_route(raw_path: bytes, settings: DoorSettings) -> Route | None:
    """Find the upstream of a request by its path (``/TOKEN/api/chat``); None for a wrong token or any other path.

    A path with a segment that is empty, ``.`` or ``..`` leads nowhere, so none leaves an upstream's own prefix.
    """
    if not has_token(raw_path, settings):
        return None
    rest = _behind_token(raw_path)
    segments = unquote_to_bytes(rest).split(b"/")
    if not _NOT_A_SEGMENT.isdisjoint(segments[:-1]) or segments[-1] in (b".", b".."):
        return None
    first, _, behind = rest.decode("ascii").partition("/")
    if not behind:
        return None
    upstreams = {upstream.path: upstream for upstream in settings.upstreams}
    upstream, sent = upstreams.get(first), f"/{behind}"
    if upstream is None and first in ("api", "v1"):  # Ollama's own
        upstream, sent = upstreams.get(""), f"/{first}/{behind}"
    if upstream is None:
        return None
    return Route(upstream, unquote_to_bytes(sent).decode(errors="replace"), sent)


def find_cloud(raw_path: bytes, settings: DoorSettings) -> tuple[Place, str] | None:
    """Find where a request of a cloud's client (``/TOKEN/cloud/HOST:PORT/…``) would have gone, and its path there."""
    if not settings.refuse_cloud or not has_token(raw_path, settings):
        return None
    match = _CLOUD.fullmatch(_behind_token(raw_path))
    if match is None:
        return None
    try:
        place = parse_place(match["place"].decode("ascii"))
    except ValueError:
        return None
    return place, unquote_to_bytes(match["path"]).decode(errors="replace")


def _behind_token(raw_path: bytes) -> bytes:
    return raw_path.removeprefix(b"/").partition(b"/")[2]


@dataclass(frozen=True)
class Door:
    """What a door is served with: settings that may change while it serves, and the handler of its requests."""

    settings: Callable[[], DoorSettings]
    handler: ChatHandler


class DoorApp:
    """Serves the requests of one session."""

    def __init__(
        self, door: Door, upstreams: Upstreams, limits: DoorLimits = DEFAULT_LIMITS
    ) -> None:
        self._door = door
        self._upstreams = upstreams
        self._memory = BodyMemory(limits)
        self._numbers = count(1)
        self._order = RequestOrder()

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        with self._memory.share() as share:
            await self._serve(Client(scope, receive, send, share), scope["raw_path"])

    async def _serve(self, client: Client, raw_path: bytes) -> None:
        try:
            settings = self._door.settings()
            route = find_route(raw_path, settings)
            if found := find_cloud(raw_path, settings):
                await self._answer_for_cloud(client, *found)
            elif route is None:
                await client.reply(FORBIDDEN)
            elif client.method not in _METHODS:
                await client.reply(_STRANGE_METHOD)
            elif is_coded(client.headers):
                await client.reply(_CODED)
            elif self._door.handler.handles(route.upstream, client.method, route.path):
                await self._exchange(client, route)
            else:
                await self._pass_on(client, route)
        except GoneError:
            pass
        except NoRoomError:
            await client.reply(_NO_ROOM)
        except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
            report_bug(error)
            if not client.started:
                await client.reply(BUG)

    async def _answer_for_cloud(self, client: Client, place: Place, path: str) -> None:
        """Answer once the body is read: most clients take an earlier answer for a lost connection."""
        body, complete = await client.body(MAX_HANDLED_BYTES)
        reply = self._door.handler.answer_for_cloud(place, path, body if complete else b"")
        await client.reply(reply)

    async def _exchange(self, client: Client, route: Route) -> None:
        body, complete = b"", (body_length(client.headers) or 0) <= MAX_HANDLED_BYTES
        if complete:
            body, complete = await client.body(MAX_HANDLED_BYTES)
        if not complete:
            await client.reply(_TOO_LARGE)
            return
        incoming = IncomingRequest(
            next(self._numbers), route.upstream, route.path, body, client.received_at
        )
        exchange = self._door.handler.open_exchange(incoming)
        outgoing = _outgoing(client, route, body)
        await run_exchange(client, self._upstreams, outgoing, exchange, self._order)

    async def _pass_on(self, client: Client, route: Route) -> None:
        beginning, complete = await client.body(MAX_SHOWN_BYTES)
        refused = await self._door.handler.refusal(
            route.upstream, client.method, route.path, beginning if complete else None
        )
        if refused is not None:
            await client.reply(refused)
            return
        outgoing = _outgoing(client, route, beginning if complete else client.pieces(beginning))
        length = body_length(client.headers)
        if not complete and length is not None:
            framing = (b"Content-Length", str(length).encode())
            outgoing = replace(outgoing, headers=[*outgoing.headers, framing])
        await pass_on(client, self._upstreams, outgoing)


def _outgoing(client: Client, route: Route, body: bytes | AsyncIterator[bytes]) -> OutgoingRequest:
    base = route.upstream.base
    query = f"?{client.query}" if client.query else ""
    headers: RawHeaders = to_upstream(client.headers, base)
    return OutgoingRequest(client.method, f"{base.rstrip('/')}{route.sent}{query}", headers, body)
