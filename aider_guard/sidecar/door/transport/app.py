"""The door as an ASGI application: who may enter, where to, and attended or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

from aider_guard.sidecar.door.seam import Call, Door
from aider_guard.sidecar.door.transport.answers import BUG, FORBIDDEN, problem, tell_bug
from aider_guard.sidecar.door.transport.attending import attend
from aider_guard.sidecar.door.transport.caller import Caller, GoneError
from aider_guard.sidecar.door.transport.headers import (
    RawHeaders,
    body_length,
    is_coded,
    to_upstream,
)
from aider_guard.sidecar.door.transport.passing import pass_on
from aider_guard.sidecar.door.transport.routes import Route, find_route
from aider_guard.sidecar.door.transport.upstream import Question, Upstreams

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

MAX_ATTENDED_BYTES: Final = 64 * 1024 * 1024
MAX_SHOWN_BYTES: Final = 1024 * 1024
"""A body up to this size is shown to ``Attendant.permits``; a larger one is streamed."""
_TOO_LARGE: Final = problem(
    f"a request of more than {MAX_ATTENDED_BYTES // 1024**2} MiB is not taken", 413
)
_CODED: Final = problem("a request in a content coding is not taken", 415)
"""Some versions of Ollama would read it (zstd), but nobody here could."""


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
        caller = Caller(scope, receive, send)
        try:
            await self._serve(caller, scope["raw_path"])
        except GoneError:
            pass
        except Exception as error:  # noqa: BLE001  # a bug, whatever it is, must not end the door
            tell_bug(error)
            if not caller.started:
                await caller.reply(BUG)

    async def _serve(self, caller: Caller, raw_path: bytes) -> None:
        route = find_route(raw_path, self._door.settings())
        if route is None:
            await caller.reply(FORBIDDEN)
        elif is_coded(caller.headers):
            await caller.reply(_CODED)
        elif self._door.attendant.attends(route.upstream, caller.method, route.path):
            await self._attend(caller, route)
        else:
            await self._pass_on(caller, route)

    async def _attend(self, caller: Caller, route: Route) -> None:
        if (body_length(caller.headers) or 0) > MAX_ATTENDED_BYTES:
            await caller.reply(_TOO_LARGE)
            return
        body, complete = await caller.body(MAX_ATTENDED_BYTES)
        if not complete:
            await caller.reply(_TOO_LARGE)
            return
        visit = self._door.attendant.visit(self._call(caller, route, body))
        await attend(caller, self._upstreams, _question(caller, route, body), visit)

    def _call(self, caller: Caller, route: Route, body: bytes) -> Call:
        return Call(
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

    async def _pass_on(self, caller: Caller, route: Route) -> None:
        begun, complete = await caller.body(MAX_SHOWN_BYTES)
        shown = begun if complete else None
        permits = self._door.attendant.permits
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


def _question(caller: Caller, route: Route, body: bytes | AsyncIterator[bytes]) -> Question:
    base = route.upstream.base
    query = f"?{caller.query}" if caller.query else ""
    headers: RawHeaders = to_upstream(caller.headers, base)
    return Question(caller.method, f"{base.rstrip('/')}{route.sent}{query}", headers, body)
